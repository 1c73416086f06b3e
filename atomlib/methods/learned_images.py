"""Learning pixels by SGD: the settings that such methods share, and the real images they see."""

from typing import Annotated, Literal, Self

import torch
from jaxtyping import Float, Int, Num
from kornia.enhance import ZCAWhitening
from pydantic import Field
from torch import Tensor

from atomlib import preprocess
from atomlib.augmentation import DSA, Draw, DSAConfig
from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.errors import SettingError
from atomlib.methods.kmeans_start import kmeans_rows
from atomlib.methods.method import Method, smallest_class
from atomlib.models.build import given_out
from atomlib.randomness import stream
from atomlib.runtime.device import memory
from atomlib.settings import MOST, Positive, Rate, Weight

Start = Literal["real", "noise", "kmeans", "rewhitened"]


class LearnedImages(Method):
    """The settings of every method that learns pixels by SGD."""

    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        default=8000, description="random networks, one step on the images each"
    )
    real_batch: Positive = Field(
        default=128,
        description="real images per class and iteration; capped at the smallest class",
    )
    init: Start = Field(
        default="real",
        description="what the images start from: real ones drawn by the seed, noise, or real ones "
        "nearest to k-means centres of features, or real ones whitened again by themselves",
    )
    init_epochs: Positive = Field(
        default=30,
        description="of the network on the full data whose features init 'kmeans' goes by",
    )
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

    def work(self, data: ImageData) -> int:
        counted = getattr(self, "operations", None)  # of an iteration; a method need not have it
        return self.length * counted(data) if counted else 0

    def resolve(self, data: ImageData) -> Self:
        made = super().resolve(data)
        if "dsa" in type(self).model_fields:  # which a method without augmentation has not
            made = made.but(dsa=self.dsa.resolve(data.augmentations))
        if "real_batch" in type(self).model_fields:  # nor one that sees no real images
            made = made.but(real_batch=min(self.real_batch, smallest_class(data)[0]))
        if made.init == "rewhitened" and not made.zca:
            raise SettingError(
                "init is 'rewhitened', and zca is off; allowed: 'rewhitened' with ZCA on, or "
                "'real', 'noise' or 'kmeans'"
            )
        return made.but(image_lr=self.default_rate() if self.image_lr is None else self.image_lr)

    def default_rate(self) -> float:
        """The rate of SGD on the images where none is given (supplement, Table 1)."""
        return 1.0 if self.ipc <= 50 else 10.0

    def rows(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> Int[Tensor, "k ipc"]:
        if self.init == "kmeans":
            return kmeans_rows(self, self.init_epochs, data, device, progress=progress)
        return super().rows(data, device, progress=progress)

    def start(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> Float[Tensor, "k ipc c s s"]:
        if self.init != "noise":
            images = super().start(data, device, progress=progress)
            return _whitened_by_themselves(images) if self.init == "rewhitened" else images
        shape = (data.num_classes, self.ipc, data.channels, data.image_size, data.image_size)
        return torch.randn(shape, generator=stream(self.seed, "init")).to(device)


def _whitened_by_themselves(images: Float[Tensor, "k ipc c s s"]) -> Float[Tensor, "k ipc c s s"]:
    """ZCA fitted on these few images instead of the training split, as DataDAM's official code
    does to its start where ZCA is on: n of them keep n - 1 directions, of variance near 1 each."""
    whitening = ZCAWhitening(dim=0, eps=preprocess.ZCA_EPS)
    return whitening(images.flatten(0, 1), include_fit=True).view_as(images)


class RealSampler:
    """The training images on the device, and which of them each iteration sees.

    Without ZCA they are kept as uint8, a quarter of float32; with it, as network inputs, because
    whitening costs a fifth of the network's own arithmetic.
    """

    def __init__(self, data: ImageData, method: LearnedImages, device: torch.device):
        self.transform = None if method.zca else preprocess.fitted(data, False, device)
        if method.zca:
            self.images = preprocess.training_images(data, method.zca, device)
        else:
            self.images = data.train_images.to(device)
        rows, present = rows_by_class(data)
        self.alike = bool(present.all())
        """Whether all classes have as many images, so that no row is a filler."""
        self.rows, self.present = rows.to(device), present.to(device)
        self.batch = method.real_batch
        self.generator = stream(method.seed, "real", device=device)

    def draw(self, count: int | None = None) -> Int[Tensor, "k b"]:
        """Rows of each class, without replacement: the largest of one random number per image.

        ``count`` of them, the method's real batch where it is None.
        """
        score = torch.rand(self.rows.shape, generator=self.generator, device=self.rows.device)
        if not self.alike:
            score = score.masked_fill(~self.present, -1.0)
        return self.rows.gather(1, score.topk(count or self.batch, dim=1).indices)

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
