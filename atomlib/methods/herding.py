"""Herding: real images whose running mean of features stays nearest the mean m of their class.

With S_i the sum of the first i chosen, the next is the x that brings S_i + x closest to (i + 1) m;
none is taken twice, ties go to the first.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomlib.methods.coreset import Coreset


class Herding(Coreset):
    """Keep the running mean of features near the class mean."""

    name: ClassVar[str] = "herding"
    label: ClassVar[str] = "Herding"
    source: ClassVar[str] = "Welling, ICML 2009; as used by iCaRL, CVPR 2017, arXiv 1611.07725"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#cc78bc"

    def choose(self, features: Float[Tensor, "n f"], count: int) -> Int[Tensor, "count"]:
        features = features.double()
        mean, lengths = features.mean(dim=0), features.square().sum(dim=1)
        total, chosen = torch.zeros_like(mean), []
        for i in range(count):
            wanted = (i + 1) * mean - total
            # |wanted - x|^2 without the |wanted|^2 that all have in common.
            distance = lengths - 2 * features @ wanted
            distance[chosen] = torch.inf
            chosen.append(int(distance.argmin()))
            total += features[chosen[-1]]
        return torch.tensor(chosen)
