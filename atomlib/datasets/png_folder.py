"""Export of images as folders of PNG files, for torchvision and Hugging Face."""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor

from atomlib.datasets.image_data import ImageData
from atomlib.datasets.load import load_dataset
from atomlib.errors import SettingError
from atomlib.runtime.files import atomic_write
from atomlib.runtime.paths import as_path, check_writable


def png_folder(
    images: UInt8[Tensor, "n c s s"],
    labels: Int[Tensor, "n"],
    class_names: Sequence[str],
    folder: str | Path,
) -> Path:
    """Write <folder>/<class>/<number>.png: what torchvision's ImageFolder reads.

    A class's folder starts with its label, so that a reader who sorts by name has the labels
    right. Raises SettingError, leaving nothing behind, where the folder is not empty or cannot be
    written.
    """
    with _new(folder, images) as folder:
        _write(images, labels, [folder / name for name in _folder_names(class_names)])
    return folder


def hugging_face_folder(
    images: UInt8[Tensor, "n c s s"],
    labels: Int[Tensor, "n"],
    class_names: Sequence[str],
    folder: str | Path,
    *,
    about: str,
) -> Path:
    """Write <folder>/train/<class>/<number>.png and a dataset card, README.md.

    What Hugging Face's ``datasets.load_dataset(<folder>)`` reads: the split "train", with columns
    "image" and "label". ``about`` is the card's text. Raises as ``png_folder`` does.
    """
    names = _folder_names(class_names)
    classes = "\n".join(f"- {name}" for name in class_names)
    head = "configs:\n- config_name: default\n  data_files: train/**\n  drop_labels: false\n"
    with _new(folder, images) as folder:
        _write(images, labels, [folder / "train" / name for name in names])
        with atomic_write(folder / "README.md") as partial:
            partial.write_text(f"---\n{head}---\n\n{about}\n\nClasses, in order:\n\n{classes}\n")
    return folder


def example_folder(folder: str | Path, *, train: int = 30, test: int = 10) -> Path:
    """Write a data set as a folder of images, {train,test}/<class>/<number>.png, to try with.

    It holds scikit-learn's digits, a few per class, and is what ``load_dataset`` reads as
    "folder:<folder>". Where it is there already, also by another process in the meantime, it stays
    as it is. Raises SettingError where it cannot be written.
    """
    folder = as_path("folder", folder, file=True)  # which is put in its place by its name
    if _is_full(folder):
        return folder
    data = load_dataset("digits")
    check_writable(folder.parent)
    # Beside it and renamed, so that a kill leaves no part of a data set that looks like one.
    partial = Path(
        tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial")
    )
    try:
        for split, count in (("train", train), ("test", test)):
            images, labels = first_of_each(data, split, count)
            _write(images, labels, [partial / split / name for name in data.class_names])
        partial.chmod(0o755)  # mkdtemp's is readable by its owner only
        partial.rename(folder)
    except OSError as error:
        if not _is_full(folder):
            raise SettingError(
                f"{folder} could not be written ({error.strerror or error}); allowed: a new or an "
                "empty folder"
            ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def first_of_each(
    data: ImageData, split: str, count: int
) -> tuple[UInt8[Tensor, "n c s s"], Int[Tensor, "n"]]:
    """The first images of every class of a split, class by class, and their labels."""
    images, labels = getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")
    rows = torch.cat([(labels == k).nonzero()[:count, 0] for k in range(data.num_classes)])
    return images[rows], labels[rows]


def as_bytes(images: Float[Tensor, "n c s s"]) -> UInt8[Tensor, "n c s s"]:
    """Pixels in [0, 1] as the nearest of 256 values."""
    return (images * 255).round().to(torch.uint8)


def write_png(pixels: UInt8[np.ndarray, "h w c"], path: Path) -> None:
    """Write pixels as they are: one channel is grey, three are colour."""
    grey = pixels.shape[-1] == 1
    Image.fromarray(pixels.squeeze(-1) if grey else pixels).save(path, format="png")


def _is_full(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def _new(folder: str | Path, images: Tensor) -> Iterator[Path]:
    """An empty folder for images, which is empty again where writing into it fails."""
    folder = as_path("folder", folder)
    if images.shape[1] not in (1, 3):
        raise SettingError(
            f"images have {images.shape[1]} channels; allowed in PNG files: 1 (grey) or 3 (colour)"
        )
    if _is_full(folder):
        raise SettingError(f"folder {folder} is not empty; allowed: a new or an empty one")
    try:
        yield check_writable(folder)
    except SettingError:
        for child in folder.iterdir() if folder.is_dir() else ():
            shutil.rmtree(child) if child.is_dir() else child.unlink()
        raise


def _folder_names(class_names: Iterable[str]) -> list[str]:
    """Names that every file system takes, whatever the classes are called, in their order."""
    class_names = list(class_names)
    digits = max(3, len(str(len(class_names) - 1)))  # or a reader would sort "1000" before "999"
    return [
        f"{label:0{digits}d}_{re.sub(r'[^A-Za-z0-9_ .-]', '_', name)[:80]}"
        for label, name in enumerate(class_names)
    ]


def _write(images: Tensor, labels: Tensor, targets: Sequence[Path]) -> None:
    numbers: Counter[int] = Counter()
    pixels = images.permute(0, 2, 3, 1).numpy()
    for image, label in zip(pixels, labels.tolist(), strict=True):
        with atomic_write(targets[label] / f"{numbers[label]:05d}.png") as partial:
            write_png(image, partial)
        numbers[label] += 1
