"""The start by k-means: real images nearest to the centres of their class's features.

As the start files of DataDAM's official code (docs/facts.md, "The k-means start"). Features are the
flattened outputs of the feature extractor of a ConvNet trained on the full data, as coresets' are.
"""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.errors import SettingError
from atomlib.full_data import features_of
from atomlib.methods.coreset import feature_training
from atomlib.methods.method import Method
from atomlib.randomness import stream

TIE = 1e-9
"""Squared distances as near as this, relatively, are equal: the two images of a cluster of two."""


def kmeans_rows(
    method: Method, epochs: int, data: ImageData, device: torch.device, *, progress: bool = True
) -> Int[Tensor, "k ipc"]:
    """Training rows of each class that a resolved method starts from, in the order of the centres.

    ``epochs`` are of the network on the full data, which trains with DSA whatever the method
    does, so that methods compared at one seed start alike.
    """
    training = feature_training(method, epochs)
    features = features_of(data, training, method.zca, device, progress=progress)
    if not features.isfinite().all():
        raise SettingError(
            f"init is 'kmeans', but features after {epochs} epochs are no numbers; allowed: 'real' "
            "or 'noise' with this network"
        )
    generator = stream(method.seed, "kmeans")
    rows, present = rows_by_class(data)
    return torch.stack(
        [
            own[nearest(features[own], centres(features[own], method.ipc, generator))]
            for own in (r[p] for r, p in zip(rows, present, strict=True))
        ]
    )


def centres(
    features: Float[Tensor, "n f"], count: int, generator: torch.Generator
) -> Float[Tensor, "count f"]:
    """k-means centres of one class's features, in float64."""
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.exceptions import ConvergenceWarning

    seed = int(torch.randint(2**32, (), generator=generator))
    with warnings.catch_warnings():
        # Copies of an image may leave fewer clusters than centres; ``nearest`` takes others then.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(count, random_state=seed).fit(features.double().numpy())
    return torch.from_numpy(found.cluster_centers_)


def nearest(
    features: Float[Tensor, "n f"], centres: Float[Tensor, "count f"]
) -> Int[Tensor, "count"]:
    """Of each centre in turn, the nearest image that no other has taken; ties go to the first."""
    features, chosen = features.double(), []
    for centre in centres:
        distance = (features - centre).square().sum(dim=1)
        distance[chosen] = torch.inf
        near = distance <= distance.min() * (1 + TIE)
        chosen.append(int(near.to(torch.uint8).argmax()))
    return torch.tensor(chosen)
