"""Data sets by name: ``load_dataset`` returns both splits as uint8 tensors.

The names, and what each brings:

    digits          scikit-learn's 8 x 8 digits, embedded
    digits32        the same, enlarged to 32 x 32
    cifar10, cifar100
                    known by their pixels: the official files (make data DATASET=...),
                    or a folder or archive of that name that holds the same images
    tinyimagenet    known by its official archive; a part of it keeps its own name
    folder:PATH     a folder or .zip/.tar/.tar.gz/.tar.xz of {train,test|val}/<class>/*
    NAME-held-out   the training images of any of these, one in ten of them for tests
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from atomlib.datasets import known
from atomlib.datasets.decoded import decoded
from atomlib.datasets.held_out import held_out
from atomlib.datasets.image_data import BROUGHT, ImageData
from atomlib.datasets.image_folder import SUFFIXES, folder_state, load_folder
from atomlib.errors import DataError, MissingDataError, check_choice, shown
from atomlib.runtime.clone import data_folder
from atomlib.runtime.files import sha256_file
from atomlib.runtime.torch_state import under_torch_defaults

DATASETS = ("digits", "digits32", "cifar10", "cifar100", "tinyimagenet")

NAMES = (*DATASETS, "folder:PATH", "NAME-held-out")


@under_torch_defaults
def load_dataset(
    name: str,
    *,
    root: str | Path | None = None,
    resize: int | None = None,
    download: bool = False,
) -> ImageData:
    """Load a data set by name.

    ``name`` may list alternatives, "a|b": the first one that is there is loaded.
    ``root`` is where data rests (default: ATOM_DATA, else ./data, else data/ of the clone); a
    relative ``folder:PATH`` is looked up there, then from the current folder. ``resize`` brings
    the images of a folder, or of TinyImageNet, to that side: shorter side scaled, middle
    cut out. What holds the images of CIFAR-10 or CIFAR-100 is that data set, whatever it is
    called, in canonical order (see ``known``). Raises DataError where the data is missing (with the
    command that gets it), damaged (naming the file), not laid out as documented, or called by the
    name of a data set that it is not.
    """
    if root is not None and not isinstance(root, str | Path):
        raise DataError(f"root is {shown(root)}; allowed: the path of a folder, or None")
    root = Path(os.path.expanduser(root)) if root else data_folder()
    if not isinstance(name, str):
        raise DataError(f"dataset is {shown(name)}; allowed: a name, {', '.join(NAMES)}")
    if name.endswith(known.HELD_OUT) and not _is_folder(name, root):
        # Of "a|b-held-out" and "a-held-out|b-held-out", whichever is there is held out, once.
        whole = "|".join(part.removesuffix(known.HELD_OUT) for part in name.split("|"))
        return held_out(load_dataset(whole, root=root, resize=resize, download=download))
    first, _, others = name.partition("|")
    if others and not _is_folder(name, root):
        try:
            return load_dataset(first, root=root, resize=resize)
        except MissingDataError:
            return load_dataset(others, root=root, resize=resize, download=download)
    if name == "folder:":
        raise DataError("dataset is 'folder:'; allowed: the path of a folder or archive behind it")
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")), root, resize)
    if name and name not in DATASETS and _is_folder(f"folder:{name}", root):
        raise DataError(
            f"dataset is {shown(name)}, a path without 'folder:' before it; allowed: "
            f"{shown(f'folder:{name}')}, or {', '.join(DATASETS)}"
        )
    check_choice("dataset", name, NAMES)
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
            f"and a writable folder, or, fetched elsewhere and put into that folder, {_file(name)}"
        ) from None


def _file(name: str) -> str:
    """What a reader without a network fetches, from where, in words."""
    if name == "tinyimagenet":
        return f"tiny-imagenet-200.zip ({TINYIMAGENET_URL})"
    kind = _torchvision(name)
    return (
        f"{kind.filename} ({kind.url.rpartition('/')[0]}/{kind.filename}), or its images without "
        f"loss as {name}.tar or {name}/ with {{train,test}}/<class>/<image>"
    )


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

    return ImageData(
        f"{data.name}{side}",
        enlarge(data.train_images),
        data.train_labels,
        enlarge(data.test_images),
        data.test_labels,
        data.class_names,
    )


@contextmanager
def _whole_download(path: Path) -> Iterator[None]:
    """torchvision tells by RuntimeError of what came and is not the file: a cut one, the page of a
    network that asks for a login. It is taken away again; raises OSError."""
    try:
        yield
    except RuntimeError as error:
        path.unlink(missing_ok=True)
        raise OSError(str(error)) from None


def _is_folder(name: str, root: Path) -> bool:
    """Whether "folder:PATH" is there as it stands, though it has a "|" in it."""
    path = Path(os.path.expanduser(name.removeprefix("folder:")))
    return name.startswith("folder:") and (_is_there(root / path) or _is_there(path))


def _is_there(path: Path) -> bool:
    """Whether a path leads to something. Raises DataError where this account may not look."""
    try:
        os.stat(path)
    except PermissionError as error:
        raise DataError(
            f"{path} may not be read ({error.strerror}); allowed: files and folders that this "
            "account can read"
        ) from None
    except (OSError, ValueError):  # ValueError: a NUL in it
        return False
    return True


def _cifar(name: str, root: Path, download: bool) -> ImageData:
    """The official files, or else a folder or archive of that name that holds the same images."""
    kind = _torchvision(name)
    places = [root / kind.base_folder, root / kind.filename]
    places += [root / f"{name}{ending}" for ending in ("", *SUFFIXES)]
    if download and not any(path.exists() for path in places):
        with _whole_download(root / kind.filename):
            kind(root, download=True)
    path = next((path for path in places if path.exists()), None)
    if path is None:
        raise MissingDataError(
            f"{name} is not in {root}; get it with: make data DATASET={name} -- or, without a "
            f"network, put one of these there: {_file(name)}"
        )
    if path.name == kind.base_folder:
        state = folder_state(path)
        data = decoded(
            name, f"{name} {state}", lambda: (_official_cifar(name, kind, root, path), "")
        )
    elif path.name == kind.filename:
        state = sha256_file(path)
        data = decoded(name, f"{name} {state}", lambda: (_packed_cifar(name, kind, path), ""))
    else:
        data = load_folder(path, None)
    if data.fingerprint != known.official(name).fingerprint:
        raise DataError(
            f"{path} is called {name} and holds other images; allowed: the images of {name}, or "
            f"dataset 'folder:{path.name}', which takes them for what they are"
        )
    return data


def _torchvision(name: str) -> type:
    """The class of torchvision that knows the official files of "cifar10" or "cifar100"."""
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def _official_cifar(name: str, kind: type, root: Path, path: Path) -> ImageData:
    """What the official files below ``root`` hold; ``path`` is named where they are damaged."""
    try:
        train, test = (kind(root, train=part) for part in (True, False))
    except RuntimeError:  # torchvision: a checksum that does not match
        raise _damaged(name, path) from None
    return ImageData(
        name,
        torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(train.targets),
        torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(test.targets),
        tuple(train.classes),
    )


def _packed_cifar(name: str, kind: type, path: Path) -> ImageData:
    """The same, of the official archive: its checksum is the official one, or nothing is read."""
    from torchvision.datasets.utils import calculate_md5, extract_archive

    if calculate_md5(path) != kind.tgz_md5:
        raise _damaged(name, path)
    with tempfile.TemporaryDirectory() as folder:
        extract_archive(path, folder)
        return _official_cifar(name, kind, Path(folder), path)


def _damaged(name: str, path: Path) -> DataError:
    return DataError(
        f"{path} is damaged (checksum differs); delete it and get {name} again with: "
        f"make data DATASET={name}"
    )


TINYIMAGENET_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

TINYIMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"

TINYIMAGENET_SIDE = 64


def _tinyimagenet(root: Path, resize: int | None, download: bool) -> ImageData:
    """The official archive; else a part of it, or what was unpacked, under its own name."""
    from torchvision.datasets.utils import calculate_md5, download_url

    archive = root / "tiny-imagenet-200.zip"
    checksum = calculate_md5(archive) if archive.is_file() else ""
    if download and checksum != TINYIMAGENET_MD5:
        with _whole_download(archive):
            download_url(TINYIMAGENET_URL, root, archive.name, TINYIMAGENET_MD5)
        checksum = TINYIMAGENET_MD5
    if checksum != TINYIMAGENET_MD5:
        parts = sorted(root.glob("tiny-imagenet-*"))
        if not parts:
            raise MissingDataError(
                f"tinyimagenet is not in {root}; get it with: make data DATASET=tinyimagenet -- "
                f"or, without a network, put there {_file('tinyimagenet')}"
            )
        return load_folder(parts[0], resize)
    data = load_folder(archive, resize, checksum)
    full = known.TINYIMAGENET
    if resize in (None, TINYIMAGENET_SIDE):
        own = {name: getattr(full, name) for name in BROUGHT}
        return replace(data, name=full.name, **own)
    return replace(
        data,
        name=f"{full.name}{resize}",
        label=f"{full.label} ({resize} x {resize})",
        statistics=full.statistics,
    )


def _folder(path: Path, root: Path, resize: int | None) -> ImageData:
    path = Path(os.path.expanduser(path))
    for candidate in (path if path.is_absolute() else root / path, path):
        if _is_there(candidate):
            data = load_folder(candidate, resize)
            if data.name.endswith(known.HELD_OUT):
                raise DataError(
                    f"{candidate} is called {data.name}, as the part of another data set is whose "
                    f"test images are held out; allowed: a name that does not end in "
                    f"{known.HELD_OUT!r} (rename it)"
                )
            return data
    if path.is_absolute():
        raise MissingDataError(
            f"dataset folder:{path} is not there; allowed: the path of a folder or archive"
        )
    raise MissingDataError(
        f"dataset folder:{path} is neither in {root} nor in the current folder; put the folder or "
        "archive there, or set ATOM_DATA to the folder that holds it: ATOM_DATA=/path/to/data make "
        "..."
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``atomlib data``."""
    parser.add_argument("name", help=f"one of {', '.join(DATASETS)} or folder:PATH")
    parser.add_argument(
        "--root", help="where data rests (default: ATOM_DATA, else ./data, else data/ of the clone)"
    )
    parser.add_argument("--resize", type=int, help="side to bring a folder's images to")


def run(given: argparse.Namespace) -> None:
    """Download, check and describe one data set."""
    data = load_dataset(given.name, root=given.root, resize=given.resize, download=True)
    print(data.describe())
