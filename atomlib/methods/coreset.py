"""Herding, K-Center, Forgetting and DQ: real images chosen per class by a network.

It is a ConvNet trained on the full data. Forgetting goes by its mistakes on the way, the others by
features, the flattened outputs of its feature extractor (docs/facts.md, "Coresets").
"""

from typing import ClassVar, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from atomlib.augmentation import DSA, DSAConfig
from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.errors import DivergedError
from atomlib.full_data import features_of
from atomlib.methods.method import Method
from atomlib.models.build import operations
from atomlib.settings import Positive
from atomlib.training import EvalConfig


class Coreset(Method):
    """A method that chooses by a trained network, by its features unless a subclass says more."""

    follows_recipe: ClassVar[bool] = True

    feature_epochs: Positive = Field(
        default=30, description="of the network on the full data whose features choose"
    )
    dsa: DSA = DSAConfig()

    def resolve(self, data: ImageData) -> Self:
        return super().resolve(data).but(dsa=self.dsa.resolve(data.augmentations))

    def choose(self, features: Float[Tensor, "n f"], count: int) -> Int[Tensor, "count"]:
        """Which rows of one class's features are taken, in the order of their choice."""
        raise NotImplementedError

    def rows(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> Int[Tensor, "k ipc"]:
        features = features_of(data, self.training(), self.zca, device, progress=progress)
        if not features.isfinite().all():
            raise DivergedError(
                f"features after {self.feature_epochs} epochs on the full data are not finite; try "
                f"fewer feature_epochs, or another norm (now {self.norm!r})"
            )
        rows, present = rows_by_class(data)
        return torch.stack(
            [
                own[self.choose(features[own], self.ipc)]
                for own in (r[p] for r, p in zip(rows, present, strict=True))
            ]
        )

    def work(self, data: ImageData) -> int:
        # Forwards and backwards of the epochs and the first pass, and the features.
        passes = 3 * (self.feature_epochs + 1) + 1
        return passes * len(data.train_labels) * operations(self, data)

    def training(self) -> EvalConfig:
        """How the network is trained whose features choose."""
        return feature_training(self, self.feature_epochs).but(dsa=self.dsa)


def feature_training(method: Method, epochs: int) -> EvalConfig:
    """How a network is trained on the full data, like the one that ``method`` has."""
    return EvalConfig(
        networks=1,
        seed=method.seed,
        epochs=epochs,
        **{name: getattr(method, name) for name in ("model", "precision", "compile", "graphs")},
        **method.network_settings(),
    )
