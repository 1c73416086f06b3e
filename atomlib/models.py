"""The networks. ``build_model`` is how one is asked for.

The ConvNet's depth, width, activation, normalisation and pooling are free: its settings
are the search space of the supplement's section 1.4 too. The other networks, which only
evaluation uses, are in ``architectures``.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from atomlib.architectures import VGG11, AlexNet, Dropout, ResNet18, ViT
from atomlib.errors import SettingError, check_choice, shown
from atomlib.norms import GROUPS, NORMS, make_norm

MAX_DEPTH, MAX_WIDTH = 64, 2**14
"""Of the ConvNet: one block of that width has 10 GB of weights."""

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "relu": nn.ReLU,
    "leakyrelu": lambda: nn.LeakyReLU(0.01),
}
POOLINGS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "max": lambda: nn.MaxPool2d(2),
    "average": lambda: nn.AvgPool2d(2),
}


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
    model = MODELS[name](in_channels, image_size, num_classes, **settings)
    reset_parameters(model, generator)
    return model


class ConvNet(nn.Module):
    """depth x [3x3 convolution, norm, activation, pooling] and a linear classifier.

    With width 128, depth 3, InstanceNorm, ReLU and average pooling it is the encoder of
    the paper (Table 1): 320,010 parameters for 10 classes of 32 x 32 colour images.
    """

    SETTINGS = ("depth", "width", "norm", "activation", "pooling")

    def __init__(
        self,
        in_channels: int,
        image_size: int,
        num_classes: int,
        *,
        depth: int = 3,
        width: int = 128,
        norm: str = "instance",
        activation: str = "relu",
        pooling: str = "average",
    ):
        super().__init__()
        check_choice("norm", norm, NORMS)
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("pooling", pooling, POOLINGS)
        for setting, value, most in (("depth", depth, MAX_DEPTH), ("width", width, MAX_WIDTH)):
            if not 1 <= value <= most:
                raise SettingError(f"{setting} is {shown(value)}; allowed: 1 to {most}")
        if norm == "group" and width % GROUPS:
            raise SettingError(f"width is {width}; allowed with norm 'group': multiples of 4")
        if pooling != "none" and 2**depth > image_size:
            raise SettingError(
                f"depth is {depth}; allowed: at most {int(math.log2(image_size))} for images of "
                f"{image_size} pixels with {pooling} pooling"
            )
        self.blocks = nn.ModuleList()
        side, channels = image_size, in_channels
        for _ in range(depth):
            self.blocks.append(
                nn.ModuleDict(
                    {
                        "conv": nn.Conv2d(channels, width, 3, padding=1),
                        "norm": make_norm(norm, width, side),
                        "activation": ACTIVATIONS[activation](),
                        "pooling": POOLINGS[pooling](),
                    }
                )
            )
            channels = width
            side = side if pooling == "none" else side // 2
        self.classifier = nn.Linear(width * side * side, num_classes)

    def features(
        self, images: Float[Tensor, "n c h w"]
    ) -> tuple[list[Float[Tensor, "n width _ _"]], Float[Tensor, "n f"]]:
        """Each block's maps after activation and before pooling, and the flattened output."""
        maps, x = [], images
        for block in self.blocks:
            x = block["activation"](block["norm"](block["conv"](x)))
            maps.append(x)
            x = block["pooling"](x)
        return maps, x.flatten(1)

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Class scores."""
        return self.classifier(self.features(images)[1])


MODELS: dict[str, type[nn.Module]] = {
    "convnet": ConvNet,
    "alexnet": AlexNet,
    "vgg11": VGG11,
    "resnet18": ResNet18,
    "vit": ViT,
}


@torch.no_grad()
def reset_parameters(model: nn.Module, generator: torch.Generator | None) -> None:
    """Draw the whole network anew, in place, from PyTorch's default distributions.

    Convolutions and linear layers: weight and bias uniform on +-1/sqrt(fan_in) (Table 1,
    "Conv Layer Weights"); norms: scale 1, shift 0, running statistics cleared. Attention:
    joint weight Xavier-uniform, biases 0; class token 0, positional embedding normal with
    deviation 0.02 (torchvision's). Dropout starts a new stream. In place, so that a compiled
    step keeps its tensors. Everything comes from ``generator``, or from PyTorch's global one
    where it is None. Raises TypeError for a layer it does not know, rather than leaving it as
    it was.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
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
            for name, parameter in module.named_parameters(recurse=False):
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
