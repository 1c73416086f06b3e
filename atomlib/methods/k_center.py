"""K-Center: real images that leave no image of their class far from its nearest one.

First the image nearest the class mean of features, then again and again the one farthest from its
nearest centre; ties go to the first.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomlib.methods.coreset import Coreset


class KCenter(Coreset):
    """Cover each class: the farthest image is the next centre."""

    name: ClassVar[str] = "kcenter"
    label: ClassVar[str] = "K-Center"
    source: ClassVar[str] = "Sener & Savarese, ICLR 2018, arXiv 1708.00489"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#ca9161"

    def choose(self, features: Float[Tensor, "n f"], count: int) -> Int[Tensor, "count"]:
        features = features.double()
        first = (features - features.mean(dim=0)).square().sum(dim=1).argmin()
        chosen = [int(first)]
        nearest = torch.full((len(features),), torch.inf, dtype=torch.double)
        for _ in range(count - 1):
            distance = (features - features[chosen[-1]]).square().sum(dim=1)
            nearest = torch.minimum(nearest, distance)
            nearest[chosen] = -1.0  # so that copies of a centre do not bring it back
            chosen.append(int(nearest.argmax()))
        return torch.tensor(chosen)
