"""Every setting, its default and its range; defaults are the paper's (supplement, Table 1).

A setting that is None takes a value that depends on the data or on another setting;
``DistillConfig.resolve`` fills it in, and what is stored and reported is the filled-in form.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from atomlib.augmentation import DSA, DSAConfig
from atomlib.errors import SettingError, shown
from atomlib.losses import Matching
from atomlib.models.build import NetworkConfig
from atomlib.models.convnet import default_depth
from atomlib.settings import MOST, Positive, Rate, Weight

METHODS = ("random", "herding", "kcenter", "dm", "datadam", "atom")
"""The first three choose real images; the others differ only in the switches of the loss."""

TERMS = {"dm": "o", "datadam": "so", "atom": "sco"}
"""The loss terms of each method that learns its images: s(patial), c(hannel), o(utput)."""

BY_FEATURES = ("herding", "kcenter")
"""Methods that choose by the features of a network trained on the full data."""

FEATURE_EPOCHS = 30


class DistillConfig(NetworkConfig):
    """How to make a distilled set. Defaults: Table 1 of the supplement."""

    method: Literal[METHODS] = Field("atom", description="which terms the loss has")
    ipc: Positive = Field(1, description="synthetic images per class")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="of everything drawn")
    variant: Annotated[str, Field(pattern=r"^[a-z0-9.+]*$", max_length=100)] = Field(
        "", description="a name, for tables and files, of settings that stray from the method's"
    )
    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        8000, description="steps on the images"
    )
    real_batch: Positive = Field(
        128, description="real images per class and iteration; capped at the smallest class"
    )
    feature_epochs: Positive = Field(
        FEATURE_EPOCHS, description="of the network on the full data, for Herding and K-Center"
    )
    init: Literal["real", "noise"] = Field("real", description="what the images start from")
    zca: bool | None = Field(None, description="ZCA whitening; None is on for CIFAR only")

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
            # Kept only where it matters, so that it distinguishes no other sets.
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
