"""GLaD: the images are what a decoder makes of latents, and the latents are learned.

x = P(G(f)), with f the latents of an image, G a frozen ``decoder``, and P the pre-processing. For
the loss L(x) of any method that learns images,

    dL/df = (dx/df)' dL/dx

and nothing else changes: GLaD is a parametrisation, here of DM, of DC and of MTT. Their settings of
the images (``image_lr``, ``image_momentum``, ``image_weight_decay``) are those of the latents. The
paper's G is the later layers of a StyleGAN-XL, whose weights are not to be had here; this one is
small, and trained here or not at all (docs/methods.md, "GLaD").
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData
from atomlib.methods import decoder as decoders
from atomlib.methods.dm import DM
from atomlib.methods.dsa import DSA
from atomlib.methods.learned_images import LearnedImages
from atomlib.methods.method import Learner
from atomlib.methods.mtt import MTT
from atomlib.randomness import stream
from atomlib.recipes import Change
from atomlib.settings import MOST, Positive, Rate, Settings

LARGEST = 10.0
"""Of a latent at the start, as published; later nothing is clipped."""

PIXELS = 1 << 18
"""Of images in one forward of the decoder: 256 images of 32 x 32."""


class Latents(Settings):
    """What a method of images takes on to learn latents instead: a base beside that method."""

    prior: Literal["trained", "random"] = Field(
        default="trained",
        description="the decoder's weights: of an autoencoder trained on the training images, or "
        "drawn by the seed",
    )
    decoder_width: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = Field(
        default=64, description="channels of the latents, and of the decoder's first maps"
    )
    decoder_epochs: Positive = Field(
        default=10, description="of the autoencoder on the training images, for prior 'trained'"
    )
    fit_steps: Annotated[int, Field(ge=0, le=MOST)] = Field(
        default=200,
        description="of Adam, by which latents get near the start images, for prior 'random'",
    )

    def learner(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> "LatentLearner":
        # Also without iterations: what the start stands for is what the decoder makes of it.
        method = self.but(iterations=max(1, self.iterations))
        within = super(Latents, method).learner(data, device, progress=progress)
        transform = preprocess.fitted(data, self.zca, device)
        pixels = transform.inverse(within.images().flatten(0, 1)).clamp(0, 1)
        if self.prior == "trained":
            width, epochs = self.decoder_width, self.decoder_epochs
            about = data, width, epochs, self, device
            network = decoders.trained_autoencoder(*about, progress=progress)
            with within.execution.step():
                decoder, latents = network.decoder, in_chunks(network.encode, pixels)
        else:
            decoder = decoders.random_decoder(data, self.decoder_width, self.seed, device)
            shape = len(pixels), *decoder.shape
            latents = torch.randn(shape, generator=stream(self.seed, "latents")).to(device)
            with within.execution.step():
                latents = in_chunks(
                    lambda x, f: decoders.fit(decoder, x, f, self.fit_steps), pixels, latents
                )
        latents = latents.clamp(-LARGEST, LARGEST).unflatten(0, (data.num_classes, self.ipc))
        return LatentLearner(self, within, latents, lambda f: transform.of_floats(decoder(f)))

    def operations(self, data: ImageData) -> int:
        """Floating point operations of one network's life: those of the method within, and two
        forwards and a backward of the decoder per image step."""
        images = data.num_classes * self.ipc * getattr(self, "outer", 1)
        decoding = decoders.operations(data, self.decoder_width)
        return super().operations(data) + 3 * decoding * images

    def work(self, data: ImageData) -> int:
        if self.prior == "random":
            return super().work(data)
        coding = decoders.operations(data, self.decoder_width, autoencoder=True)
        return super().work(data) + 3 * coding * len(data.train_labels) * self.decoder_epochs


class GLaD(Latents, DM):
    """DM of decoded latents; defaults are the official code's, but for the rate, which is DM's: the
    published one is that of another decoder."""

    name: ClassVar[str] = "glad"
    label: ClassVar[str] = "GLaD-DM (own decoder)"
    source: ClassVar[str] = "Cazenavette et al., CVPR 2023, arXiv 2305.01649"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#332288"
    follows_recipe: ClassVar[bool] = False
    disagreements: ClassVar[Mapping[str, Change]] = {}  # DM's are of pixels

    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        default=1000, description="random networks, one step on the latents each"
    )
    real_batch: Positive = Field(
        default=256,
        description="real images per class and iteration; capped at the smallest class",
    )
    zca: preprocess.ZCA = Field(
        default=False,
        description="ZCA whitening, true fitted on normalised images, 'unit' on images in [0, 1]",
    )


class GLaDDC(Latents, DSA):
    """DC of decoded latents, augmented, in networks that are never trained, as published."""

    name: ClassVar[str] = "glad_dc"
    label: ClassVar[str] = "GLaD-DC (own decoder)"
    source: ClassVar[str] = GLaD.source
    revision: ClassVar[int] = 2
    colour: ClassVar[str] = "#661100"

    outer: Positive = Field(default=1, description="steps on the latents per network")
    inner: Positive = Field(
        default=1, description="epochs on the synthetic images between steps on the latents"
    )


class GLaDMTT(Latents, MTT):
    """MTT of decoded latents."""

    name: ClassVar[str] = "glad_mtt"
    label: ClassVar[str] = "GLaD-MTT (own decoder)"
    source: ClassVar[str] = GLaD.source
    revision: ClassVar[int] = 2
    colour: ClassVar[str] = "#44aa99"

    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        default=1000, description="students, one step on the latents each"
    )
    student_steps: Positive = Field(default=20, description="N, steps of a student")
    expert_epochs: Positive = Field(
        default=3, description="M, epochs of an expert that the student's steps stand for"
    )
    latest_start: Positive = Field(
        default=5,
        description="T+: a student starts after 0 to latest_start - 1 epochs of an expert",
    )
    rate: Rate = Field(default=0.01, description="a, the student's learning rate at first")
    rate_lr: Rate = Field(default=1e-6, description="SGD on the student's rate")
    zca: preprocess.ZCA = Field(
        default=False,
        description="ZCA whitening, 'unit' fitted on images in [0, 1], true on normalised ones",
    )


def in_chunks(function: Callable[..., Tensor], *inputs: Float[Tensor, "n ..."]) -> Tensor:
    """``function`` of some images at a time, joined; it gives each image its own result."""
    chunks = zip(*(tensor.split(_chunk(inputs[0])) for tensor in inputs), strict=True)
    return torch.cat([function(*parts) for parts in chunks])


def _chunk(images: Float[Tensor, "n c s s"]) -> int:
    return max(1, PIXELS // images.shape[-1] ** 2)


class LatentLearner(Learner):
    """The distillation of another learner, whose images are what ``decode`` makes of latents.

    ``within`` gives the gradient by its images, and is never asked to make a step. ``decode`` takes
    latents [n, ...] to network inputs [n, c, s, s], each image by itself, so that it is done in
    chunks: memory does not grow with the number of images.
    """

    def __init__(
        self,
        method: LearnedImages,
        within: Learner,
        latents: Float[Tensor, "k ipc w h h"],
        decode: Callable[[Tensor], Tensor],
    ):
        groups = zip(within.learned.items(), within.optimizer.param_groups, strict=True)
        others = {name: (tensor, g["lr"]) for (name, tensor), g in groups if name != "images"}
        super().__init__(
            {"latents": latents, **{name: tensor for name, (tensor, _) in others.items()}},
            within.execution,
            rates={"latents": method.image_lr, **{name: lr for name, (_, lr) in others.items()}},
            momentum=method.image_momentum,
        )
        self.optimizer.param_groups[0]["weight_decay"] = method.image_weight_decay
        self.within, self.decode = within, decode
        self._decode()

    def life(self) -> Iterator[Float[Tensor, ""]]:
        for loss in self.within.life():
            self._pull_back()
            yield loss
            self._decode()

    def images(self) -> Float[Tensor, "k ipc c s s"]:
        return self.within.images()

    def generators(self) -> dict[str, torch.Generator]:
        return self.within.generators()

    def extras(self) -> dict[str, float]:
        return self.within.extras()

    def state(self) -> dict[str, Tensor]:
        within = {k: value for k, value in self.within.state().items() if k != "images"}
        return within | super().state()

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self._decode()
        self.within.restore({**state, "images": self.within.images()})

    @torch.no_grad()
    def _decode(self) -> None:
        """Bring the images of the learner within, in place, to what the latents stand for."""
        images = self.within.learned["images"]
        latents = self.learned["latents"].flatten(0, 1)
        with self.execution.step():
            parts = latents.split(_chunk(images))
            images.copy_(torch.cat([self.decode(part) for part in parts]).view_as(images))

    def _pull_back(self) -> None:
        """dL/df from dL/dx, in the ``grad`` of the latents."""
        images, latents = self.within.learned["images"], self.learned["latents"]
        parts, gradients, size = latents.detach().flatten(0, 1), [], _chunk(images)
        for part, by_images in zip(
            parts.split(size), images.grad.flatten(0, 1).split(size), strict=True
        ):
            part.requires_grad_()
            gradients += torch.autograd.grad(self.decode(part), part, by_images)
        latents.grad = torch.cat(gradients).view_as(latents)
