"""Attention maps (DESIGN: the two maps that ATOM mixes).

For features ``f`` of one image, C channels of H x W positions:

    spatial:  a_s[h, w] = sum_c     |f[c, h, w]|^p_s,   then a_s / ||a_s||_2
    channel:  a_c[c]    = sum_{h,w} |f[c, h, w]|^p_c,   then a_c / ||a_c||_2

The spatial map is DataDAM's; the channel map is what ATOM adds.
"""

from jaxtyping import Float
from torch import Tensor

# Keeps an all-zero map (a dead layer, a black image) at zero instead of NaN. Maps of
# trained-size networks have norms far above it.
TINY = 1e-12


def spatial_attention(
    features: Float[Tensor, "n c h w"], power: float, *, normalize: bool = True
) -> Float[Tensor, "n h*w"]:
    """Where in the image the network looks: powers summed over channels, one map an image.

    Sums and powers are taken in float32 at least, whatever the features' type.
    ``normalize`` divides each map by its L2 norm (Table 1, "Normalization Type").
    """
    maps = _power(features, power).sum(dim=1).flatten(1)
    return _unit(maps) if normalize else maps


def channel_attention(
    features: Float[Tensor, "n c h w"], power: float, *, normalize: bool = True
) -> Float[Tensor, "n c"]:
    """Which channels answer: powers summed over positions, one C-vector an image.

    Sums and powers are taken in float32 at least, whatever the features' type.
    ``normalize`` divides each vector by its L2 norm (Table 1, "Normalization Type").
    """
    maps = _power(features, power).sum(dim=(2, 3))
    return _unit(maps) if normalize else maps


def _power(features: Tensor, power: float) -> Tensor:
    """|f|^p in float32 (float64 stays): bfloat16 has 8 bits, a fourth power eats them."""
    if features.dtype.itemsize < 4:
        features = features.float()
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


def _unit(maps: Tensor) -> Tensor:
    return maps / maps.norm(dim=1, keepdim=True).clamp_min(TINY)
