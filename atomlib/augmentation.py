"""Differentiable Siamese augmentation (DSA), batched over classes.

A *group* of images shares one draw: in distillation a group is a class, real and synthetic
images alike (that is what makes it Siamese); in evaluation a group is a single image, and
one strategy holds for the whole batch. With u uniform on [0, 1):

    color    x + (u - 0.5) * brightness, then (x - m) * saturation * u + m with m the mean
             over channels, then (x - m) * (u + contrast) + m with m the mean of the image
    crop     shifted by whole pixels up to int(crop * side + 0.5), zeros outside
    cutout   a square of int(cutout * side + 0.5) pixels around a random pixel set to 0
    flip     mirrored left-right with probability flip
    scale    x and y scaled by factors in [1 / scale, scale], bilinear, zeros outside
    rotate   turned by up to +-rotate degrees, bilinear, zeros outside

The four geometric ones are one affine matrix per group and one ``grid_sample`` for all.
"""

from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BeforeValidator, Field
from torch import Tensor
from torch.nn import functional as F

from atomlib.errors import SettingError, shown
from atomlib.settings import Fraction, Settings, _named

Strategy = Literal["color", "crop", "cutout", "flip", "scale", "rotate"]
STRATEGIES = get_args(Strategy)

COLOR, CROP, CUTOUT, FLIP, SCALE, ROTATE = range(6)


class DSAConfig(Settings):
    """Differentiable Siamese augmentation: which strategies, how strong (Table 1)."""

    strategies: tuple[Strategy, ...] | None = Field(
        default=None,
        strict=False,
        description="strategies drawn from; None: those that suit the data; none turns DSA off",
    )
    brightness: Annotated[float, Field(ge=0, le=100)] = Field(
        default=1.0, description="added, up to half of it"
    )
    saturation: Annotated[float, Field(ge=0, le=100)] = Field(
        default=2.0, description="largest factor"
    )
    contrast: Fraction = Field(
        default=0.5, description="smallest factor; the largest is 1 above it"
    )
    crop: Fraction = Field(default=0.125, description="largest shift, as a fraction of the side")
    cutout: Fraction = Field(
        default=0.5, description="side of the square, as a fraction of the side"
    )
    flip: Fraction = Field(default=0.5, description="probability of a mirror image")
    scale: Annotated[float, Field(ge=1, le=100)] = Field(
        default=1.2, description="largest factor; the smallest is 1 over it"
    )
    rotate: Annotated[float, Field(ge=0, le=180)] = Field(
        default=15.0, description="largest angle, degrees"
    )

    @property
    def on(self) -> bool:
        """Whether anything is augmented at all."""
        return self.strategies != ()

    def resolve(self, suited: tuple[str, ...] | None) -> Self:
        """With the strategies filled in: those ``suited`` to the data, None being all."""
        if self.strategies is not None:
            return self
        return self.but(strategies=STRATEGIES if suited is None else suited)


DSA = Annotated[DSAConfig, BeforeValidator(_named)]


class Draw(NamedTuple):
    """One draw per group. Only the parameters of the group's strategy are used."""

    strategy: Int[Tensor, "g"]
    """Index into STRATEGIES."""
    brightness: Float[Tensor, "g"]
    """Added to every pixel."""
    saturation: Float[Tensor, "g"]
    """Factor on the distance from the mean over channels."""
    contrast: Float[Tensor, "g"]
    """Factor on the distance from the mean of the image."""
    shift: Float[Tensor, "g 2"]
    """Whole pixels, (x, y)."""
    centre: Int[Tensor, "g 2"]
    """Pixel (x, y) the cut-out square is centred at."""
    flip: Bool[Tensor, "g"]
    scale: Float[Tensor, "g 2"]
    """Factors (x, y)."""
    angle: Float[Tensor, "g"]
    """Radians."""


def draw(
    groups: int,
    side: int,
    config: "DSAConfig",
    *generators: torch.Generator,
    one_strategy: bool = False,
) -> Draw:
    """Draw a strategy and its parameters for each group, on the generators' device.

    ``side`` is the images' side in pixels. With ``one_strategy`` all groups get the same strategy
    (evaluation: groups are images), otherwise each draws its own (distillation: groups are
    classes). Several generators (evaluation: one per network) draw as many groups each, the same as
    each would by itself; the groups of one follow those of the other.

    Raises SettingError where there is no strategy to draw, or no generator to draw from.
    """
    if not config.on:
        raise SettingError(
            f"strategies is (); allowed where one is drawn: one or more of {', '.join(STRATEGIES)}"
        )
    if not generators or not all(isinstance(one, torch.Generator) for one in generators):
        raise SettingError(
            f"generators is {shown(generators)}; allowed: one torch.Generator or more"
        )
    u = uniforms(groups, *generators)
    return as_draw(u, indices(config, u.device), side, config, one_strategy)


def uniforms(groups: int, *generators: torch.Generator) -> Float[Tensor, "11 generators groups"]:
    """The uniform numbers that draws are made of, each generator's the same as it would draw by
    itself."""
    device = generators[0].device
    drawn = [torch.rand(11, groups, generator=one, device=device) for one in generators]
    return torch.stack(drawn, dim=1) if len(drawn) > 1 else drawn[0][:, None]


def as_draw(
    u: Float[Tensor, "11 generators groups"],
    allowed: Int[Tensor, "strategies"],
    side: int,
    config: "DSAConfig",
    one_strategy: bool,
) -> Draw:
    """The draws that ``uniforms`` stand for, ``allowed`` being the indices of the strategies.

    Apart, so that a compiled step does this arithmetic as part of it and not in twenty kernels.
    """
    groups = u.shape[2]
    picked = u[0, :, :1].expand(-1, groups) if one_strategy else u[0]
    u, picked = u.flatten(1), picked.flatten()
    most = int(config.crop * side + 0.5)
    return Draw(
        strategy=allowed[(picked * len(allowed)).long()],
        brightness=(u[1] - 0.5) * config.brightness,
        saturation=u[2] * config.saturation,
        contrast=u[3] + config.contrast,
        shift=torch.floor(u[4:6].T * (2 * most + 1)) - most,
        centre=(u[6:8].T * side).long(),
        flip=u[8] < config.flip,
        scale=u[9:11].T * (config.scale - 1 / config.scale) + 1 / config.scale,
        # The angle may share its uniform number with the brightness: no group uses both.
        angle=(u[1] - 0.5) * 2 * torch.pi * config.rotate / 180,
    )


def indices(config: "DSAConfig", device: torch.device) -> Int[Tensor, "strategies"]:
    """Indices into STRATEGIES of those that are drawn from."""
    return _indices(STRATEGIES if config.strategies is None else config.strategies, device)


@cache
def _indices(strategies: tuple[str, ...], device: torch.device) -> Int[Tensor, "strategies"]:
    """Kept, since copying them to a GPU would wait for its queue."""
    return torch.tensor([STRATEGIES.index(name) for name in strategies], device=device)


def augment(
    images: Float[Tensor, "g m c h w"], drawn: Draw, config: "DSAConfig"
) -> Float[Tensor, "g m c h w"]:
    """Apply each group's draw to its M square images.

    Images are float32, as many groups and of the side that were drawn for. Those whose group drew
    another strategy pass each stage untouched, to the bit. First derivatives by the images are
    those of ``backward`` and ``torch.autograd.grad``: the resampling is an operator of its own, so
    that a second derivative, or ``torch.func.grad``, raises RuntimeError, as do float64, another
    number of groups and images that are not square.
    """
    groups, _, _, _, side = images.shape

    def of(*strategies: int) -> Bool[Tensor, "g 1 1 1 1"]:
        chosen = torch.zeros_like(drawn.flip)
        for strategy in strategies:
            chosen = chosen | (drawn.strategy == strategy)
        return chosen.view(groups, 1, 1, 1, 1)

    images = torch.where(of(COLOR), _color(images, drawn), images)
    geometric = (CROP, FLIP, SCALE, ROTATE)
    images = torch.where(of(*geometric), _warp(images, _matrices(drawn, side)), images)
    return torch.where(of(CUTOUT) & _square(drawn, side, config.cutout), 0.0, images)


def augment_each(
    images: Float[Tensor, "n c h w"], drawn: Draw | None, config: "DSAConfig"
) -> Float[Tensor, "n c h w"]:
    """``augment`` with a group per image; the images as they are where nothing is drawn."""
    return images if drawn is None else augment(images[:, None], drawn, config)[:, 0]


def _color(x: Float[Tensor, "g m c h w"], drawn: Draw) -> Float[Tensor, "g m c h w"]:
    brightness, saturation, contrast = (
        value.view(-1, 1, 1, 1, 1) for value in (drawn.brightness, drawn.saturation, drawn.contrast)
    )
    x = x + brightness
    mean = x.mean(dim=2, keepdim=True)
    x = (x - mean) * saturation + mean
    mean = x.mean(dim=(2, 3, 4), keepdim=True)
    return (x - mean) * contrast + mean


def _matrices(drawn: Draw, side: int) -> Float[Tensor, "g 2 3"]:
    """Where each output pixel comes from, in [-1, 1] coordinates (x, y, 1)."""
    cos, sin = drawn.angle.cos(), drawn.angle.sin()
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    mirror = torch.where(drawn.flip, -one, one)
    shift = drawn.shift * (2 / side)  # one pixel is 2 / side
    rows = {
        CROP: (one, zero, shift[:, 0], zero, one, shift[:, 1]),
        FLIP: (mirror, zero, zero, zero, one, zero),
        SCALE: (drawn.scale[:, 0], zero, zero, zero, drawn.scale[:, 1], zero),
        ROTATE: (cos, -sin, zero, sin, cos, zero),
    }
    matrix = torch.stack((one, zero, zero, zero, one, zero), dim=1)
    for strategy, entries in rows.items():
        chosen = (drawn.strategy == strategy)[:, None]
        matrix = torch.where(chosen, torch.stack(entries, dim=1), matrix)
    return matrix.view(-1, 2, 3)


def _warp(
    images: Float[Tensor, "g m c h w"], matrices: Float[Tensor, "g 2 3"]
) -> Float[Tensor, "g m c h w"]:
    groups, per_group, channels, height, width = images.shape
    # A group's images share their sampling grid, so they can travel as its channels: the grid is
    # computed once per group, not once per image.
    flat = images.reshape(groups, per_group * channels, height, width)
    grid = F.affine_grid(matrices, (groups, 1, height, width), align_corners=False)
    return _resample(flat.contiguous(), grid).view_as(images)


# An operator of its own, which torch.compile calls and does not look into: fused with what
# comes before and after, the gathers of grid_sample take five times as long on a CPU.
@torch.library.custom_op("atomlib::resample", mutates_args=())
def _resample(images: Tensor, grid: Tensor) -> Tensor:
    """``images`` [g, c, h, w] read at ``grid`` [g, h, w, 2]: bilinear, zeros outside."""
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


@torch.library.custom_op("atomlib::resample_backward", mutates_args=())
def _resample_backward(gradient: Tensor, images: Tensor, grid: Tensor) -> Tensor:
    # 0, 0: bilinear, zeros outside. The grid comes from the draw and asks for no gradient.
    return torch.ops.aten.grid_sampler_2d_backward(
        gradient.contiguous(), images, grid, 0, 0, False, [True, False]
    )[0]


@_resample.register_fake
def _(images: Tensor, grid: Tensor) -> Tensor:
    return torch.empty_like(images)


@_resample_backward.register_fake
def _(gradient: Tensor, images: Tensor, grid: Tensor) -> Tensor:
    return torch.empty_like(images)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return _resample_backward(gradient, *ctx.saved_tensors), None


_resample.register_autograd(_gradients, setup_context=_keep)


def _square(drawn: Draw, side: int, ratio: float) -> Bool[Tensor, "g 1 1 h w"]:
    size = int(ratio * side + 0.5)
    pixels = torch.arange(side, device=drawn.centre.device)
    start = drawn.centre - size // 2
    inside = (pixels >= start[..., None]) & (pixels < start[..., None] + size)  # [g, 2, side]
    columns, rows = inside.unbind(dim=1)
    return (rows[:, :, None] & columns[:, None, :])[:, None, None]
