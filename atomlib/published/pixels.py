"""The space that a published set's pixels are in: told from the values, or given.

pixels                 in [0, 1], or 0 to 255
normalised             (x - mean) / std by channel
whitened               ZCA fitted on images in [0, 1], as MTT, TESLA, FTD and DATM have it
whitened-normalised    ZCA fitted on normalised images, as DataDAM has it
whitened-computed      the same, normalised by the statistics of the training split itself
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from atomlib.preprocess import STATISTICS

Space = Literal["pixels", "normalised", "whitened", "whitened-normalised", "whitened-computed"]

SPACES: tuple[Space, ...] = get_args(Space)

# Between natural and whitened images: correlation of the colours, share of power at low
# frequencies. Of eight sets from other authors, five normalised ones have at least 0.77 and 0.5,
# or 0.95 where the share is small (DM at IPC 1), and three whitened ones at most 0.74 and 0.18.
CORRELATION, LOW = 0.76, 0.3


MOST_NORMALISED = 16
"""Above which no normalised image lies whose smallest value is not negative."""


def guess(images: Float[Tensor, "n c s s"]) -> tuple[Space, str]:
    """The space, and in words what it was told from."""
    least, most = float(images.min()), float(images.max())
    spread = f"values from {least:.3g} to {most:.3g}"
    if least >= 0 and most <= 1:
        return "pixels", spread
    if are_bytes(images) and most <= 255:
        return "pixels", f"whole numbers, {spread}" if _whole(images) else spread
    colours, low = colour_correlation(images), low_frequencies(images)
    if images.shape[1] == 1:  # whitening is used on CIFAR, TinyImageNet and the like
        return "normalised", spread
    told = f"{spread}, correlation of colours {colours:.2f}, low frequencies {100 * low:.0f} %"
    return ("whitened" if colours < CORRELATION and low < LOW else "normalised"), told


def are_bytes(images: Float[Tensor, "n c s s"]) -> bool:
    """Whether pixels are from 0 to 255: whole numbers, or beyond what normalised ones reach."""
    least, most = float(images.min()), float(images.max())
    return least >= 0 and most > 1 and (most > MOST_NORMALISED or _whole(images))


def _whole(images: Tensor) -> bool:
    return bool((images == images.round()).all())


def colour_correlation(images: Float[Tensor, "n c s s"]) -> float:
    """Mean correlation of two channels' pixels, each image's mean taken out; 0 for grey images."""
    if images.shape[1] == 1:
        return 0.0
    rows = _centred(images).transpose(0, 1).flatten(1)
    channels = len(rows)
    correlations = torch.corrcoef(rows).nan_to_num(1.0)
    return float((correlations.sum() - channels) / (channels * (channels - 1)))


def low_frequencies(images: Float[Tensor, "n c s s"]) -> float:
    """Share of the power, each image's mean taken out, below a tenth of a cycle per pixel."""
    power = torch.fft.fft2(_centred(images)).abs().square().sum((0, 1))
    frequency = torch.fft.fftfreq(images.shape[-1], device=images.device)
    low = (frequency[:, None].square() + frequency.square()).sqrt() < 0.1
    return float(power[low].sum() / power.sum().clamp_min(1e-30))


def neighbour_correlation(images: Float[Tensor, "n c s s"]) -> float:
    """Correlation of a pixel with the one to its right, each image's mean taken out."""
    centred = _centred(images)
    together = (centred[..., 1:] * centred[..., :-1]).mean()
    return float(together / centred.square().mean().clamp_min(1e-30))


def statistics_of(name: str) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation by channel that the field uses for a data set; None where it has none."""
    if name not in STATISTICS:
        return None
    mean, std = STATISTICS[name]
    return torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)


def _centred(images: Tensor) -> Tensor:
    images = images[:1000].double()
    return images - images.mean((2, 3), keepdim=True)
