"""Matching class means in random networks: the engine of DM, DataDAM and ATOM.

One iteration: draw a fresh random network; draw B real images per class; draw one DSA strategy per
class; class means of what is matched, of the real images (no gradient) and of the synthetic ones;
a step of SGD on the synthetic pixels along the gradient of

    L = scale * sum_t w_t sum_k ||mean_B t(real_k) - mean_IPC t(synthetic_k)||^2

over the method's ``terms`` t with their weights w_t. Both sides are reduced to class means before
the distance is taken, so that the real side, which needs no gradient, can be computed in any number
of pieces and thrown away.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from atomlib.augmentation import Draw, as_draw, augment, indices, uniforms
from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError, shown
from atomlib.methods.learned_images import LearnedImages, RealSampler, class_chunks, part_of
from atomlib.methods.method import Learner
from atomlib.models.build import FlatWeights, check_room, network_for, operations
from atomlib.randomness import stream
from atomlib.runtime.device import Execution
from atomlib.settings import Rate


class FeatureMatching(LearnedImages):
    """A method that matches class means of ``terms``; a subclass says which."""

    follows_recipe: ClassVar[bool] = True

    loss_scale: Rate = Field(default=1.0, description="factor on the whole loss")

    def terms(
        self, maps: list[Float[Tensor, "n c h w"]], output: Float[Tensor, "n f"]
    ) -> list[tuple[float, Float[Tensor, "n _"]]]:
        """What is matched: one term or more, of one row per image each, with its weight.

        ``maps`` are each block's maps after its activation and before its pooling, ``output`` the
        flattened output of the feature extractor.
        """
        raise NotImplementedError

    def check_room(self, data: ImageData, device: torch.device) -> None:
        if not self.iterations:
            return  # no network is built
        # The most images that go through the network at once, and then back.
        chunk = class_chunks(data, self, device, self.ipc)[0]
        check_room(self, data, device, (chunk.stop - chunk.start) * self.ipc)

    def learner(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> "FeatureMatcher | None":
        if not self.iterations:
            return None
        return FeatureMatcher(self, data, device, self.start(data, device, progress=progress))

    def operations(self, data: ImageData) -> int:
        """Floating point operations of one iteration: a forward of all images, and a backward, as
        much again, of the synthetic ones only. (Weights, which are not trained, get no gradient.)
        """
        return operations(self, data) * data.num_classes * (self.real_batch + 2 * self.ipc)

    def advice(self) -> str:
        return (
            f"try a smaller image_lr (now {self.image_lr:g}) or loss_scale "
            f"(now {self.loss_scale:g})"
        )


ClassMeans = list[Float[Tensor, "k _"]]
"""Of each term, the mean over a class's images, class by class."""


def class_means(
    method: FeatureMatching,
    maps: list[Tensor],
    output: Tensor,
    classes: int,
) -> tuple[list[float], ClassMeans]:
    """Weights of a method's terms, and their class means in float32.

    ``maps`` and ``output`` are those of M images of each of K classes, class by class. Raises
    SettingError for terms that are not as ``FeatureMatching.terms`` has them.
    """
    weights, means = [], []
    for weight, rows in _checked(method.terms(maps, output), method, len(output)):
        rows = rows if rows.dtype.itemsize >= 4 else rows.float()
        weights.append(weight)
        means.append(rows.unflatten(0, (classes, -1)).mean(dim=1))
    return weights, means


def _checked(terms: object, method: FeatureMatching, images: int) -> list[tuple[float, Tensor]]:
    """The terms, once they have the form of terms: types and shapes are looked at, no values."""
    name = type(method).__name__
    if not isinstance(terms, list) or not terms:
        raise SettingError(
            f"terms of {name} gave {shown(terms)}; allowed: a list of one pair or more, a weight "
            "and a tensor of one row per image"
        )
    for term in terms:
        pair = isinstance(term, (tuple, list)) and len(term) == 2
        numbers = pair and isinstance(term[0], (int, float)) and isinstance(term[1], Tensor)
        if not numbers or not term[1].is_floating_point():
            raise SettingError(
                f"terms of {name} gave {shown(term)} as a term; allowed: a pair, a weight and a "
                "tensor of floats, one row per image"
            )
        shape = tuple(term[1].shape)
        if shape[:1] != (images,):
            raise SettingError(
                f"terms of {name} gave a tensor of shape {shape}; allowed: one row per image, "
                f"here {images}"
            )
    return terms


def matching_loss(
    weights: Sequence[float], real: Sequence[Tensor], synthetic: Sequence[Tensor], scale: float
) -> Float[Tensor, ""]:
    """``scale * sum_t w_t ||real_t - synthetic_t||^2``, summed over classes."""
    distances = [
        weight * (r - s).square().sum()
        for weight, r, s in zip(weights, real, synthetic, strict=True)
    ]
    return scale * torch.stack(distances).sum()


class FeatureMatcher(Learner):
    """The distillation of a FeatureMatching method.

    Classes go through the network in chunks, real and synthetic ones alike, so that memory
    grows with a chunk and not with the number of classes. The loss is a sum over classes, and
    so is its gradient.
    """

    def __init__(
        self,
        method: FeatureMatching,
        data: ImageData,
        device: torch.device,
        start: Float[Tensor, "k ipc c s s"],
    ):
        work = method.operations(data) * method.iterations
        super().__init__(
            {"images": start},
            Execution(method, device, work),
            rates={"images": method.image_lr},
            momentum=method.image_momentum,
            weight_decay=method.image_weight_decay,
        )
        self.method, self.data = method, data
        self.network = network_for(method, data, stream(method.seed, "network")).to(device)
        self.network.requires_grad_(False).train()
        self.weights = FlatWeights(self.network)
        self.networks = stream(method.seed, "networks", device=device)
        self.draws = stream(method.seed, "dsa", device=device)
        self.strategies = indices(method.dsa, device)
        self.sampler = RealSampler(data, method, device)
        self.real_chunks = class_chunks(data, method, device, method.real_batch)
        self.synthetic_chunks = class_chunks(data, method, device, method.ipc)
        self._real = self.execution.compiled(self._real_means)
        self._loss = self.execution.compiled(self._distance)

    def life(self) -> Iterator[Float[Tensor, ""]]:
        yield self.loss(self.learned["images"])

    def loss(self, images: Float[Tensor, "k ipc c s s"]) -> Float[Tensor, ""]:
        """The loss of a fresh network; where ``images`` ask for a gradient, it is in their
        ``grad`` afterwards."""
        self.weights.redraw(self.networks)
        return self.matched(images)

    def matched(self, images: Float[Tensor, "k ipc c s s"]) -> Float[Tensor, ""]:
        """As ``loss``, of the network as it stands."""
        drawn = self.drawn()
        real = self.real_side(drawn)
        return self.in_chunks(
            images,
            lambda part, chunk: self._loss(
                part, part_of(drawn, chunk), [term[chunk] for term in real]
            ),
        )

    def drawn(self) -> Draw | Tensor | None:
        """One draw of DSA per class; None where there is no augmentation."""
        if not self.method.dsa.on:
            return None
        drawn = uniforms(self.data.num_classes, self.draws)
        # Else it is part of what is compiled.
        return drawn if self.execution.compile else self._draw(drawn)

    @torch.no_grad()
    def real_side(self, drawn: Draw | Tensor | None) -> ClassMeans:
        """Class means of real images that are drawn for this step."""
        rows = self.sampler.draw()
        pieces = [
            self._real(self.sampler.images[rows[chunk]], part_of(drawn, chunk))
            for chunk in self.real_chunks
        ]
        return [self._joined(term) for term in zip(*pieces, strict=True)]

    def in_chunks(
        self, images: Float[Tensor, "k ipc c s s"], loss_of: Callable[[Tensor, slice], Tensor]
    ) -> Float[Tensor, ""]:
        """The sum of ``loss_of`` each chunk of the images; where they ask for a gradient, it is
        in their ``grad`` afterwards."""
        losses, gradients = [], []
        for chunk in self.synthetic_chunks:
            part = images[chunk].detach().requires_grad_(images.requires_grad)
            loss = loss_of(part, chunk)
            losses.append(loss.detach())
            if images.requires_grad:
                loss.backward()
                gradients.append(part.grad)
        if gradients:
            images.grad = self._joined(gradients)
        return self._joined([loss[None] for loss in losses]).sum()

    def generators(self) -> dict[str, torch.Generator]:
        return {"networks": self.networks, "dsa": self.draws, "real": self.sampler.generator}

    def _joined(self, pieces: Sequence[Tensor]) -> Tensor:
        """The pieces of all chunks. A single one is copied only where a CUDA graph wrote it, in
        memory that its next replay takes."""
        return torch.cat(pieces) if len(pieces) > 1 or self.execution.graphs else pieces[0]

    def _draw(self, drawn: Tensor) -> Draw:
        side = self.data.image_size
        return as_draw(drawn, self.strategies, side, self.method.dsa, one_strategy=False)

    def _real_means(self, images: Tensor, drawn: Draw | Tensor | None) -> ClassMeans:
        return self._means(self.sampler.as_inputs(images), drawn)[1]

    def _means(
        self, images: Float[Tensor, "k m c s s"], drawn: Draw | Tensor | None
    ) -> tuple[list[float], ClassMeans]:
        images = self._augmented(images, drawn)
        with self.execution.autocast():
            maps, output = self.network.features(images.flatten(0, 1))
            return class_means(self.method, maps, output, len(images))

    def _augmented(
        self, images: Float[Tensor, "k m c s s"], drawn: Draw | Tensor | None
    ) -> Float[Tensor, "k m c s s"]:
        if isinstance(drawn, Tensor):
            drawn = self._draw(drawn)
        return images if drawn is None else augment(images, drawn, self.method.dsa)

    def _distance(self, images: Tensor, drawn: Draw | Tensor | None, real: ClassMeans) -> Tensor:
        weights, synthetic = self._means(images, drawn)
        return matching_loss(weights, real, synthetic, self.method.loss_scale)
