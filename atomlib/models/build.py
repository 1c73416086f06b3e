"""Networks by name: building one, drawing its weights anew, counting its operations and memory."""

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import torch
from pydantic import BeforeValidator, Field, model_validator
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError, check_choice, check_kind, shown
from atomlib.models.architectures import VGG11, AlexNet, Dropout, ResNet18, ViT
from atomlib.models.convnet import (
    MAX_DEPTH,
    MAX_WIDTH,
    ConvNet,
    Norm,
)
from atomlib.recipes import RECIPES
from atomlib.runtime.device import memory
from atomlib.runtime.torch_state import name_account
from atomlib.settings import MOST, Settings

# Written out, so that editors and type checkers know them.
Model = Literal["convnet", "alexnet", "vgg11", "resnet18", "vit"]
Activation = Literal["sigmoid", "relu", "leakyrelu"]
Pooling = Literal["none", "max", "average"]
Recipe = Literal["text", "code"]

MODELS: dict[str, type[nn.Module]] = {
    "convnet": ConvNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
    "vit": ViT,
}
"""Every network, by the name that ``build_model`` takes."""


def _word(value: object) -> object:
    """YAML reads on and off as true and false."""
    return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


class NetworkConfig(Settings):
    """Which network, for the settings that distillation and evaluation share."""

    model: Model = Field(default="convnet", description="the network")
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | None = Field(
        default=None, description="blocks; None is a halving each down to 4 pixels, 2 at the least"
    )
    width: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = Field(
        default=128, description="channels of each block"
    )
    norm: Norm = Field(default="instance", description="normalisation after each convolution")
    activation: Activation = Field(default="relu", description="after each norm")
    pooling: Pooling = Field(default="average", description="2 x 2, after each block")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="of convolutions; auto is bfloat16 where the processor has it"
    )
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(_word)] = Field(
        default="auto",
        description="torch.compile the step; auto is on where the run is long enough",
    )
    graphs: Annotated[Literal["auto", "on", "off"], BeforeValidator(_word)] = Field(
        default="auto",
        description="replay compiled steps as CUDA graphs, on a GPU; auto is on where a trial on "
        "this GPU gave the same numbers, sooner",
    )

    follows_recipe: ClassVar[bool] = True
    """Whether a recipe fills in settings; without, it is only named."""

    recipe: Recipe = Field(
        default="text", description="whose settings fill in what is not given (atomlib.recipes)"
    )

    @model_validator(mode="before")
    @classmethod
    def _by_recipe(cls, given: Any) -> Any:
        """Settings that are not given, as the recipe has them."""
        name = given.get("recipe") if isinstance(given, dict) else None
        if not cls.follows_recipe or not isinstance(name, str) or name not in RECIPES:
            return given
        filled = {key: value for key, value in RECIPES[name].items() if key in cls.model_fields}
        return filled | given

    def but(self, **changes: Any) -> Self:
        """As for all settings; a recipe is given when the settings are made."""
        if changes.get("recipe", self.recipe) != self.recipe:
            raise SettingError(
                f"recipe is {changes['recipe']!r}; allowed here: {self.recipe!r}, with which the "
                "settings were made"
            )
        return super().but(**changes)

    def network_settings(self) -> dict:
        """The keyword arguments of ``build_model`` that come from the config."""
        return {key: getattr(self, key) for key in MODELS[self.model].SETTINGS}


def build_model(
    name: str,
    *,
    in_channels: int,
    image_size: int,
    num_classes: int,
    generator: torch.Generator | None = None,
    **settings: Any,
) -> nn.Module:
    """A network by name, for square images of ``image_size`` pixels.

    ``settings`` go to the network: for "convnet" they are ``depth``, ``width``, ``norm``,
    ``activation`` and ``pooling``, for "vgg11" and "resnet18" ``norm``. With a ``generator``
    its weights are drawn from it, otherwise from PyTorch's global one. Raises SettingError for
    an unknown name or setting, or for a network that the images do not fit.
    """
    check_choice("model", name, MODELS)
    allowed = MODELS[name].SETTINGS
    for key in settings:
        check_choice(f"setting of model {name!r}", key, allowed)
    for key, value in {
        "in_channels": in_channels, "image_size": image_size, "num_classes": num_classes
    }.items():  # fmt: skip
        if type(value) is not int or not 1 <= value <= MOST:
            raise SettingError(f"{key} is {shown(value)}; allowed: 1 to {MOST:,}")
    check_kind("generator", generator, torch.Generator | None, "a torch.Generator, or None")
    model = undrawn(lambda: MODELS[name](in_channels, image_size, num_classes, **settings))
    reset_parameters(model, generator)
    return model


Network = TypeVar("Network", bound=nn.Module)


def undrawn(make: Callable[[], Network]) -> Network:
    """The network that ``make`` builds, on torch's default device, with whatever the memory held
    for weights, buffers and all: ``reset_parameters`` is to follow.

    PyTorch's layers draw weights as they are built, from its global generator, which is the
    caller's; on the meta device they draw nothing.
    """
    here = torch.get_default_device()
    with torch.device("meta"):
        network = make()
    return network if here.type == "meta" else network.to_empty(device=here)


@torch.no_grad()
def reset_parameters(model: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the whole network anew, in place, from PyTorch's default distributions.

    Convolutions and linear layers: weight and bias uniform on +-1/sqrt(fan_in) (Table 1,
    "Conv Layer Weights"); norms: scale 1, shift 0, running statistics cleared. Attention:
    joint weight Xavier-uniform, biases 0; class token 0, positional embedding normal with
    deviation 0.02 (torchvision's). Dropout starts a new stream. In place, so that a compiled
    step keeps its tensors. Everything comes from ``generator``, or from PyTorch's global one
    where it is None. Raises TypeError for a layer with weights or buffers that it does not know,
    rather than leaving them as they were.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = _bound(module)
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter.uniform_(-bound, bound, generator=generator)
            if isinstance(module, NonDynamicallyQuantizableLinear):
                module.bias.zero_()  # PyTorch's class of the output layer of attention
        elif isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d):
            module.reset_parameters()
        elif isinstance(module, Dropout):
            module.reseed(generator)
        else:
            # By name: torchvision, whose classes these are, is slow to import.
            own = *module.named_parameters(recurse=False), *module.named_buffers(recurse=False)
            for name, parameter in own:
                match type(module).__name__, name:
                    case "MultiheadAttention", "in_proj_weight":
                        nn.init.xavier_uniform_(parameter, generator=generator)
                    case "MultiheadAttention", "in_proj_bias":
                        parameter.zero_()
                    case "VisionTransformer", "class_token":
                        parameter.zero_()
                    case "Encoder", "pos_embedding":
                        parameter.normal_(std=0.02, generator=generator)
                    case kind, _:
                        raise TypeError(f"reset_parameters does not know how to draw a {kind}")


class FlatWeights:
    """The weights of a network whose norms stay as they are, drawn anew in two kernels.

    They lie in one tensor, and are the same numbers as those of ``reset_parameters``, in place too.
    """

    def __init__(self, network: nn.Module):
        layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        weights = [(p, _bound(m)) for m in layers for p in (m.weight, m.bias) if p is not None]
        device = weights[0][0].device
        bounds = [torch.full((w.numel(),), b, device=device) for w, b in weights]
        self.low, self.width = -torch.cat(bounds), 2 * torch.cat(bounds)
        self.flat = torch.cat([weight.detach().flatten() for weight, _ in weights])
        parts = self.flat.split([weight.numel() for weight, _ in weights])
        for (weight, _), part in zip(weights, parts, strict=True):
            weight.data = part.view_as(weight)

    @torch.no_grad()
    def redraw(self, generator: torch.Generator) -> None:
        drawn = torch.rand(self.flat.shape, generator=generator, device=self.flat.device)
        torch.addcmul(self.low, drawn, self.width, out=self.flat)


def _bound(layer: nn.Conv2d | nn.Linear) -> float:
    """PyTorch's: weight and bias are uniform on +- this."""
    return 1 / math.sqrt(layer.weight[0].numel())


def network_for(
    config: NetworkConfig, data: ImageData, generator: torch.Generator | None = None
) -> torch.nn.Module:
    """The network that a config asks for, in the shape that ``data`` needs."""
    return build_model(
        config.model,
        in_channels=data.channels,
        image_size=data.image_size,
        num_classes=data.num_classes,
        generator=generator,
        **config.network_settings(),
    )


def operations(config: NetworkConfig, data: ImageData) -> int:
    """Floating point operations of one image's forward, counted without computing it."""
    name_account()
    from torch.utils.flop_counter import FlopCounterMode  # slow to import: it looks for a GPU

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network_for(config, data)(torch.empty(1, data.channels, data.image_size, data.image_size))
    return counter.get_total_flops()


def check_room(
    config: NetworkConfig, data: ImageData, device: torch.device, images: int, networks: int = 0
) -> None:
    """Raise SettingError for a network that cannot learn from ``images`` images per step in the
    memory of ``device``.

    ``networks`` are trained side by side; 0 is a network whose weights stay as they are.
    What is counted is less than any way to run the step takes: the weights, with gradient and
    momentum where they are trained, and a quarter of what the layers give out.
    """
    with torch.device("meta"):
        weights = sum(weight.numel() for weight in network_for(config, data).parameters())
    number = 4 if config.precision == "float32" else 2
    needed = 4 * weights * max(1, 3 * networks)
    needed += number * given_out(config, data) * images * max(1, networks) // 4
    room = memory(device)
    if needed > room:
        settings = ", ".join(f"{key} {value}" for key, value in config.network_settings().items())
        raise SettingError(
            f"model is {config.model!r}{settings and f' ({settings})'}, which takes more than "
            f"{needed / 1e9:,.0f} GB for a step of {images} images by {max(1, networks)} network; "
            f"allowed: what the {room / 1e9:,.0f} GB of {device} hold, with a smaller width, depth "
            "or batch, or fewer networks together"
        )


def given_out(config: NetworkConfig, data: ImageData) -> int:
    """How many numbers all layers of a network give out for one image."""
    return sum(outputs(config, data))


FILLS = 1.25e11
"""Operations of a step that keep a large GPU busy for as long as it takes to ask for them, about a
millisecond. By count, not measured: a step is bound by the maps it moves, which for a ConvNet's
8e10 operations (256 images of 32 x 32) are 3.4 GB, or a millisecond at 3.35 TB/s. Networks beyond
that are slower together than in turn: stacked, their convolutions move a third more."""


def at_once(config: NetworkConfig, data: ImageData, images: int, tested: int, room: float) -> int:
    """How many networks train together on a GPU: as keep it busy, and as fit ``room`` bytes.

    Each takes ``images`` per step, and is tested on ``tested`` at a time.
    """
    layers = outputs(config, data)
    # In float32 at most: what layers give out is kept for the gradient, and as much is its
    # gradient; in tests nothing is kept but what a layer takes, gives out and works with.
    held = 4 * max(2 * images * sum(layers), 3 * tested * max(layers))
    return max(1, int(min(FILLS / (3 * images * operations(config, data)), room / held)))


def outputs(config: NetworkConfig, data: ImageData) -> list[int]:
    """How many numbers each layer of a network gives out for one image."""
    sizes = []

    def count(_: torch.nn.Module, __: tuple, output: torch.Tensor | tuple) -> None:
        if isinstance(output, torch.Tensor):
            sizes.append(output.numel())

    with torch.device("meta"):
        network = network_for(config, data).eval()
        for module in network.modules():
            if not any(module.children()):
                module.register_forward_hook(count)
        network(torch.empty(1, data.channels, data.image_size, data.image_size))
    return sizes
