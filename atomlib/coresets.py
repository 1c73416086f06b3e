"""Herding and K-Center: real images chosen per class by the features of a trained network.

Features are the flattened outputs of the feature extractor of a ConvNet trained on the full data
(docs/facts.md, 'Coresets'). Random needs none of this: it is the start of a distillation.
"""

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomlib import preprocess
from atomlib.config import DistillConfig
from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.full_data import trained_network
from atomlib.training import TEST_BATCH, EvalConfig


def choose(data: ImageData, config: DistillConfig, device: torch.device) -> Int[Tensor, "k ipc"]:
    """Training rows of each class that a resolved config's method chooses."""
    select = {"herding": herding, "kcenter": k_center}[config.method]
    features = whole_set_features(data, config, device)
    rows, present = rows_by_class(data)
    return torch.stack(
        [
            own[select(features[own], config.ipc)]
            for own in (r[p] for r, p in zip(rows, present, strict=True))
        ]
    )


def whole_set_features(
    data: ImageData, config: DistillConfig, device: torch.device
) -> Float[Tensor, "n f"]:
    """f_out of every training image under a network trained on all of them, on the CPU."""
    training = EvalConfig(
        networks=1,
        seed=config.seed,
        epochs=config.feature_epochs,
        dsa=config.dsa,
        **{name: getattr(config, name) for name in ("model", "precision", "compile", "graphs")},
        **config.network_settings(),
    )
    return _features(data, training, config.zca, device)


# One table of cells asks for the same features again and again.
@lru_cache(maxsize=1)
def _features(data: ImageData, training: EvalConfig, zca: bool, device: torch.device) -> Tensor:
    network = trained_network(data, training, zca=zca, device=device)
    images = preprocess.training_images(data, zca, device)
    with torch.no_grad():
        return torch.cat([network.features(part)[1].cpu() for part in images.split(TEST_BATCH)])


def herding(features: Float[Tensor, "n f"], count: int) -> Int[Tensor, "count"]:
    """Rows whose running mean stays nearest the mean m of all.

    With S_i the sum of the first i chosen, the next is the x that brings S_i + x closest to
    (i + 1) m; none is taken twice, ties go to the first.
    """
    features = features.double()
    mean, lengths = features.mean(dim=0), features.square().sum(dim=1)
    total, chosen = torch.zeros_like(mean), []
    for i in range(count):
        wanted = (i + 1) * mean - total
        # |wanted - x|^2 without the |wanted|^2 that all have in common.
        distance = lengths - 2 * features @ wanted
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total += features[chosen[-1]]
    return torch.tensor(chosen)


def k_center(features: Float[Tensor, "n f"], count: int) -> Int[Tensor, "count"]:
    """Rows that leave no image far from its nearest one, chosen greedily.

    First the image nearest the mean, then again and again the one farthest from its nearest
    centre; ties go to the first.
    """
    features = features.double()
    first = (features - features.mean(dim=0)).square().sum(dim=1).argmin()
    chosen = [int(first)]
    nearest = torch.full((len(features),), torch.inf, dtype=torch.double)
    for _ in range(count - 1):
        distance = (features - features[chosen[-1]]).square().sum(dim=1)
        nearest = torch.minimum(nearest, distance)
        nearest[chosen] = -1.0  # so that copies of a centre do not bring it back
        chosen.append(int(nearest.argmax()))
    return torch.tensor(chosen)
