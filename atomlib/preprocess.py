"""Pre-processing and its inverse: channel statistics, then optional ZCA whitening.

Everything is fitted once, on the training split: synthetic images live in the transformed space,
DSA acts there, and the inverse is used for display only.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, Self

import torch
from jaxtyping import Float, Num
from kornia.enhance import ZCAWhitening
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from torch import Tensor

from atomlib.datasets import known
from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError, did_you_mean, shown
from atomlib.runtime.cache import keep_tensors, kept_tensors
from atomlib.runtime.device import memory
from atomlib.runtime.paths import cache_folder
from atomlib.runtime.torch_state import under_torch_defaults

STATISTICS = {k.name: k.statistics for k in (*known.OFFICIAL, known.TINYIMAGENET)}
"""Mean and standard deviation per channel, of pixels in [0, 1], as the field uses them."""


WORDS, ALLOWED = ("unit", "computed"), "True, False, 'unit' or 'computed'"


def _no_number(value: object) -> object:
    """Else 1 would pass for true."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": ALLOWED}
        )
    return value


ZCA = Annotated[Literal[True, False, "unit", "computed"], BeforeValidator(_no_number)]
"""Whitening: none, or fitted on images normalised by the field's statistics; "unit", on images in
[0, 1] as MTT and its followers do; "computed", on images normalised by the statistics of their own
training split. With one eps these are different transforms (docs/facts.md, 'ZCA')."""

ZCA_EPS = 0.1

ROUNDING = 1e-3
"""By which pixels may leave [0, 1]: the transform and its inverse give white as 1.0001."""
ZCA_MATRICES = ("mean_vector", "transform_matrix", "transform_inv")


@dataclass(frozen=True)
class Preprocess:
    """A fitted transform and its inverse."""

    mean: Float[Tensor, "c 1 1"]
    std: Float[Tensor, "c 1 1"]
    zca: ZCAWhitening | None = None

    @classmethod
    @under_torch_defaults
    def fit(cls, data: ImageData, *, zca: ZCA) -> Self:
        """Fit on the training split. ZCA matrices are cached by the data's fingerprint.

        Raises SettingError for a ``zca`` that is none of ZCA's.
        """
        if not (isinstance(zca, bool) or (isinstance(zca, str) and zca in WORDS)):
            raise SettingError(f"zca is {shown(zca)}{did_you_mean(zca, WORDS)}; allowed: {ALLOWED}")
        if zca == "computed" or data.statistics is None:
            mean, std = _statistics(data.train_images)
        else:
            mean, std = data.statistics
        if zca == "unit":
            mean, std = [0.0] * data.channels, [1.0] * data.channels
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
        plain = cls(mean, std)
        return cls(mean, std, _fit_zca(data, plain)) if zca else plain

    def __call__(self, pixels: Num[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """uint8 pixels, or floats in [0, 1], to float32 network inputs.

        Raises SettingError for other integers, and for floats above 1, which may be of 0 to 255.
        """
        if pixels.dtype == torch.uint8:
            return self.of_floats(pixels.float() / 255)
        most = pixels.max() if pixels.is_floating_point() and len(pixels) else 0.0
        if not pixels.is_floating_point() or most > 1 + ROUNDING:
            reach = f" up to {float(most):.4g}" if pixels.is_floating_point() else ""
            raise SettingError(
                f"pixels are {pixels.dtype}{reach}; allowed: torch.uint8 of 0 to 255, or floats "
                "from 0 to 1"
            )
        return self.of_floats(pixels)

    def of_floats(self, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Floats of which 1 is white to network inputs, unchecked: learned ones lie beyond."""
        images = (pixels - self.mean) / self.std
        if self.zca is None:
            return images
        # In pieces, so that 50,000 images need no second whole copy in between.
        return torch.cat([self.zca(piece) for piece in images.split(5000)])

    def to(self, device: torch.device) -> Self:
        """The same transform with its matrices on ``device``."""
        zca = self.zca
        if zca is not None:
            zca = _whitening({name: getattr(zca, name).to(device) for name in ZCA_MATRICES})
        return type(self)(self.mean.to(device), self.std.to(device), zca)

    def inverse(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Network inputs back to floats where real pixels are in [0, 1]; nothing is clipped."""
        images = images.float()
        if self.zca is not None:
            images = self.zca.inverse_transform(images)
        return images * self.std + self.mean


# Data sets are equal by content, so a second load finds what was computed for the first.


@lru_cache(maxsize=4)
@under_torch_defaults
def fitted(data: ImageData, zca: ZCA, device: torch.device) -> Preprocess:
    """The transform for ``data`` on ``device``, fitted or read once per process."""
    return Preprocess.fit(data, zca=zca).to(device)


# Two of them: with and without ZCA. At CIFAR's size each is 600 MB of float32.
@lru_cache(maxsize=2)
@under_torch_defaults
def training_images(data: ImageData, zca: ZCA, device: torch.device) -> Tensor:
    """The full training split as network inputs, resident on ``device``: float32 [n, c, h, w].

    The tensor is shared by the whole process: do not write to it.
    """
    return fitted(data, zca, device)(data.train_images.to(device))


@lru_cache(maxsize=2)
@under_torch_defaults
def test_images(data: ImageData, zca: ZCA, device: torch.device) -> Tensor:
    """The whole test split as network inputs, resident on ``device``: float32 [m, c, h, w].

    The tensor is shared by the whole process: do not write to it.
    """
    return fitted(data, zca, device)(data.test_images.to(device))


def _statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all training pixels, in [0, 1]."""
    # From counts of the 256 values: exact, and no float copy of the full data.
    means, stds = [], []
    values = torch.arange(256, dtype=torch.float64) / 255
    for channel in images.unbind(dim=1):
        weights = torch.bincount(channel.flatten().int(), minlength=256).double()
        weights /= weights.sum()
        mean = (weights * values).sum()
        variance = (weights * (values - mean).square()).sum()
        means.append(float(mean))
        # A constant channel carries nothing; dividing by 1 leaves it at zero.
        stds.append(float(variance.sqrt()) if variance > 0 else 1.0)
    return means, stds


def _check_zca(data: ImageData) -> None:
    """Raise SettingError where ZCA cannot be fitted: too few images, or too large ones."""
    if len(data.train_images) < 2:
        raise SettingError(
            f"zca is on, and {data.name} has one training image; allowed with ZCA: two or more"
        )
    numbers = data.channels * data.image_size**2
    # The covariance, its two factors, the transform and its inverse: each a square of ``numbers``.
    needed, room = 5 * 4 * numbers**2, memory(torch.device("cpu"))
    if needed > room:
        raise SettingError(
            f"zca is on, and takes {needed / 1e9:,.0f} GB for images of {data.image_size} x "
            f"{data.image_size} x {data.channels} as those of {data.name}; allowed: what the "
            f"{room / 1e9:,.0f} GB of this machine hold, with a smaller resize, or zca off"
        )


def _fit_zca(data: ImageData, plain: Preprocess) -> ZCAWhitening:
    """kornia's ZCA (eps 0.1, unbiased covariance) on training images as ``plain`` makes them."""
    _check_zca(data)
    about = f"{data.fingerprint} {plain.mean.flatten().tolist()} {plain.std.flatten().tolist()}"
    key = hashlib.sha256(about.encode()).hexdigest()[:16]
    path = cache_folder() / "zca" / f"{data.name}-{key}.safetensors"
    if (kept := kept_tensors(path)) is not None:
        return _whitening(kept[0])
    zca = ZCAWhitening(dim=0, eps=ZCA_EPS, compute_inv=True)
    zca.fit(plain(data.train_images))
    matrices = {name: getattr(zca, name) for name in ZCA_MATRICES}
    keep_tensors(path, matrices, {"fitted to": data.name})
    return zca


def _whitening(matrices: dict[str, Tensor]) -> ZCAWhitening:
    """A transform that was fitted before, by its ZCA_MATRICES."""
    zca = ZCAWhitening(dim=0, eps=ZCA_EPS, compute_inv=True)
    for name in ZCA_MATRICES:
        setattr(zca, name, matrices[name])
    zca.fitted = True
    return zca
