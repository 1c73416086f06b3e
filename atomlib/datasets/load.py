"""Data sets by name: ``load_dataset`` returns both splits as uint8 tensors.

digits          scikit-learn's 8 x 8 digits, embedded
digits32        the same, enlarged to 32 x 32
cifar10, cifar100, tinyimagenet    downloaded by ``make data DATASET=...``
folder:PATH     a folder or .zip/.tar/.tar.gz/.tar.xz of {train,test|val}/<class>/*
"""

import argparse
import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from atomlib.datasets.image_data import ImageData
from atomlib.errors import DataError, MissingDataError, check_choice, shown

DATASETS = ("digits", "digits32", "cifar10", "cifar100", "tinyimagenet")


def load_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    resize: int | None = None,
    download: bool = False,
) -> ImageData:
    """Load a data set by name.

    ``name`` may list alternatives, "a|b": the first one that is there is loaded.
    ``root`` is where data rests (default: ATOM_DATA, else ./data); a relative
    ``folder:PATH`` is looked up there, then from the current folder. ``resize`` brings
    the images of a folder, or of TinyImageNet, to that side: shorter side scaled, middle
    cut out. Raises DataError where the data is missing (with the command that gets it),
    damaged (naming the file) or not laid out as documented.
    """
    root = Path(root or os.environ.get("ATOM_DATA") or "data")
    if not isinstance(name, str):
        raise DataError(f"dataset is {shown(name)}; allowed: a name, one of {', '.join(DATASETS)}")
    first, _, others = name.partition("|")
    if others:
        try:
            return load_dataset(first, root=root, resize=resize)
        except MissingDataError:
            return load_dataset(others, root=root, resize=resize, download=download)
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")), root, resize)
    check_choice("dataset", name, [*DATASETS, "folder:PATH"])
    if resize is not None and name != "tinyimagenet":
        raise DataError(
            f"resize is {shown(resize)}; allowed with {name}: None, its images are one size"
        )
    if name == "digits":
        return _digits()
    if name == "digits32":
        return _enlarged(_digits(), 32)
    try:
        if name == "tinyimagenet":
            return _tinyimagenet(root, resize, download)
        return _cifar(name, root, download)
    except OSError as error:  # no network, no room, no right to write
        reason = getattr(error, "reason", None) or error.strerror or error
        raise DataError(
            f"{name} could not be had in {root} ({reason}); allowed: a network for the download "
            "and a writable folder, or the data set there already"
        ) from None


def _digits() -> ImageData:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # Values are 0..16. Every fifth image of a class is a test image.
    images = torch.from_numpy(bunch.images * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    rank = torch.empty_like(labels)
    for k in range(10):
        rank[labels == k] = torch.arange(int((labels == k).sum()))
    test = rank % 5 == 4
    return ImageData(
        "digits",
        images[~test],
        labels[~test],
        images[test],
        labels[test],
        tuple(str(digit) for digit in range(10)),
    )


def _enlarged(data: ImageData, side: int) -> ImageData:
    """The same images, bilinearly enlarged, under a name that says so: "digits32"."""

    def enlarge(images: Tensor) -> Tensor:
        large = interpolate(images.float(), size=(side, side), mode="bilinear")
        return large.round().to(torch.uint8)

    return replace(
        data,
        name=f"{data.name}{side}",
        train_images=enlarge(data.train_images),
        test_images=enlarge(data.test_images),
        fingerprint="",
    )


def _cifar(name: str, root: Path, download: bool) -> ImageData:
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    try:
        train, test = (kind(root, train=part, download=download) for part in (True, False))
    except RuntimeError as error:  # torchvision: absent, or a checksum that does not match
        if (root / kind.base_folder).exists():
            raise DataError(
                f"{root / kind.base_folder} is damaged (checksum differs); delete it and get "
                f"{name} again with: make data DATASET={name}"
            ) from error
        raise _missing(name, root) from error
    return ImageData(
        name,
        torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(train.targets),
        torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(test.targets),
        tuple(train.classes),
    )


TINYIMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def _tinyimagenet(root: Path, resize: int | None, download: bool) -> ImageData:
    from torchvision.datasets.utils import check_integrity, download_url

    archive = root / "tiny-imagenet-200.zip"
    if download and not check_integrity(archive, TINYIMAGENET_MD5):
        download_url(TINYIMAGENET_URL, root, archive.name, TINYIMAGENET_MD5)
    # The 200 classes first; a part of them, under its own name, where that is all there is.
    found = [root / "tiny-imagenet-200", archive, *sorted(root.glob("tiny-imagenet-*"))]
    for path in found:
        if path.exists():
            data = _folder(path, root, resize)
            return replace(data, name="tinyimagenet") if data.name == "tiny-imagenet-200" else data
    raise _missing("tinyimagenet", root)


def _missing(name: str, root: Path) -> MissingDataError:
    return MissingDataError(f"{name} is not in {root}; get it with: make data DATASET={name}")


def _folder(path: Path, root: Path, resize: int | None) -> ImageData:
    from atomlib.datasets.image_folder import load_folder

    for candidate in (path if path.is_absolute() else root / path, path):
        if candidate.exists():
            return load_folder(candidate, resize)
    raise MissingDataError(
        f"dataset folder:{path} is neither in {root} nor here; put the folder or archive there, "
        "or set ATOM_DATA to the folder that holds it: ATOM_DATA=/path/to/data make ..."
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``atomlib data``."""
    parser.add_argument("name", help=f"one of {', '.join(DATASETS)} or folder:PATH")
    parser.add_argument("--root", help="where data rests (default: ATOM_DATA, else ./data)")
    parser.add_argument("--resize", type=int, help="side to bring a folder's images to")


def run(given: argparse.Namespace) -> None:
    """Download, check and describe one data set."""
    data = load_dataset(given.name, root=given.root, resize=given.resize, download=True)
    print(data.describe())
