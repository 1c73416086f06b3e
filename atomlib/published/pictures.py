"""Sets that are published as pictures: a folder or archive of PNG or JPEG by class, or one grid.

<class>/<image>, by name or number, at any depth     RDED, SRe2L, D4M, DD-Ranking, Hugging Face
one PNG, a row of images for each class              torchvision's save_image(nrow=IPC)
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from atomlib.datasets import limits
from atomlib.datasets.archives import read_files
from atomlib.datasets.layout import IMAGES
from atomlib.datasets.pixels import read_image, stacked, use_bits
from atomlib.errors import DataError, SettingError, shown
from atomlib.published.layouts import ALLOWED, MOST_VALUES, Found
from atomlib.runtime.files import DamagedError, check_start

PADDING = 2
"""Pixels between the images of a grid and around it: torchvision's default."""


TRANSPARENT = "transparent pixels are put on white"


def is_picture(path: Path) -> bool:
    """Whether a file is one picture, by its name."""
    return path.suffix.lower() in IMAGES


def by_class(path: Path, class_names: Sequence[str] | None) -> Found:
    """The set in a folder or archive with a folder of images for each class.

    Raises DataError for an image that is damaged or of another size than the others.
    """
    files = dict(read_files(path, lambda name: PurePosixPath(name).suffix.lower() in IMAGES))
    folders: dict[str, list[str]] = defaultdict(list)
    above: dict[PurePosixPath, None] = {}
    alone: list[str] = []
    for name in files:
        folder = PurePosixPath(name).parent
        if folder.name:
            folders[folder.name].append(name)
            above[folder.parent] = None
        else:
            alone.append(name)
    if not folders:
        raise DamagedError(f"{path} has no folder of images for each class; {ALLOWED}")
    if len(above) > 1:  # two sets, or a copy: each image would count twice
        first, second = list(above)[:2]
        raise DataError(
            f"{path} has folders of images in {shown(str(first))} and in {shown(str(second))}; "
            "allowed: one folder for each class, side by side (give the path of one set)"
        )
    notes: list[str] = []
    if alone:
        notes.append(f"pictures in no class's folder are left out: {shown(alone)}")
    labels_of = _labels(sorted(folders), class_names, path, notes)
    members = sorted(
        (labels_of[folder], _natural(name), name) for folder in folders for name in folders[folder]
    )
    for _, _, name in members:
        check_start(path / name, files[name][:64])
    first = read_image(members[0][2], files[members[0][2]], path, None).array
    if first.size * len(members) > MOST_VALUES:
        raise DamagedError(
            f"{path} holds {len(members):,} images of {first.shape[1]} x {first.shape[0]} pixels; "
            f"allowed: {MOST_VALUES:,} values in all"
        )
    names = [name for _, _, name in members]
    decoded = []
    for name in names:
        decoded.append(read_image(name, files[name], path, None))
        height, width = decoded[-1].array.shape[:2]
        if (height, width) != first.shape[:2]:
            raise DataError(
                f"image {name} of {path} is {width} x {height} while {names[0]} is "
                f"{first.shape[1]} x {first.shape[0]}; allowed: one size"
            )
    bits = use_bits(decoded, names, files, path, None)
    if bits < 16:
        notes.append(f"grey pictures of 16 bits use {bits} of them, the upper 8 of which are kept")
    if any(pixels.is_transparent for pixels in decoded):
        notes.append(TRANSPARENT)
    if height != width:
        raise DataError(f"images are {width} x {height} pixels; allowed: square ones")
    arrays = [pixels.array for pixels in decoded]
    channels = 3 if any(pixels.ndim == 3 for pixels in arrays) else 1
    return Found(
        "pictures in a folder for each class",
        torch.from_numpy(stacked(arrays, channels)).float() / 255,
        torch.tensor([label for label, _, _ in members]),
        notes=notes,
        space="pixels",
    )


def grid(path: Path, side: int | None, classes: int | None, ipc: int | None) -> Found:
    """The set in one PNG of torchvision's ``save_image(nrow=IPC)``: a row for each class.

    ``side``, of an image in pixels, is told from the black lines where it is not known.
    Raises SettingError where the picture is no grid of such images, or is too large a file.
    """
    limits.check_member(path.name, path.stat().st_size, path.parent, limits.FILE_BYTES)
    content = path.read_bytes()
    check_start(path, content[:64])
    read = read_image(path.name, content, path.parent, None)
    pixels = read.array
    height, width = pixels.shape[:2]
    if side is None:
        side = _side(pixels)
    if side is None:
        raise SettingError(
            f"{path} is one picture and no grid with black lines between the images; allowed: what "
            "torchvision's save_image(nrow=IPC) wrote"
        )
    step = side + PADDING
    if min(height, width) < step + PADDING or (height - PADDING) % step or (width - PADDING) % step:
        raise SettingError(
            f"{path} is {width} x {height} pixels, no grid of images of {side} x {side} with "
            f"{PADDING} pixels between; allowed: what torchvision's save_image(nrow=IPC) wrote"
        )
    rows, columns = (height - PADDING) // step, (width - PADDING) // step
    classes, ipc = rows if classes is None else classes, columns if ipc is None else ipc
    if (rows, columns) != (classes, ipc):
        raise SettingError(
            f"{path} has {rows} rows of {columns} images; allowed: a row for each of {classes} "
            f"classes, {ipc} images in it"
        )
    whole = torch.from_numpy(np.array(pixels if pixels.ndim == 3 else pixels[..., None]))
    tiles = whole[PADDING:, PADDING:].unflatten(0, (rows, step)).unflatten(2, (columns, step))
    images = tiles[:, :side, :, :side].permute(0, 2, 4, 1, 3).flatten(0, 1)
    if bool((images[-1] == whole[0, 0, 0]).all()):  # where images end, the ground goes on
        raise SettingError(
            f"{path} has no image at the end of its last row; allowed: {columns} images in each row"
        )
    return Found(
        "one picture, a row for each class",
        images.float() / 255,
        torch.arange(rows).repeat_interleave(columns),
        notes=[
            "the picture has 256 values a channel, and lost what lay beyond black and white",
            *([TRANSPARENT] if read.is_transparent else []),
        ],
        space="pixels",
    )


def _side(pixels: np.ndarray) -> int | None:
    """The smallest side that the lines between images, which are black, allow."""
    height, width = pixels.shape[:2]
    for side in range(8, min(height, width) - 2 * PADDING + 1):
        step = side + PADDING
        if (height - PADDING) % step or (width - PADDING) % step:
            continue
        if all(not pixels[k::step].any() and not pixels[:, k::step].any() for k in range(PADDING)):
            return side
    return None


def _labels(
    folders: list[str], class_names: Sequence[str] | None, path: Path, notes: list[str]
) -> dict[str, int]:
    """The label of each folder: by the classes' names, by a number in it, else in order.

    Raises DataError for folders of which only some are called like classes, or two like one, and
    for numbers that do not say which is 0.
    """
    known = [unicodedata.normalize("NFC", name) for name in class_names or ()]
    given = {folder: unicodedata.normalize("NFC", folder) for folder in folders}
    if not set(given.values()) <= set(known):  # as they are, or as far as authors agree on them
        known, given = [*map(_plain, known)], {f: _plain(name) for f, name in given.items()}
    names = {name: label for label, name in enumerate(known)}
    others = [folder for folder in folders if given[folder] not in names]
    if names and not others:
        labels = {folder: names[given[folder]] for folder in folders}
        if len(set(labels.values())) < len(folders):
            twins = [f for f in folders if list(labels.values()).count(labels[f]) > 1]
            raise DataError(
                f"folders of {path} are called {shown(twins)}, which is one class; allowed: one "
                "folder for each class"
            )
        return labels
    numbers = {f: re.match(r"[^0-9]*([0-9]{1,9})(?![0-9])", f) for f in folders}
    if all(numbers.values()):
        labels = {folder: int(found[1]) for folder, found in numbers.items()}
        if sorted(labels.values()) == list(range(len(folders))):
            notes.append("labels are the numbers of the folders")
            return labels
        # Digits that are names themselves, such as WordNet's, are put in order below.
        if sorted(folders, key=labels.__getitem__) != folders:
            raise DataError(
                f"folders of {path} are numbered {min(labels.values())} to "
                f"{max(labels.values())}; allowed: 0 to {len(folders) - 1}, or the classes' names"
            )
    elif len(others) < len(folders):
        raise DataError(
            f"folder {shown(others[0])} of {path} is called like no class; allowed: "
            f"{shown(list(class_names or ()))}, or for all of them numbers from 0"
        )
    notes.append(
        f"labels are the folders' places in alphabetical order, {shown(folders[0])} being 0"
    )
    return {folder: label for label, folder in enumerate(folders)}


def _plain(name: str) -> str:
    """A class's name as far as different authors agree on it."""
    return "".join(sign for sign in name.casefold() if sign.isalnum()) or name


def _natural(name: str) -> tuple:
    """A key by which image 2 comes before image 10."""
    parts = re.split(r"([0-9]{1,18})", name)
    return tuple((int(p), "") if re.fullmatch("[0-9]+", p) else (-1, p) for p in parts)
