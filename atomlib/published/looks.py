"""Whether a published set is what it is called: noise, and untouched real images, are said so.

Files of both kinds are about under the names of methods: code that saves at evaluation 0, say.
"""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from atomlib.datasets import ImageData
from atomlib.published.pixels import colour_correlation, neighbour_correlation

MOST_COMPARED = 200
"""Images of a set that are compared with all real ones."""

REAL = 0.01
"""Root mean square distance, where pixels are in [0, 1], below which an image is a real one: more
than rounding and JPEG make, far less than any two photographs are apart."""

NOISE = 0.1
"""Correlation of neighbouring pixels, and of colours, below which images are noise."""


@dataclass(frozen=True)
class Looks:
    """What the values of a set tell of it."""

    distinct: float
    """Share of distinct values: 1 for trained pixels; real images have 256 to a channel."""
    neighbours: float
    """Correlation of neighbouring pixels."""
    colours: float
    """Correlation of the colours; 0 for grey images."""
    distances: tuple[float, ...] = ()
    """Of the compared images to the nearest real one, root mean square; none without the data."""
    copies: int = 0
    """Compared images that are real training images."""
    test_copies: int = 0
    """Compared images that are real test images."""

    @classmethod
    def of(
        cls,
        given: Float[Tensor, "n c s s"],
        shown: Float[Tensor, "n c s s"],
        data: ImageData | None,
    ) -> Self:
        """Of images as their file has them, and as they look, in [0, 1]."""
        values = given[:MOST_COMPARED].flatten()
        looks = (
            len(values.unique()) / len(values),
            neighbour_correlation(given),
            colour_correlation(given),
        )
        if data is None:
            return cls(*looks)
        step = -(-len(shown) // MOST_COMPARED)
        training = nearest(shown[::step], data.train_images)
        test = nearest(shown[::step], data.test_images)
        return cls(
            *looks,
            tuple(training.tolist()),
            int((training < REAL).sum()),
            int(((test < REAL) & (test <= training)).sum()),
        )

    @property
    def noise(self) -> bool:
        """Whether there is nothing in the images that hangs together."""
        return abs(self.neighbours) < NOISE and abs(self.colours) < NOISE

    @property
    def warning(self) -> str:
        """A sentence where this is no distilled set; else the empty string."""
        if self.noise:
            return "these images are noise: neither neighbouring pixels nor colours go together"
        if self.test_copies:
            return f"{self.test_copies} of {len(self.distances)} images are real test images"
        if 2 * self.copies > len(self.distances):
            return f"{self.copies} of {len(self.distances)} images are untouched real ones"
        return ""

    def __str__(self) -> str:
        text = f"{100 * self.distinct:.3g} % of the values are distinct"
        if self.distances:
            median = sorted(self.distances)[len(self.distances) // 2]
            text += f"; the nearest real image is {median:.3f} away (median)"
        return text


def nearest(
    images: Float[Tensor, "n c s s"], real: Tensor, piece: int = 5000
) -> Float[Tensor, "n"]:
    """Root mean square distance of each image, in [0, 1], to the nearest of uint8 real ones."""
    rows = images.float().flatten(1)
    least = torch.full((len(rows),), torch.inf)
    for some in real.split(piece):
        others = some.flatten(1).float() / 255
        squares = (
            rows.square().sum(1)[:, None] + others.square().sum(1) - 2 * rows @ others.T
        ).amin(1)
        least = torch.minimum(least, squares)
    return (least.clamp_min(0) / rows.shape[1]).sqrt()
