"""Matching the gradients by which real and synthetic images train a network: DC and DSA.

For a network's weights and the images X of class k, g_k(X) is the gradient of the mean cross
entropy of X with label k. One image step descends

    L = sum_k D(g_k(real_k), g_k(synthetic_k))

    D(A, B) = sum over weight tensors of two or more dimensions, sum over their rows i,
              of 1 - <A_i, B_i> / (|A_i| |B_i| + 1e-6)

where a convolution's row is all weights of one output channel. Biases and the scales and shifts of
norms have one dimension and do not count. One iteration, a network's life: draw a fresh network;
take ``outer`` image steps, and after each but the last train the network on the synthetic images
for ``inner`` epochs. With one image step the network is never trained.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from atomlib.augmentation import Draw, augment, draw
from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError
from atomlib.methods.inner_training import InnerTraining, TrainsWithin
from atomlib.methods.learned_images import LearnedImages, RealSampler, Start, part_of
from atomlib.methods.method import Learner, smallest_class
from atomlib.models.build import check_room, network_for, reset_parameters
from atomlib.randomness import stream
from atomlib.runtime.device import Execution
from atomlib.settings import MOST, Positive, Rate

EPSILON = 1e-6
"""Added to the product of two rows' lengths."""

STATISTICS = 16
"""Real images per class that set BatchNorm's statistics before an image step, as published."""

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Image steps and epochs between them by IPC, as the official code has them; it has no others."""


def loops(ipc: int) -> tuple[int, int]:
    """Image steps per network, and epochs between them.

    Where the official code has none for an IPC, the pattern of 10, 20 and 50: IPC image steps and
    500 epochs in all.
    """
    return LOOPS.get(ipc, (ipc, max(1, round(500 / ipc))))


class GradientMatching(TrainsWithin, LearnedImages):
    """The settings of DC, which DSA shares; defaults are the official code's."""

    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        default=1000, description="random networks, ``outer`` steps on the images each"
    )
    real_batch: Positive = Field(
        default=256,
        description="real images per class and image step; capped at the smallest class",
    )
    init: Start = Field(default="noise", description="what the images start from")
    image_lr: Rate = Field(default=0.1, description="SGD on images")
    zca: bool = Field(default=False, description="ZCA whitening")
    outer: Positive | None = Field(
        default=None,
        description="image steps per network; None is the published number for IPC 1, 10, 20, 30, "
        "40 and 50, and IPC elsewhere (a pattern, not published)",
    )
    inner: Positive | None = Field(
        default=None,
        description="epochs on the synthetic images between image steps; None is the published "
        "number for IPC 1, 10, 20, 30, 40 and 50, and 500 / IPC elsewhere (a pattern, not "
        "published)",
    )

    def resolve(self, data: ImageData) -> Self:
        outer, inner = loops(self.ipc)
        return (
            super()
            .resolve(data)
            .but(
                outer=outer if self.outer is None else self.outer,
                inner=inner if self.inner is None else self.inner,
            )
        )

    def check_room(self, data: ImageData, device: torch.device) -> None:
        if not self.iterations:
            return  # no network is built
        check_room(self, data, device, max(self.real_batch, self.ipc), networks=1)

    def learner(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> "GradientMatcher | None":
        if not self.iterations:
            return None
        return GradientMatcher(self, data, device, self.start(data, device, progress=progress))

    def operations(self, data: ImageData) -> int:
        """Floating point operations of one network's life, counted without computing them."""
        from torch.utils.flop_counter import FlopCounterMode  # slow to import

        def gradients(image: Tensor, **how: bool) -> tuple[Tensor, ...]:
            # As weight_gradients, whose transform the counter's hooks do not bear.
            loss = F.cross_entropy(network(image), torch.zeros(1, dtype=torch.long))
            return torch.autograd.grad(loss, list(network.parameters()), **how)

        with torch.device("meta"):
            network = network_for(self, data)
            image = torch.empty(1, data.channels, data.image_size, data.image_size)
            with FlopCounterMode(display=False) as real:
                wanted = gradients(image)
            with FlopCounterMode(display=False) as synthetic:
                image = image.requires_grad_() * 1  # the hooks bear no leaf either
                loss = distance(wanted, gradients(image, create_graph=True))
                torch.autograd.grad(loss, image)
        one_step = self.real_batch * real.get_total_flops()
        one_step += self.ipc * synthetic.get_total_flops()
        within = self.inner * self.ipc * real.get_total_flops()  # training takes the same gradient
        return data.num_classes * (self.outer * one_step + (self.outer - 1) * within)


def distance(real: Sequence[Tensor], synthetic: Sequence[Tensor]) -> Float[Tensor, ""]:
    """D of two sequences of weight gradients, one tensor per weight of the network.

    Differentiable in both. Raises SettingError unless the shapes are alike.
    """
    shapes, others = ([tuple(t.shape) for t in one] for one in (real, synthetic))
    if shapes != others:
        raise SettingError(
            f"synthetic has gradients of shapes {others}; allowed: those of real, {shapes}"
        )
    rows = [
        (a.flatten(1), b.flatten(1)) for a, b in zip(real, synthetic, strict=True) if a.dim() > 1
    ]
    if not rows:
        raise SettingError(
            f"real has gradients of shapes {shapes}; allowed: at least one of two dimensions"
        )
    return torch.stack([(1 - _cosines(a, b)).sum() for a, b in rows]).sum()


def _cosines(a: Float[Tensor, "rows n"], b: Float[Tensor, "rows n"]) -> Float[Tensor, "rows"]:
    return (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1) + EPSILON)


def weight_gradients(
    network: nn.Module, images: Float[Tensor, "n c s s"], labels: Int[Tensor, "n"]
) -> tuple[Tensor, ...]:
    """Gradient of the mean cross entropy by each weight of the network, in their order.

    Differentiable in ``images``; a transform and not a backward, so that it can be compiled. With
    channels last, compiled convolutions go back without a transposition, a fifth faster.
    """
    images = images.contiguous(memory_format=torch.channels_last)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        scores = torch.func.functional_call(network, weights, (images,))
        return F.cross_entropy(scores if scores.dtype.itemsize >= 4 else scores.float(), labels)

    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    return tuple(torch.func.grad(loss)(weights).values())


class GradientMatcher(Learner):
    """The distillation of a GradientMatching method.

    One class at a time goes through the network, real images and then synthetic ones: class by
    class is how the loss is defined, and memory does not grow with the number of classes.
    """

    def __init__(
        self,
        method: GradientMatching,
        data: ImageData,
        device: torch.device,
        start: Float[Tensor, "k ipc c s s"],
    ):
        super().__init__(
            {"images": start},
            Execution(method, device, method.operations(data) * method.iterations),
            rates={"images": method.image_lr},
            momentum=method.image_momentum,
            weight_decay=method.image_weight_decay,
        )
        self.method, self.data = method, data
        self.network = network_for(method, data, stream(method.seed, "network")).to(device)
        self.network.requires_grad_(False).train()
        self.networks = stream(method.seed, "networks", device=device)
        self.draws = stream(method.seed, "dsa", device=device)
        self.sampler = RealSampler(data, method, device)
        self.inner = InnerTraining(method, self.network, data.num_classes, self.execution)
        self.labels = torch.arange(data.num_classes, device=device)
        self._real = self.execution.compiled(self._real_gradients)
        self._loss = self.execution.compiled(self._distance)

    def life(self) -> Iterator[Float[Tensor, ""]]:
        images = self.learned["images"]
        reset_parameters(self.network, self.networks)
        for step in range(self.method.outer):
            yield self.matched(images)
            if step + 1 < self.method.outer:
                for _ in range(self.method.inner):
                    self.inner.epoch(images)

    def matched(self, images: Float[Tensor, "k ipc c s s"]) -> Float[Tensor, ""]:
        """The loss of the network as it stands; where ``images`` ask for a gradient, it is in
        their ``grad`` afterwards."""
        if self.method.norm == "batch":
            self._set_statistics()
        indices, drawn = self.sampler.draw(), self.drawn()
        losses, gradients = [], []
        for k in range(len(images)):
            one, label = slice(k, k + 1), self.labels[k : k + 1]
            part = images[one].detach().requires_grad_(images.requires_grad)
            with self.execution.step():
                mine = part_of(drawn, one)
                real = self._real(self.sampler.images[indices[one]], mine, label)
                loss = self._loss(part, mine, label, real)
                if images.requires_grad:
                    loss.backward()
                    gradients.append(part.grad.clone())
                losses.append(loss.detach().clone())  # what a CUDA graph writes over
        if gradients:
            images.grad = torch.cat(gradients)
        return torch.stack(losses).sum()

    def generators(self) -> dict[str, torch.Generator]:
        return {
            "networks": self.networks,
            "dsa": self.draws,
            "real": self.sampler.generator,
            "inner": self.inner.generator,
        }

    def drawn(self) -> Draw | None:
        """One draw of DSA per class; None where there is no augmentation."""
        if not self.method.dsa.on:
            return None
        return draw(self.data.num_classes, self.data.image_size, self.method.dsa, self.draws)

    @torch.no_grad()
    def _set_statistics(self) -> None:
        """BatchNorm's running statistics from real images; then they stay, for both sides."""
        count = min(STATISTICS, smallest_class(self.data)[0])
        real = self.sampler.as_inputs(self.sampler.images[self.sampler.draw(count)])
        self.network.train()(real.flatten(0, 1))
        self.network.eval()

    def _real_gradients(
        self, images: Tensor, drawn: Draw | None, label: Int[Tensor, "1"]
    ) -> tuple[Tensor, ...]:
        return self._gradients(self.sampler.as_inputs(images), drawn, label)

    def _distance(
        self,
        images: Float[Tensor, "1 ipc c s s"],
        drawn: Draw | None,
        label: Int[Tensor, "1"],
        real: tuple[Tensor, ...],
    ) -> Float[Tensor, ""]:
        return distance(real, self._gradients(images, drawn, label))

    def _gradients(
        self, images: Float[Tensor, "1 m c s s"], drawn: Draw | None, label: Int[Tensor, "1"]
    ) -> tuple[Tensor, ...]:
        # Outside of the transform, through which the resampling of DSA has no derivative.
        if drawn is not None:
            images = augment(images, drawn, self.method.dsa)
        with self.execution.autocast():
            return weight_gradients(self.network, images[0], label.expand(images.shape[1]))
