"""Some training images in place of the test images: settings are chosen by these.

A setting that was chosen by the test images looks better on them than it is. So choose it by
``load_dataset("cifar10-held-out")``, and report it on ``cifar10``.
"""

import torch

from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.datasets.known import HELD_OUT
from atomlib.errors import DataError
from atomlib.randomness import stream

ONE_IN = 10
"""Of the training images of each class, rounded up, is held out."""


def held_out(data: ImageData) -> ImageData:
    """The training split alone: one in ten of each class is the test split, the others train.

    The draw depends on the data's order only. Statistics, ZCA and augmentations are the whole
    data set's; no published figure belongs to it. Raises DataError for a class with one image.
    """
    rows, present = rows_by_class(data)
    counts = present.sum(dim=1)
    if counts.min() < 2:
        name = data.class_names[int(counts.argmin())]
        raise DataError(
            f"class {name!r} of {data.name} has one training image; allowed, where some are held "
            "out: two or more"
        )
    score = torch.rand(rows.shape, generator=stream(0, "held out"))
    rank = score.masked_fill(~present, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
    chosen = present & (rank < -(-counts // ONE_IN)[:, None])
    test, train = (rows[which].sort().values for which in (chosen, present & ~chosen))
    return ImageData(
        f"{data.name}{HELD_OUT}",
        data.train_images[train],
        data.train_labels[train],
        data.train_images[test],
        data.train_labels[test],
        data.class_names,
        statistics=data.statistics,
        zca=data.zca,
        augmentations=data.augmentations,
    )
