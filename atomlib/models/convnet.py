"""The ConvNet of the paper, with its normalisations, activations and poolings.

Its settings (depth, width, norm, activation, pooling) span the search space of the supplement's
section 1.4 too.
"""

import math
from collections.abc import Callable
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from atomlib.errors import SettingError, check_choice, shown

Norm = Literal["none", "batch", "layer", "instance", "group"]
NORMS = get_args(Norm)

GROUPS = 4
"""Groups of norm "group" (docs/facts.md, 'Networks')."""


class GroupNorm(nn.GroupNorm):
    """torch's, whose output has the number type of its input under CUDA's autocast too.

    There it is computed in float32, as it should be, and given out in float32, so that all that
    follows would move twice the bytes. Autocast does not see it in networks side by side (vmap).
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() if x.is_cuda else x).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """torch's, likewise."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() if x.is_cuda else x).to(x.dtype)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, likewise: side by side it takes bfloat16 with statistics in float32 for an error."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() if x.is_cuda else x).to(x.dtype)


def make_norm(name: str, channels: int, side: int | None = None) -> nn.Module:
    """One of NORMS for maps of ``channels`` channels; only "layer" needs to know their ``side``."""
    if name == "batch":
        return BatchNorm2d(channels)
    if name == "layer":
        return LayerNorm([channels, side, side])
    if name == "instance":
        # As in the code of the DC family: one group per channel, with a learned scale and shift.
        return GroupNorm(channels, channels)
    if name == "group":
        return GroupNorm(GROUPS, channels)
    return nn.Identity()


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
            if type(value) is not int or not 1 <= value <= most:
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


def default_depth(image_size: int) -> int:
    """3 blocks at 32 pixels and 4 at 64 (supplement, 1.3): the last map is 4 pixels wide.

    Never fewer than 2, or attention would have no layer before the last.
    """
    return max(2, round(math.log2(image_size / 4)))
