"""Forgetting: real images that a network forgets most often while it trains on the full data.

With r_t(x) whether x is given its label after pass t over the data, the forgetting events of x are

    F(x) = sum_t [r_t(x) and not r_{t+1}(x)],    infinite where r_t(x) never holds

and of each class the IPC images of largest F are taken; which of equal ones, the seed draws.
"""

from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from pydantic import Field
from torch import Tensor

from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.full_data import right_after_passes
from atomlib.methods.coreset import Coreset
from atomlib.models.build import operations
from atomlib.randomness import stream
from atomlib.settings import Positive


class Forgetting(Coreset):
    """Take what is learned and forgotten again most often, or never learned."""

    name: ClassVar[str] = "forgetting"
    label: ClassVar[str] = "Forgetting"
    source: ClassVar[str] = "Toneva et al., ICLR 2019, arXiv 1812.05159"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#999933"

    feature_epochs: Positive = Field(
        default=200, description="of the network on the full data that forgets"
    )

    def work(self, data: ImageData) -> int:
        # Forwards and backwards of the epochs and the first pass, and a test after each.
        passes = 4 * (self.feature_epochs + 1)
        return passes * len(data.train_labels) * operations(self, data)

    def rows(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> Int[Tensor, "k ipc"]:
        right = right_after_passes(data, self.training(), self.zca, device, progress=progress)
        rows, present = rows_by_class(data)
        drawn = torch.rand(rows.shape, dtype=torch.float64, generator=stream(self.seed, "init"))
        score = forgetting_events(right)[rows] + drawn  # counts are whole, and a draw below 1
        score = score.masked_fill(~present, -1.0)
        return rows.gather(1, score.topk(self.ipc, dim=1).indices)


def forgetting_events(right: Bool[Tensor, "t n"]) -> Int[Tensor, "n"]:
    """F of the module's equation from the r_t of n images; t, more than any count can be, where it
    is infinite."""
    events = (right[:-1] & ~right[1:]).sum(dim=0)
    return torch.where(right.any(dim=0), events, len(right))
