"""Spatial and channel attention maps of feature maps: the two that ATOM matches.

For features ``f`` of one image, C channels of H x W positions:

    spatial:  a_s[h, w] = sum_c     |f[c, h, w]|^p_s,   then a_s / ||a_s||_2
    channel:  a_c[c]    = sum_{h,w} |f[c, h, w]|^p_c,   then a_c / ||a_c||_2

The spatial map is DataDAM's; the channel map is what ATOM adds (docs/design.md, 'The method').

Range, in float32: a normalised map and its gradient are the definition's where the largest |f|
of an image lies between 0.01 and 4000, for powers up to 4, and between 1e-6 and 1e30 above,
where each image is scaled first. Outside, a map fades to zero. A map that is not normalised is
infinite where its powers are, and the run ends as DivergedError.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# Keeps an all-zero map (a dead layer, a black image) at zero instead of NaN. Maps of
# trained-size networks have norms far above it.
TINY = 1e-12


def spatial_attention(
    features: Float[Tensor, "n c h w"], power: float, *, normalize: bool = True
) -> Float[Tensor, "n h*w"]:
    """Spatial attention: powers summed over channels, one map per image.

    Sums and powers are taken in float32 at least, whatever the features' type.
    ``normalize`` divides each map by its L2 norm (Table 1, "Normalization Type").
    """
    maps = _power(features, power, normalize).sum(dim=1).flatten(1)
    return _unit(maps) if normalize else maps


def channel_attention(
    features: Float[Tensor, "n c h w"], power: float, *, normalize: bool = True
) -> Float[Tensor, "n c"]:
    """Channel attention: powers summed over positions, one C-vector per image.

    Sums and powers are taken in float32 at least, whatever the features' type.
    ``normalize`` divides each vector by its L2 norm (Table 1, "Normalization Type").
    """
    maps = _power(features, power, normalize).sum(dim=(2, 3))
    return _unit(maps) if normalize else maps


def _power(features: Tensor, power: float, normalize: bool) -> Tensor:
    """|f|^p in float32 (float64 stays): bfloat16 has 8 bits, a fourth power eats them.

    Where the maps will be normalised, which takes it out again, and the power is above 4, ``f``
    is divided by a scale of its image.
    """
    if features.dtype.itemsize < 4:
        features = features.float()
    if normalize and power > 4:
        features = features / _scale(features.detach())
    # Even powers need no absolute value, whose gradient at zero is a needless branch;
    # integer exponents become a few multiplications, several times faster than pow().
    if power == 1:
        return features.abs()
    if power == 2:
        return features.square()
    if power == 4:
        return features.square().square()
    if power == 8:
        return features.square().square().square()
    return features.abs().pow(power)


def _scale(features: Tensor) -> Tensor:
    """The largest |f| of each image [n, 1, 1, 1], down to a power of 2: it rounds no bit away.

    A sixteenth power, squared for the norm, leaves float32 at |f| = 16 and at 0.06.
    """
    largest = features.abs().amax(dim=(1, 2, 3), keepdim=True)
    return torch.log2(largest.clamp_min(TINY)).floor().exp2()


def _unit(maps: Tensor) -> Tensor:
    return maps / maps.norm(dim=1, keepdim=True).clamp_min(TINY)
