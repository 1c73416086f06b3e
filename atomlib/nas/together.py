"""Candidates of the search trained together: ConvNets of one shape as one network, and which of
them are grouped.

The search has 15 candidates of each depth, width and pooling (supplement, 1.4). Their convolutions
and classifiers have weights of one size and are stacked; in between, each network's maps go through
a norm and an activation of its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomlib.datasets.image_data import ImageData
from atomlib.models.build import at_once
from atomlib.models.convnet import ConvNet
from atomlib.models.ensemble import Ensemble
from atomlib.nas.space import Candidate
from atomlib.training import TEST_BATCH, EvalConfig


class MixedEnsemble:
    """Untrained ConvNets side by side, each as if it were the only one.

    To an optimiser and a training loop it is what a network is, as an Ensemble is. All must be
    of one depth, width and pooling. Neighbours of one norm have it computed together, so sort
    them by norm.
    """

    def __init__(self, networks: Sequence[ConvNet]):
        self.blocks = [_Block(blocks) for blocks in zip(*(n.blocks for n in networks), strict=True)]
        self.classifier = Ensemble(networks[0].classifier, len(networks))

    @torch.no_grad()
    def reset_parameters(self, generators: Sequence[torch.Generator]) -> None:
        """Draw every network anew, in place, each from its own generator."""
        for layer in (*(block.convolution for block in self.blocks), self.classifier):
            layer.reset_parameters(generators)
        for rows, norm in (pair for block in self.blocks for pair in block.norms):
            norm.reset_parameters(generators[rows])  # draws nothing: scale 1, shift 0

    def state_dict(self) -> dict[str, Float[Tensor, "networks *shape"]]:
        """Weights and buffers; those of a norm are of the networks that have it."""
        return {
            f"{place}.{name}": value
            for place, layer in self._layers()
            for name, value in layer.state_dict().items()
        }

    def parameters(self) -> Iterable[Float[Tensor, "networks *shape"]]:
        return [weight for _, layer in self._layers() for weight in layer.parameters()]

    def modules(self) -> Iterable[nn.Module]:
        return [module for _, layer in self._layers() for module in layer.modules()]

    def train(self) -> None:
        for _, layer in self._layers():
            layer.train()

    def eval(self) -> None:
        for _, layer in self._layers():
            layer.eval()

    def __call__(
        self, images: Float[Tensor, "networks n c h w"] | Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "networks n classes"]:
        """Class scores: of images of each network's own, or of images that all of them share."""
        maps = images
        for block in self.blocks:
            maps = block(maps)
        return self.classifier(maps.flatten(2))

    def _layers(self) -> Iterator[tuple[str, Ensemble]]:
        for depth, block in enumerate(self.blocks):
            yield f"{depth}.convolution", block.convolution
            for rows, norm in block.norms:
                yield f"{depth}.norm.{rows.start}", norm
        yield "classifier", self.classifier


class _Block:
    """A block of each network."""

    def __init__(self, blocks: Sequence[nn.ModuleDict]):
        self.convolution = Ensemble(blocks[0]["conv"], len(blocks))
        norms = _runs([block["norm"] for block in blocks])
        self.norms = [(rows, Ensemble(norm, rows.stop - rows.start)) for rows, norm in norms]
        self.activations = list(_runs([block["activation"] for block in blocks]))
        self.pooling = blocks[0]["pooling"]

    def __call__(
        self, maps: Float[Tensor, "networks n c h w"] | Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "networks n width _ _"]:
        maps = self.convolution(maps)
        maps = torch.cat([norm(maps[rows]) for rows, norm in self.norms])
        maps = torch.cat([activation(maps[rows]) for rows, activation in self.activations])
        return self.pooling(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])


def _runs(modules: Sequence[nn.Module]) -> Iterator[tuple[slice, nn.Module]]:
    """Neighbours that do the same, which are those that print the same, and one of each."""
    first = 0
    for _, alike in groupby(modules, key=str):
        module, *more = alike
        last = first + 1 + len(more)
        yield slice(first, last), module
        first = last


@dataclass(frozen=True)
class Group:
    """Candidates that train together: one, or several of one depth, width and pooling."""

    candidates: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        """The candidate's, or such as "d3-w128-average, 15 networks"."""
        first, *more = self.candidates
        if not more:
            return first.name
        return f"d{first.depth}-w{first.width}-{first.pooling}, {1 + len(more)} networks"


def pack(
    costs: Mapping[Candidate, float],
    config: EvalConfig,
    data: ImageData,
    device: torch.device,
    *,
    images: int,
    room: float = 0.0,
) -> list[Group]:
    """All candidates of ``costs`` in groups, the expensive groups first.

    So that no expensive one runs by itself at the end. ``config.together`` is how many train
    together at most. None is 1 on a CPU, where stacked convolutions are slow; on a GPU, as many as
    keep it busy and as fit a quarter of ``room``, the bytes of it that are ours. ``images`` are
    those of a step.
    """
    shapes: dict[tuple, list[Candidate]] = defaultdict(list)
    for candidate in costs:
        shapes[candidate.depth, candidate.width, candidate.pooling].append(candidate)
    groups = []
    for alike in shapes.values():
        alike.sort(key=lambda candidate: (candidate.norm, candidate.activation))
        most = config.together or 1
        if not config.together and device.type != "cpu":
            own = config.but(**asdict(alike[0]))
            most = at_once(own, data, images, TEST_BATCH, room / 4)
        groups += [Group(tuple(alike[i : i + most])) for i in range(0, len(alike), most)]
    return sorted(groups, key=lambda group: cost(group, costs), reverse=True)


def cost(group: Group, costs: Mapping[Candidate, float]) -> float:
    """Of all its candidates, in the unit of ``costs``."""
    return sum(costs[candidate] for candidate in group.candidates)
