"""A data set in memory: both splits as uint8 tensors, labels, class names and what they are."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from atomlib.augmentation import STRATEGIES
from atomlib.datasets import known
from atomlib.datasets.known import Statistics
from atomlib.datasets.limits import unspeakable
from atomlib.errors import DataError, shown


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """A data set in memory: pixels as they are on disk, labels as indices of class_names.

    What is left out of the fields below ``fingerprint`` is filled in for a data set that is known
    by its fingerprint (``known``); for any other, the label is the name.

    Two that were loaded from the same content are equal, so that what was computed from one is
    found again for the other.

    Raises DataError for what is none of that, a class without training images, or a name that a
    file cannot bear.
    """

    name: str
    """Short name as it appears in file names: 1 to 100 bytes of text, not beginning with a dot."""
    train_images: UInt8[Tensor, "n c s s"]
    train_labels: Int[Tensor, "n"]
    test_images: UInt8[Tensor, "m c s s"]
    test_labels: Int[Tensor, "m"]
    class_names: tuple[str, ...]
    fingerprint: str = ""
    """SHA-256 of all pixels, labels and class names, or an official data set's content digest;
    computed where not given. Statistics other than those that the content brings begin it
    ("digest:..."), for results depend on them."""
    label: str | None = None
    """How it is written in tables and figures."""
    note: str | None = None
    """A sentence that a reader of its results must know; "" is none."""
    published_as: str | None = None
    """The data set whose published figures stand beside its results; "" is none."""
    statistics: Statistics | None = None
    """Mean and standard deviation by channel, of pixels in [0, 1]; None: of its training pixels."""
    zca: bool | None = None
    """Whether ZCA whitening is on where the settings leave it open."""
    augmentations: tuple[str, ...] | None = None
    """The DSA strategies that leave a label what it is; None is all of them."""

    def __post_init__(self):
        check_name(self.name)
        _check(self)
        _check_brought(self)
        content = self.fingerprint.rpartition(":")[2] or _fingerprint(self)
        brings = known.of(self.name, content)
        for field_name in BROUGHT:
            if getattr(self, field_name) is None:
                object.__setattr__(self, field_name, getattr(brings, field_name))
        if self.statistics is not None:
            object.__setattr__(self, "statistics", _checked_statistics(self))
        if self.statistics not in (None, known.usual_statistics(self.name, content)):
            own = hashlib.sha256(repr(self.statistics).encode()).hexdigest()[:8]
            content = f"{own}:{content}"
        object.__setattr__(self, "fingerprint", content)

    def __eq__(self, other: object) -> bool:
        """Whether all is equal that a result depends on: content, and what it brings."""
        if not isinstance(other, ImageData):
            return NotImplemented
        return all(getattr(self, n) == getattr(other, n) for n in ("name", "fingerprint", *BROUGHT))

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def channels(self) -> int:
        return self.train_images.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return self.train_images.shape[-1]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def told(self) -> dict[str, Any]:
        """What a reader of its results must know and its name and fingerprint do not tell: fields
        of ``known.Known`` by name."""
        images = len(self.train_labels), len(self.test_labels)
        facts = {name: getattr(self, name) for name in BROUGHT if name != "statistics"} | {
            "shape": (*images, self.channels, self.image_size),
            "classes": self.num_classes,
            "smallest_class": min(self.class_counts.values()),
        }
        brings = known.of(self.name, self.fingerprint)
        return {name: value for name, value in facts.items() if value != getattr(brings, name)}

    @cached_property
    def class_counts(self) -> dict[str, int]:
        """Training images by class name."""
        counts = Counter(self.train_labels.tolist())
        return {name: counts[index] for index, name in enumerate(self.class_names)}

    def __repr__(self) -> str:
        return f"<{self.describe()}>"

    def describe(self) -> str:
        """One line for a reader."""
        c, s = self.channels, self.image_size
        return (
            f"{self.name}: {len(self.train_labels):,} training and {len(self.test_labels):,} test "
            f"images of {s} x {s} x {c}, {self.num_classes} classes"
        )


def rows_by_class(data: ImageData) -> tuple[Int[Tensor, "k n"], Bool[Tensor, "k n"]]:
    """Training rows of each class, padded to the largest class, and which entries are real."""
    counts = torch.bincount(data.train_labels, minlength=data.num_classes)
    rows = torch.argsort(data.train_labels, stable=True)
    present = torch.arange(int(counts.max())) < counts[:, None]
    padded = torch.zeros(present.shape, dtype=torch.long)
    padded[present] = rows
    return padded, present


BROUGHT = ("label", "note", "published_as", "statistics", "zca", "augmentations")
"""Fields that a known data set fills in."""


def check_name(name: object) -> None:
    """Raise DataError for a name that cannot be the beginning of a file's."""
    if (
        not isinstance(name, str)
        or not name.strip()
        or name[0] == "."
        or any(sign in name for sign in "/\\")
        or unspeakable(name)
        or len(name.encode()) > NAME_BYTES
    ):
        raise DataError(
            f"the data set's name is {shown(name)}; allowed: 1 to {NAME_BYTES} bytes of text, not "
            "beginning with a dot, without slashes or control characters (a folder or archive is "
            "called by its own name: rename it)"
        )


NAME_BYTES = 100
"""Of a data set's name, which goes into the names of files with the settings behind it."""


def _check(data: ImageData) -> None:
    """Raise DataError unless both splits hold what ImageData documents."""
    _check_kinds(data)
    classes = data.num_classes
    for split in ("train", "test"):
        images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
        shape = tuple(images.shape)
        if images.dtype != torch.uint8 or len(shape) != 4 or shape[2] != shape[3] or shape[2] < 2:
            raise DataError(
                f"{split}_images of {data.name} are {images.dtype} {shape}; allowed: torch.uint8 "
                "of images x channels x side x side, 2 pixels or more"
            )
        if shape[1:] != tuple(data.train_images.shape[1:]) or 0 in shape:
            raise DataError(
                f"{split}_images of {data.name} are {shape}, train_images "
                f"{tuple(data.train_images.shape)}; allowed: one image or more, all of one shape"
            )
        if labels.dtype != torch.long or labels.shape != (shape[0],):
            raise DataError(
                f"{split}_labels of {data.name} are {labels.dtype} {tuple(labels.shape)}; "
                f"allowed: torch.int64 of {shape[0]}, one per image"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(
                f"{split}_labels of {data.name} go from {labels.min()} to {labels.max()}; "
                f"allowed: 0 to {classes - 1}, of the {classes} class names"
            )
    twice = [name for name, count in Counter(data.class_names).items() if count > 1]
    if twice:
        raise DataError(
            f"two classes of {data.name} are called {shown(twice[0])}; allowed: names that tell "
            "them apart"
        )
    absent = torch.bincount(data.train_labels, minlength=classes) == 0
    if absent.any():
        name = data.class_names[int(absent.nonzero()[0])]
        raise DataError(
            f"class {name!r} of {data.name} has no training images; allowed: one or more"
        )


def _check_kinds(data: ImageData) -> None:
    """Raise DataError unless tensors are tensors in memory, and class names text."""
    for part in ("train_images", "train_labels", "test_images", "test_labels"):
        value = getattr(data, part)
        if not isinstance(value, Tensor):
            kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
            raise DataError(
                f"{part} of {data.name} are a {kind}; allowed: a torch tensor (of a numpy array "
                "torch.from_numpy makes one)"
            )
        if value.device.type != "cpu" or value.layout != torch.strided:
            raise DataError(
                f"{part} of {data.name} are on {value.device}, {value.layout}; allowed: on cpu, "
                f"{torch.strided}"
            )
    names = data.class_names
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"class_names of {data.name} are {shown(names)}; allowed: a tuple of text, one name "
            "per class"
        )
    for name in names:
        if unspeakable(name):
            raise DataError(
                f"class name {name!a} of {data.name} is no text, or has control characters; "
                "allowed: text on one line"
            )
    if not isinstance(data.fingerprint, str):
        raise DataError(
            f"fingerprint of {data.name} is {shown(data.fingerprint)}; allowed: text, or none "
            "given, for it to be computed"
        )


def _check_brought(data: ImageData) -> None:
    """Raise DataError unless what stands beside the images is text, yes or no, and strategies."""
    for part in ("label", "note", "published_as"):
        value = getattr(data, part)
        if value is not None and (not isinstance(value, str) or unspeakable(value)):
            raise DataError(
                f"{part} of {data.name} is {shown(value)}; allowed: text on one line, or None"
            )
    if not isinstance(data.zca, bool | None):
        raise DataError(f"zca of {data.name} is {shown(data.zca)}; allowed: True, False or None")
    strategies = data.augmentations
    if strategies is not None and (
        not isinstance(strategies, tuple) or not all(each in STRATEGIES for each in strategies)
    ):
        raise DataError(
            f"augmentations of {data.name} are {shown(strategies)}; allowed: a tuple of "
            f"{', '.join(STRATEGIES)}, or None for all of them"
        )


def _checked_statistics(data: ImageData) -> Statistics:
    """Those of ``data`` as tuples. Raises DataError unless they are what ImageData documents."""
    try:
        mean, std = (tuple(map(float, part)) for part in data.statistics)
        right = len(mean) == len(std) == data.channels and all(map(isfinite, mean + std))
    except (TypeError, ValueError):
        right = False
    if not right or min(std) <= 0:
        raise DataError(
            f"statistics of {data.name} are {shown(data.statistics)}; allowed: means and standard "
            f"deviations above 0, of each {data.channels} finite numbers, one per channel"
        )
    return mean, std


def _fingerprint(data: ImageData) -> str:
    digest = hashlib.sha256("\0".join(data.class_names).encode())
    for tensor in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        digest.update(str(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()
