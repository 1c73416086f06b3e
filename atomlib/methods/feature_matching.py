"""Matching class means in random networks: the engine of DM, DataDAM and ATOM.

One iteration: draw a fresh random network; draw B real images per class; draw one DSA strategy per
class; class means of what is matched, of the real images (no gradient) and of the synthetic ones;
a step of SGD on the synthetic pixels along the gradient of

    L = scale * sum_t w_t sum_k ||mean_B t(real_k) - mean_IPC t(synthetic_k)||^2

over the method's ``terms`` t with their weights w_t. Both sides are reduced to class means before
the distance is taken, so that the real side, which needs no gradient, can be computed in any number
of pieces and thrown away.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, Self

import torch
from jaxtyping import Float, Int, Num
from pydantic import Field
from torch import Tensor

from atomlib import preprocess
from atomlib.augmentation import DSA, Draw, DSAConfig, as_draw, augment, indices, uniforms
from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.methods.method import Learner, Method, smallest_class
from atomlib.models.build import FlatWeights, check_room, given_out, network_for, operations
from atomlib.randomness import stream
from atomlib.runtime.device import Execution, memory
from atomlib.settings import MOST, Positive, Rate, Weight


class LearnedImages(Method):
    """The settings of every method that learns pixels by SGD."""

    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        default=8000, description="random networks, one step on the images each"
    )
    real_batch: Positive = Field(
        default=128,
        description="real images per class and iteration; capped at the smallest class",
    )
    init: Literal["real", "noise"] = Field(default="real", description="what the images start from")
    image_lr: Rate | None = Field(
        default=None, description="SGD on images; None is 1 up to IPC 50, 10 above"
    )
    image_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.5, description="SGD on images"
    )
    image_weight_decay: Weight = Field(default=0.0, description="SGD on images")
    dsa: DSA = DSAConfig()

    @property
    def length(self) -> int:
        return self.iterations

    def resolve(self, data: ImageData) -> Self:
        return (
            super()
            .resolve(data)
            .but(
                real_batch=min(self.real_batch, smallest_class(data)[0]),
                image_lr=self.default_rate() if self.image_lr is None else self.image_lr,
                dsa=self.dsa.resolve(data.augmentations),
            )
        )

    def default_rate(self) -> float:
        """The rate of SGD on the images where none is given (supplement, Table 1)."""
        return 1.0 if self.ipc <= 50 else 10.0

    def start(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> Float[Tensor, "k ipc c s s"]:
        if self.init == "real":
            return super().start(data, device, progress=progress)
        shape = (data.num_classes, self.ipc, data.channels, data.image_size, data.image_size)
        return torch.randn(shape, generator=stream(self.seed, "init")).to(device)


class FeatureMatching(LearnedImages):
    """A method that matches class means of ``terms``; a subclass says which."""

    loss_scale: Rate = Field(default=1.0, description="factor on the whole loss")

    def terms(
        self, maps: list[Float[Tensor, "n c h w"]], output: Float[Tensor, "n f"]
    ) -> list[tuple[float, Float[Tensor, "n _"]]]:
        """What is matched, one row per image, each with its weight.

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

    ``maps`` and ``output`` are those of M images of each of K classes, class by class.
    """
    weights, means = [], []
    for weight, rows in method.terms(maps, output):
        rows = rows if rows.dtype.itemsize >= 4 else rows.float()
        weights.append(weight)
        means.append(rows.unflatten(0, (classes, -1)).mean(dim=1))
    return weights, means


def matching_loss(
    weights: Sequence[float], real: Sequence[Tensor], synthetic: Sequence[Tensor], scale: float
) -> Float[Tensor, ""]:
    """scale * sum_t w_t ||real_t - synthetic_t||^2, summed over classes."""
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
        drawn = None
        if self.method.dsa.on:
            drawn = uniforms(self.data.num_classes, self.draws)
            if not self.execution.compile:  # else it is part of what is compiled
                drawn = self._draw(drawn)
        rows = self.sampler.draw()
        with torch.no_grad():
            pieces = [
                self._real(self.sampler.images[rows[chunk]], part_of(drawn, chunk))
                for chunk in self.real_chunks
            ]
            real = [self._joined(term) for term in zip(*pieces, strict=True)]
        losses, gradients = [], []
        for chunk in self.synthetic_chunks:
            part = images[chunk].detach().requires_grad_(images.requires_grad)
            loss = self._loss(part, part_of(drawn, chunk), [term[chunk] for term in real])
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
        if isinstance(drawn, Tensor):
            drawn = self._draw(drawn)
        if drawn is not None:
            images = augment(images, drawn, self.method.dsa)
        with self.execution.autocast():
            maps, output = self.network.features(images.flatten(0, 1))
            return class_means(self.method, maps, output, len(images))

    def _distance(self, images: Tensor, drawn: Draw | Tensor | None, real: ClassMeans) -> Tensor:
        weights, synthetic = self._means(images, drawn)
        return matching_loss(weights, real, synthetic, self.method.loss_scale)


class RealSampler:
    """The training images on the device, and which of them each iteration sees.

    Without ZCA they are kept as uint8, a quarter of float32; with it, as network inputs, because
    whitening costs a fifth of the network's own arithmetic.
    """

    def __init__(self, data: ImageData, method: LearnedImages, device: torch.device):
        self.transform = None if method.zca else preprocess.fitted(data, False, device)
        if method.zca:
            self.images = preprocess.training_images(data, True, device)
        else:
            self.images = data.train_images.to(device)
        rows, present = rows_by_class(data)
        self.alike = bool(present.all())
        """Whether all classes have as many images, so that no row is a filler."""
        self.rows, self.present = rows.to(device), present.to(device)
        self.batch = method.real_batch
        self.generator = stream(method.seed, "real", device=device)

    def draw(self) -> Int[Tensor, "k b"]:
        """B rows of each class, without replacement: the largest of one random number per image."""
        score = torch.rand(self.rows.shape, generator=self.generator, device=self.rows.device)
        if not self.alike:
            score = score.masked_fill(~self.present, -1.0)
        return self.rows.gather(1, score.topk(self.batch, dim=1).indices)

    def as_inputs(self, images: Num[Tensor, "*shape c s s"]) -> Float[Tensor, "*shape c s s"]:
        """Some of ``images`` as network inputs."""
        return images if self.transform is None else self.transform(images)


def class_chunks(
    data: ImageData, method: Method, device: torch.device, per_class: int
) -> list[slice]:
    """Classes in one forward of ``per_class`` images each.

    On a CPU a chunk's activations stay in its caches (256 images of 32 x 32); on a GPU it only
    bounds memory. Chunks are equal, so that one compiled shape serves. Exact for norms within an
    image; BatchNorm's statistics are those of all images in a forward, so it gets all classes at
    once, whatever memory that takes.
    """
    pixels = per_class * data.image_size**2
    most = (1 << 18) // pixels
    if device.type != "cpu":
        # An eighth of its memory: what layers give out and its gradient, in float32 at most.
        held = 2 * 4 * given_out(method, data) * per_class
        most = min((1 << 23) // pixels, memory(device) // 8 // held)
    most = max(1, most)
    if method.norm == "batch":
        most = data.num_classes
    size = max(n for n in range(1, data.num_classes + 1) if data.num_classes % n == 0 and n <= most)
    return [slice(k, k + size) for k in range(0, data.num_classes, size)]


def part_of(drawn: Draw | Tensor | None, chunk: slice) -> Draw | Tensor | None:
    """The draws of some classes, or the uniform numbers that they are made of."""
    if isinstance(drawn, Tensor):
        return drawn[..., chunk]
    return None if drawn is None else Draw(*(value[chunk] for value in drawn))
