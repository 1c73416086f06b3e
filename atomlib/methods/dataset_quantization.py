"""DQ, dataset quantization: real images drawn from bins that each spread over their class.

With similarity s_ij = 1/2 + cos(g_i, g_j) / 2 of features g, a bin S starts empty and takes, one
after another, of V, the images of the class in no earlier bin, the one not yet in S of largest

    gain(j) = sum_{i in V} s_ij - 2 sum_{i in S} s_ij

(GraphCut with lambda 1; ties go to the first). Bins are equal in size, the first ones larger by one
image where the class cannot be divided, and the last bin is what remains. From each bin as many
images are drawn, uniformly, the first bins giving one more where IPC cannot be divided.

The third stage of the paper, which drops patches of the drawn images and has a pretrained network
fill them in again, is left out: hence "samples".
"""

from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.errors import SettingError
from atomlib.full_data import features_of, trained_network
from atomlib.methods.coreset import Coreset
from atomlib.methods.method import Method
from atomlib.randomness import stream
from atomlib.runtime.device import memory
from atomlib.settings import Positive

TIE = 1e-9
"""Gains as near as this are equal: copies of an image differ by less, from rounding."""


class DatasetQuantization(Coreset):
    """Bins by submodular gains per class, and a uniform sample of each."""

    name: ClassVar[str] = "dq"
    label: ClassVar[str] = "DQ (samples)"
    source: ClassVar[str] = "Zhou et al., ICCV 2023, arXiv 2308.10524"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#949494"
    follows_recipe: ClassVar[bool] = False

    feature_epochs: Positive = Field(
        default=10, description="of the network on the full data whose features choose"
    )
    zca: bool = Field(default=False, description="ZCA whitening")
    bins: Positive | None = Field(
        default=None, description="per class; None is 10, or IPC where that is less"
    )
    features: Literal["output", "gradient"] = Field(
        default="output",
        description="what images are compared by: the flattened output of the feature extractor, "
        "or the gradient of the loss by the last layer",
    )

    def resolve(self, data: ImageData) -> Self:
        made = super().resolve(data)
        bins = min(10, self.ipc) if self.bins is None else self.bins
        if bins > self.ipc:
            raise SettingError(
                f"bins is {bins}; allowed: 1 to {self.ipc}, which is ipc: each bin gives an image"
            )
        return made.but(bins=bins)

    def work(self, data: ImageData) -> int:
        return super().work(data) if self.bins > 1 else 0

    def check_room(self, data: ImageData, device: torch.device) -> None:
        largest = max(data.class_counts.values())
        needed, there = 2 * 8 * largest**2, memory(torch.device("cpu"))
        if self.bins > 1 and needed > there:
            raise SettingError(
                f"bins is {self.bins}, for which the similarity of {largest:,} images takes "
                f"{needed / 1e9:,.0f} GB; allowed: 1, or classes that fit the {there / 1e9:,.0f} "
                "GB of cpu"
            )

    def rows(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> Int[Tensor, "k ipc"]:
        """Training rows of each class, bin after bin.

        One bin is the whole class: the rows are Random's, and no network is trained.
        """
        if self.bins == 1:
            return Method.rows(self, data, device, progress=progress)
        features = self.compared(data, device, progress=progress)
        rows, present = rows_by_class(data)
        score = torch.rand(rows.shape, generator=stream(self.seed, "init"))
        chosen = []
        for own, drawn in ((r[p], s[p]) for r, s, p in zip(rows, score, present, strict=True)):
            parts = graph_cut(similarity(*(one[own] for one in features)), self.bins)
            chosen.append(own[sample(parts, drawn, self.ipc)])
        return torch.stack(chosen)

    def compared(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> list[Float[Tensor, "n _"]]:
        """Of every training image, vectors whose outer product is what images are compared by."""
        output = features_of(data, self.training(), self.zca, device, progress=progress)
        if self.features == "output":
            return [output]
        network = trained_network(
            data, self.training(), zca=self.zca, device=device, progress=progress
        )
        with torch.no_grad():
            scores = network.classifier(output.to(device)).cpu()
        return last_layer_gradient(scores, output, data.train_labels)


def similarity(*features: Float[Tensor, "n _"]) -> Float[Tensor, "n n"]:
    """1/2 + cos/2 of images given by the outer product of ``features``, in float64.

    The cosine of outer products is the product of the cosines, so none of them is formed.
    Features without length have a cosine of 0 with all.
    """
    units = [F.normalize(one.double(), dim=1, eps=1e-300) for one in features]
    cosines = units[0] @ units[0].T
    for unit in units[1:]:
        cosines *= unit @ unit.T
    return cosines.mul_(0.5).add_(0.5)


def last_layer_gradient(
    scores: Float[Tensor, "n k"], output: Float[Tensor, "n f"], labels: Int[Tensor, "n"]
) -> list[Float[Tensor, "n _"]]:
    """The gradient of each image's cross entropy by a linear last layer, weights and bias.

    As two vectors whose outer product it is: the one by the scores, softmax - label, and the
    layer's input with a one for the bias.
    """
    scores, output = scores.double(), output.double()
    by_scores = scores.softmax(dim=1) - F.one_hot(labels, scores.shape[1])
    return [by_scores, torch.cat([output, output.new_ones(len(output), 1)], dim=1)]


def graph_cut(similarity: Float[Tensor, "n n"], number: int) -> list[Int[Tensor, "_"]]:
    """Which of one class's images each of ``number`` bins takes, in the order of their choice.

    In O(n^2): gains are kept, not summed anew. Raises SettingError for a number of bins that is not
    1 to n, and for a similarity that is no number.
    """
    count = len(similarity)
    if not 1 <= number <= count:
        raise SettingError(f"number is {number}; allowed: 1 to {count}, the images of the class")
    to_all = similarity.sum(dim=1)  # the gains of an empty bin
    if not to_all.isfinite().all():
        raise SettingError("features has values that are no numbers; allowed: finite ones")
    left, found = torch.ones(count, dtype=torch.bool), []
    for size in shares(count, number)[:-1]:
        gain, picked = to_all.clone(), []
        for _ in range(size):
            gain.masked_fill_(~left, -torch.inf)
            best = int((gain >= gain.max() - TIE).to(torch.uint8).argmax())
            picked.append(best)
            left[best] = False
            gain -= 2 * similarity[best]
        for row in picked:
            to_all -= similarity[row]
        found.append(torch.tensor(picked))
    return [*found, left.nonzero().flatten()]


def shares(count: int, parts: int) -> list[int]:
    """``count`` in as many parts, as equal as can be, the larger ones first."""
    return [count // parts + (part < count % parts) for part in range(parts)]


def sample(
    parts: list[Int[Tensor, "_"]], score: Float[Tensor, "n"], count: int
) -> Int[Tensor, "count"]:
    """``count`` images, as many from each bin, those of the largest score in each."""
    return torch.cat(
        [
            part[score[part].topk(share).indices]
            for part, share in zip(parts, shares(count, len(parts)), strict=True)
        ]
    )
