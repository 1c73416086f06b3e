"""Training a network on the synthetic images, between the image steps of DC, DSA and CAFE.

Plain SGD: no momentum, no weight decay, a constant rate, shuffled batches, the last partial one
kept, DSA with one strategy per batch and parameters drawn per image where the method has DSA.
"""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from atomlib.augmentation import Draw, augment_each, draw
from atomlib.methods.method import Method
from atomlib.randomness import stream
from atomlib.runtime.device import Execution
from atomlib.settings import Positive, Rate


class TrainsWithin(Method):
    """The settings of a method of learned images that trains its networks on them: its first base,
    before LearnedImages."""

    network_lr: Rate = Field(
        default=0.01, description="SGD on weights, between image steps, without momentum"
    )
    network_batch: Positive = Field(
        default=256, description="synthetic images per step on weights, between image steps"
    )

    def advice(self) -> str:
        return (
            f"try a smaller image_lr (now {self.image_lr:g}) or network_lr "
            f"(now {self.network_lr:g})"
        )


class InnerTraining:
    """Epochs of a network on the synthetic images, as they are at the time."""

    def __init__(
        self, method: TrainsWithin, network: nn.Module, classes: int, execution: Execution
    ):
        self.method, self.network, self.execution = method, network, execution
        self.labels = torch.arange(classes, device=execution.device).repeat_interleave(method.ipc)
        self.generator = stream(method.seed, "inner", device=execution.device)
        self.optimizer = torch.optim.SGD(network.parameters(), lr=method.network_lr)
        self._loss = execution.compiled(self._training_loss)

    def epoch(self, images: Float[Tensor, "k ipc c s s"]) -> None:
        """One pass; the weights ask for a gradient while it lasts, and not outside."""
        images = images.detach().flatten(0, 1)
        order = torch.randperm(len(images), generator=self.generator, device=images.device)
        self.network.requires_grad_(True).train()
        for rows in order.split(self.method.network_batch):
            drawn = None
            if self.method.dsa.on:
                about = len(rows), images.shape[-1], self.method.dsa, self.generator
                drawn = draw(*about, one_strategy=True)
            with self.execution.step():
                self.optimizer.zero_grad(set_to_none=True)
                self._loss(images[rows], self.labels[rows], drawn).backward()
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.network.requires_grad_(False)

    def _training_loss(self, images: Tensor, labels: Tensor, drawn: Draw | None) -> Tensor:
        images = augment_each(images, drawn, self.method.dsa)
        with self.execution.autocast():
            scores = self.network(images)
        return F.cross_entropy(scores.float(), labels)
