"""Every setting, its default and its range. Defaults are the paper's (supplement, Table 1).

A setting that is None takes a value that depends on the data or on another setting;
``DistillConfig.resolve`` fills it in, and what is stored and reported is the filled-in form.
"""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from atomlib.dsa import STRATEGIES
from atomlib.errors import SettingError, did_you_mean, shown
from atomlib.losses import Matching
from atomlib.models import ACTIVATIONS, MAX_DEPTH, MAX_WIDTH, MODELS, NORMS, POOLINGS

METHODS = ("random", "herding", "kcenter", "dm", "datadam", "atom")
"""The first three choose real images; the others differ only in the switches of the loss."""

TERMS = {"dm": "o", "datadam": "so", "atom": "sco"}
"""The loss terms of each method that learns its images: s(patial), c(hannel), o(utput)."""

BY_FEATURES = ("herding", "kcenter")
"""Methods that choose by the features of a network trained on the whole set."""

FEATURE_EPOCHS = 30

MOST = 10**6
"""Of anything that is counted: whoever asks for more has mistyped, and would wait for years."""

Positive = Annotated[int, Field(ge=1, le=MOST)]
Fraction = Annotated[float, Field(ge=0, le=1)]

LARGEST = 1e30
"""Of a rate or weight: tensors are float32, which ends at 3.4e38."""

Weight = Annotated[float, Field(ge=0, le=LARGEST)]
Rate = Annotated[float, Field(gt=0, le=LARGEST)]


class Settings(BaseModel):
    """Frozen, typed settings; anything wrong is one SettingError sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingError(_explain(error, type(self))) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``model_dump_json`` wrote. Raises SettingError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SettingError(_explain(error, cls)) from None

    def but(self, **changes) -> Self:
        """A copy with some settings changed, checked like new ones."""
        return type(self)(**{**self.model_dump(), **changes})


class DSAConfig(Settings):
    """Differentiable Siamese augmentation: which strategies, how strong (Table 1)."""

    strategies: tuple[Literal[STRATEGIES], ...] = Field(
        STRATEGIES, strict=False, description="strategies drawn from; none turns DSA off"
    )
    brightness: Annotated[float, Field(ge=0, le=100)] = Field(
        1.0, description="added, up to half of it"
    )
    saturation: Annotated[float, Field(ge=0, le=100)] = Field(2.0, description="largest factor")
    contrast: Fraction = Field(0.5, description="smallest factor; the largest is 1 above it")
    crop: Fraction = Field(0.125, description="largest shift, as a fraction of the side")
    cutout: Fraction = Field(0.5, description="side of the square, as a fraction of the side")
    flip: Fraction = Field(0.5, description="probability of a mirror image")
    scale: Annotated[float, Field(ge=1, le=100)] = Field(
        1.2, description="largest factor; the smallest is 1 over it"
    )
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(
        15.0, description="largest angle, degrees"
    )


def _named(values: object) -> object:
    """Nested settings are handed on by name, before pydantic looks at them."""
    if isinstance(values, dict) and not all(isinstance(name, str) for name in values):
        raise SettingError(f"{shown(values)} is not what it should be; allowed: settings by name")
    return values


DSA = Annotated[DSAConfig, BeforeValidator(_named)]


class NetworkConfig(Settings):
    """Which network, for the settings that distillation and evaluation share."""

    model: Literal[tuple(MODELS)] = Field("convnet", description="the network")
    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] | None = Field(
        None, description="blocks; None is a halving each down to 4 pixels, 2 at the least"
    )
    width: Annotated[int, Field(ge=1, le=MAX_WIDTH)] = Field(
        128, description="channels of each block"
    )
    norm: Literal[NORMS] = Field("instance", description="normalisation after each convolution")
    activation: Literal[tuple(ACTIVATIONS)] = Field("relu", description="after each norm")
    pooling: Literal[tuple(POOLINGS)] = Field("average", description="2 x 2, after each block")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of convolutions; auto is bfloat16 where the processor has it"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile the step; auto is on where the run is long enough"
    )
    graphs: bool = Field(False, description="replay compiled steps as CUDA graphs, on a GPU")

    def network_settings(self) -> dict:
        """The keyword arguments of ``build_model`` that come from the config."""
        return {key: getattr(self, key) for key in MODELS[self.model].SETTINGS}


class DistillConfig(NetworkConfig):
    """How to make a distilled set. Defaults: Table 1 of the supplement."""

    method: Literal[METHODS] = Field("atom", description="which terms the loss has")
    ipc: Positive = Field(1, description="synthetic images a class")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="of everything drawn")
    variant: Annotated[str, Field(pattern=r"^[a-z0-9.+]*$", max_length=100)] = Field(
        "", description="a name, for tables and files, of settings that stray from the method's"
    )
    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        8000, description="steps on the images"
    )
    real_batch: Positive = Field(
        128, description="real images a class and iteration; capped at the smallest class"
    )
    feature_epochs: Positive = Field(
        FEATURE_EPOCHS, description="of the network on the whole set whose features coresets go by"
    )
    init: Literal["real", "noise"] = Field("real", description="what the images start from")
    zca: bool | None = Field(None, description="ZCA whitening; None is on for CIFAR alone")

    spatial: bool | None = Field(None, description="spatial attention; None as the method has it")
    channel: bool | None = Field(None, description="channel attention; None as the method has it")
    output: bool | None = Field(None, description="output term; None as the method has it")
    spatial_power: Annotated[float, Field(ge=1, le=16)] = Field(4.0, description="p_s")
    channel_power: Annotated[float, Field(ge=1, le=16)] = Field(4.0, description="p_c")
    attention_norm: Literal["l2", "none"] = Field("l2", description="of each attention map")
    layers: tuple[Positive, ...] | None = Field(
        None, strict=False, description="1-based blocks with attention; None is all but the last"
    )
    task_balance: Weight | None = Field(
        None, description="lambda; None is 0.01 up to 32 pixels, 0.02 above, 1 for DM"
    )
    loss_scale: Rate = Field(1.0, description="factor on the whole loss")

    image_lr: Rate | None = Field(
        None, description="SGD on images; None is 1 up to IPC 50, 10 above"
    )
    image_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.5, description="SGD on images")
    image_weight_decay: Weight = Field(0.0, description="SGD on images")
    dsa: DSA = DSAConfig()

    def resolve(self, data) -> Self:
        """The same config with every None filled in for ``data`` and checked against it.

        Only ``layers`` may stay None, which names the same blocks at every depth: all but
        the last.

        Raises SettingError where the data cannot serve: IPC above the smallest class, a
        layer the network does not have, no loss term at all.
        """
        if self.model != "convnet":
            raise SettingError(
                f"model is {self.model!r}; allowed for distillation: 'convnet'; other networks "
                "serve evaluation"
            )
        smallest, name = min((n, c) for c, n in data.class_counts.items())
        if self.ipc > smallest:
            raise SettingError(
                f"ipc is {self.ipc}; allowed: 1 to {smallest}, the images of the smallest class "
                f"({name!r}) of {data.name}"
            )
        terms, chosen = TERMS.get(self.method, ""), self.method not in TERMS
        spatial = "s" in terms if self.spatial is None else self.spatial
        channel = "c" in terms if self.channel is None else self.channel
        output = "o" in terms if self.output is None else self.output
        if chosen:
            if spatial or channel or output:
                raise SettingError(
                    f"method is {self.method!r}; allowed with it: no loss term switched on"
                )
        elif not (spatial or channel or output):
            raise SettingError(
                "spatial, channel and output are all off; allowed: at least one loss term on"
            )
        depth = default_depth(data.image_size) if self.depth is None else self.depth
        if self.layers is not None:
            if (spatial or channel) and not self.layers:
                raise SettingError("layers is empty; allowed with attention on: at least one block")
            for layer in self.layers:
                if layer > depth or self.layers.count(layer) > 1:
                    raise SettingError(
                        f"layers has {layer} in {shown(self.layers)}; allowed: 1 to {depth}, once "
                        "each"
                    )
        elif (spatial or channel) and depth == 1:
            raise SettingError(
                "depth is 1, which leaves attention no layer before the last; allowed: 2 or more, "
                "or layers=(1,)"
            )
        balance = self.task_balance
        if balance is None:
            # By method, not by switch: an ablation's output term weighs what it weighs in ATOM.
            attends = spatial or channel or self.method in ("datadam", "atom")
            balance = (0.01 if data.image_size <= 32 else 0.02) if attends else 1.0
        return self.but(
            iterations=0 if chosen else self.iterations,
            # Kept where it matters alone, so that it tells no other two sets apart.
            feature_epochs=self.feature_epochs if self.method in BY_FEATURES else FEATURE_EPOCHS,
            real_batch=min(self.real_batch, smallest),
            depth=depth,
            zca=data.name.startswith("cifar") if self.zca is None else self.zca,
            spatial=spatial,
            channel=channel,
            output=output,
            task_balance=balance,
            image_lr=(1.0 if self.ipc <= 50 else 10.0) if self.image_lr is None else self.image_lr,
        )

    def matching(self) -> Matching:
        """The loss settings of a resolved config."""
        return Matching(
            spatial=self.spatial,
            channel=self.channel,
            output=self.output,
            spatial_power=self.spatial_power,
            channel_power=self.channel_power,
            task_balance=self.task_balance,
            scale=self.loss_scale,
            normalize=self.attention_norm == "l2",
            layers=self.layers,
        )


class EvalConfig(NetworkConfig):
    """How to train networks on a distilled set and test them (facts: DC family's protocol)."""

    networks: Positive = Field(5, description="networks trained from scratch, one seed each")
    together: Positive | None = Field(
        None,
        description="networks trained side by side; None is all of them on a GPU, one after "
        "another on a CPU",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="of everything drawn")
    epochs: Positive = Field(1000, description="E; E + 1 passes are made over the set")
    batch_size: Positive = Field(256, description="synthetic images a step")
    lr: Rate = Field(0.01, description="SGD on weights")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="SGD on weights")
    weight_decay: Weight = Field(5e-4, description="SGD on weights")
    schedule: Literal["halfway", "step", "constant"] = Field(
        "halfway", description="x0.1 once, halfway (DC family), or StepLR (Table 1)"
    )
    step_size: Positive = Field(15, description="epochs between decays of schedule 'step'")
    step_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="factor of schedule 'step'"
    )
    dsa: DSA = DSAConfig()

    def resolve(self, image_size: int) -> Self:
        """The same config with every None filled in.

        Only ``together`` may stay None: like ``precision`` and ``compile`` it says how arithmetic
        runs, which is left to the machine that it runs on.
        """
        return self.but(depth=default_depth(image_size) if self.depth is None else self.depth)


def default_depth(image_size: int) -> int:
    """3 blocks at 32 pixels and 4 at 64 (supplement, 1.3): the last map is 4 pixels wide.

    Never fewer than 2, or attention would have no layer before the last.
    """
    return max(2, round(math.log2(image_size / 4)))


def _explain(error: ValidationError, settings: type[BaseModel]) -> str:
    """The first complaint as one sentence."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    value, name = first.get("input"), ".".join(where)
    if isinstance(first.get("ctx", {}).get("error"), SettingError):
        # Settings within settings have said it already.
        return f"{name}: {first['ctx']['error']}".removeprefix(": ")
    if first["type"] == "extra_forbidden":
        allowed = list(settings.model_fields)
        near = did_you_mean(name, allowed)
        return f"unknown setting {shown(name)}{near}; allowed: {', '.join(allowed)}"
    near = ""
    if first["type"] == "literal_error":
        near = did_you_mean(value, first["ctx"]["expected"].replace(" or ", ", ").split(", "))
        near = near.replace("\"'", "'").replace("'\"", "'")
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Input should ")
    wanted = wanted.replace("a valid integer", "an integer").replace("a valid ", "a ")
    return f"{name or 'input'} is {shown(value)}{near}; allowed: {wanted}"
