"""ConvNets of one shape as one, each with a norm and an activation of its own.

The search has 15 of each depth, width and pooling (supplement, 1.4). Their convolutions and
classifiers have weights of one size and are stacked, as those of an Ensemble are; in between,
each network's maps go their own way.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor, nn

from atomlib.ensemble import Ensemble
from atomlib.models import ConvNet


class MixedEnsemble:
    """Untrained ConvNets side by side, each as it would be alone.

    To an optimiser and a training loop it is what a network is, as an Ensemble is. All must be
    of one depth, width and pooling. Neighbours of one norm have it computed together, so sort
    them by norm.
    """

    def __init__(self, networks: Sequence[ConvNet]):
        self.size = len(networks)
        self.blocks = [_Block(blocks) for blocks in zip(*(n.blocks for n in networks), strict=True)]
        self.classifier = Ensemble(networks[0].classifier, self.size)

    @torch.no_grad()
    def reset_parameters(self, generators: Sequence[torch.Generator]) -> None:
        """Draw every network anew, in place, each from its generator, as if it were alone."""
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
