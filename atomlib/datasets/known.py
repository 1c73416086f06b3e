"""Data sets that are known by what they hold: label, note, statistics, published figures.

An official data set is known by its pixels, whatever file or folder they come from. Its content
digest is a SHA-256 over its images as a multiset: of each split, the pairs of label and SHA-256
of the image's pixels, sorted. It depends neither on the order of the files, nor on their names, nor
on how the classes are called; an image that occurs twice counts twice. The same pairs put the
images into an order that depends on nothing else, the canonical one, so that what is drawn from
an official data set is the same wherever it came from.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation by channel, of pixels in [0, 1]."""

NO_FLIPS = ("color", "crop", "cutout", "scale", "rotate")
"""Augmentations that suit writing: a mirrored 2 is no 2."""


HELD_OUT = "-held-out"
"""The end of a name: the training images alone, some of which are for tests (``held_out``)."""

HELD_OUT_NOTE = (
    "is tested on one in ten of the training images of each class, and trained on the others; the "
    "test images are left alone."
)


class Known(NamedTuple):
    """What a data set brings beside its images."""

    name: str
    label: str
    """How it is written for a reader."""
    fingerprint: str
    """``ImageData.fingerprint``; of an official data set, its content digest."""
    note: str = ""
    """What a reader of its results must know."""
    published_as: str = ""
    """The data set whose published figures stand beside its results."""
    statistics: Statistics | None = None
    """As the field uses them; None is computed from the training pixels."""
    zca: bool = False
    """Whether ZCA whitening is on where the settings leave it open."""
    augmentations: tuple[str, ...] | None = None
    """The DSA strategies that leave a label what it is; None is all of them."""
    class_names: tuple[str, ...] = ()
    """The official ones, in the order of the labels; given for official data sets."""
    shape: tuple[int, ...] = ()
    """Training images, test images, channels, side."""
    classes: int = 0
    """How many."""
    smallest_class: int = 0
    """Training images of the smallest class."""


CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

CIFAR100_CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
    "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
    "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
    "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
    "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip

# Mean and standard deviation by channel as the field uses them (docs/facts.md, 'Pixel statistics');
# the deviations of CIFAR-10 are means of deviations of single images.
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100_STATISTICS = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
TINYIMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

# The digests of CIFAR-10 and CIFAR-100 were computed from lossless WebP copies of the PNG files of
# cyizhuo/CIFAR-10-dataset (a828d74) and cyizhuo/CIFAR-100-dataset (b105b30). That these hold the
# original pixels was checked so. CIFAR-10: the channel means over all training pixels, 0.49139968,
# 0.48215841 and 0.44653091, are the known ones to eight digits; 4,000 images occur, pixel for
# pixel, in another copy (karpathy/convnetjs); the first frog begins with the bytes 59, 43, 50.
# CIFAR-100: its statistics are the known ones; five rows of the official file are found by name
# and by bytes; 14 training images repeat another, and 10 test images occur in training, as in
# the official files.
OFFICIAL = (
    Known(
        "cifar10",
        "CIFAR-10",
        "5f18a068a09bb136396638fc92d44dd1974b0eb1380d86cbfa510b060e885934",
        published_as="cifar10",
        statistics=CIFAR10_STATISTICS,
        zca=True,
        class_names=CIFAR10_CLASSES,
        shape=(50_000, 10_000, 3, 32),
        classes=10,
        smallest_class=5_000,
    ),
    Known(
        "cifar100",
        "CIFAR-100",
        "a3f99ffa2d8d463f135856a3ea9cfa89bcb919977b1553bee4136c8124da9676",
        published_as="cifar100",
        statistics=CIFAR100_STATISTICS,
        zca=True,
        class_names=CIFAR100_CLASSES,
        shape=(50_000, 10_000, 3, 32),
        classes=100,
        smallest_class=500,
    ),
)
"""Known by their pixels, in any order; brought into the canonical one."""

AS_LOADED = (
    Known(
        "digits",
        "digits (8 x 8)",
        "aef16b6626df7f5fdb40b1d94301b4a5530b506262db05feb64c004e30a4e849",
        published_as="digits",
        augmentations=NO_FLIPS,
        shape=(1_442, 355, 1, 8),
        classes=10,
        smallest_class=140,
    ),
    Known(
        "digits32",
        "digits (32 x 32)",
        "cbdb6b6eac8b737e9211b1f396e8fb3ab9ffeeb15dc08d662ca3686ffe9fea38",
        published_as="digits32",
        augmentations=NO_FLIPS,
        shape=(1_442, 355, 1, 32),
        classes=10,
        smallest_class=140,
    ),
    Known(
        "cifar10-jpeg",
        "CIFAR-10 (JPEG)",
        "6bcd776dbdfca7a561c545b852dcdce08529015ae904d5fca2cfec0ebac9bb21",
        note="CIFAR-10 (JPEG) is CIFAR-10 with every image re-encoded as JPEG: its pixels are not "
        "those that the published figures were measured on.",
        published_as="cifar10",
        zca=True,
        shape=(50_000, 10_000, 3, 32),
        classes=10,
        smallest_class=5_000,
    ),
)
"""Known by the fingerprint of their rows in the order in which they are loaded."""

TINYIMAGENET = Known(
    "tinyimagenet",
    "TinyImageNet",
    "",  # known by the MD5 of its official archive (see ``load``)
    published_as="tinyimagenet",
    statistics=TINYIMAGENET_STATISTICS,
    shape=(100_000, 10_000, 3, 64),
    classes=200,
    smallest_class=500,
)


def find(fingerprint: str) -> Known | None:
    """The data set of that fingerprint; None where it is none of these."""
    return next((k for k in (*OFFICIAL, *AS_LOADED) if k.fingerprint == fingerprint), None)


def of(name: str, fingerprint: str | None) -> Known:
    """What a data set of that name and fingerprint brings, as a record or a file tells them.

    Only a name, without a fingerprint, is taken at its word. A stranger's label is its name, as is
    what its published figures are listed under, unless that is a known data set's name.
    """
    if fingerprint is None:
        every = (*OFFICIAL, *AS_LOADED, TINYIMAGENET)
        found = next((k for k in every if k.name == name), None)
    else:
        found = find(fingerprint)
    if found is None and name.endswith(HELD_OUT):
        whole = of(name.removesuffix(HELD_OUT), None)
        label = f"{whole.label} (held out)"
        return Known(name, label, fingerprint or "", note=f"{label} {HELD_OUT_NOTE}")
    return found or Known(
        name, name, fingerprint or "", published_as="" if name in names() else name
    )


def usual_statistics(name: str, fingerprint: str) -> Statistics | None:
    """Those of a data set whose maker gave it no others; None is computed."""
    found = find(fingerprint)
    if found is None and (name == TINYIMAGENET.name or name.endswith(HELD_OUT)):
        found = of(name.removesuffix(HELD_OUT), None)
    return found.statistics if found else None


def official(name: str) -> Known:
    """The official data set of that name."""
    return next(k for k in OFFICIAL if k.name == name)


def names() -> set[str]:
    """Names that belong to these data sets, and to no other."""
    return {k.name for k in (*OFFICIAL, *AS_LOADED, TINYIMAGENET)}


Split = tuple[UInt8[Tensor, "n c s s"], Int[Tensor, "n"]]
"""Images and their labels."""


def content_digest(splits: Sequence[Split]) -> tuple[str, list[Int[Tensor, "n"]]]:
    """The content digest, in hex, and the rows of each split in canonical order."""
    digest, orders = hashlib.sha256(), []
    for images, labels in splits:
        pixels = images.contiguous().numpy().reshape(len(images), -1)
        pairs = [
            label.to_bytes(4, "big") + hashlib.sha256(row).digest()
            for label, row in zip(labels.tolist(), pixels, strict=True)
        ]
        order = sorted(range(len(pairs)), key=pairs.__getitem__)
        digest.update(f"{tuple(images.shape)}\n".encode())
        digest.update(b"".join(pairs[row] for row in order))
        orders.append(torch.tensor(order))
    return digest.hexdigest(), orders
