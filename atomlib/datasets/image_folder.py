"""Folders and archives of images as data sets: decoded once into a cache, then memory-mapped.

Two layouts are read: {train,test|val}/<class>/<image>, at any depth below the top, and
TinyImageNet's (see ``layout``). Nothing in them is believed: what is read (see ``limits``) and what
is decoded (see ``pixels``) is bounded before memory is taken for it.
"""

import hashlib
import math
import os
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from atomlib.datasets.archives import listed
from atomlib.datasets.decoded import decoded
from atomlib.datasets.folder_listing import walk
from atomlib.datasets.image_data import ImageData, check_name
from atomlib.datasets.layout import Layout, lay_out, may_matter
from atomlib.datasets.listing import telling
from atomlib.datasets.pixels import PIXELS, Pixels, read_image, stacked, use_bits
from atomlib.errors import DataError, shown
from atomlib.runtime.files import sha256_file
from atomlib.runtime.progress import Bar

DECODED_BYTES = 1 << 34
"""Of all images of a data set together: 16 GiB."""


def load_folder(path: Path, resize: int | None, source: str = "") -> ImageData:
    """The data set in a folder or archive, recognised where it is a known one.

    ``source`` is a digest of its content, where that is known already. Raises DataError naming
    the file that is wrong.
    """
    most = math.isqrt(PIXELS)
    if resize is not None and (type(resize) is not int or not 2 <= resize <= most):
        raise DataError(f"resize is {shown(resize)}; allowed: 2 pixels or more, to {most}, or None")
    name = stem(path)
    check_name(name)
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{path} is a device or a pipe; allowed: a folder or an archive")
    with telling(path):
        source = source or (folder_state(path) if path.is_dir() else sha256_file(path))
    return decoded(name, f"{source} {resize}", lambda: _decode(name, path, resize))


SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")


def stem(path: Path) -> str:
    """The name of a data set: that of its folder, or of its archive without the ending."""
    # Of "." and ".." too; accents are written in one way or another, and mean the same.
    name = unicodedata.normalize("NFC", Path(os.path.abspath(path)).name)
    ending = next((s for s in SUFFIXES if name.lower().endswith(s)), "")
    return name if path.is_dir() else name[: len(name) - len(ending)]


def folder_state(folder: Path) -> str:
    """Changes when anything is added, removed or touched; reads no file's content."""
    # The path, since files of equal name, size and time may lie in another folder.
    state = hashlib.sha256(os.fsencode(os.path.abspath(folder)))
    for name, full in walk(folder):
        times = ""
        if os.path.isfile(full):
            stat = os.stat(full)
            times = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
        state.update(os.fsencode(f"{name} {times}\n"))
    return state.hexdigest()


def _decode(name: str, path: Path, resize: int | None) -> tuple[ImageData, str]:
    """The data set, and what a reader must know of how it was read; "" is nothing.

    Half the cost is PIL's, which runs in threads.
    """
    listing = listed(path, may_matter)
    layout = lay_out(listing, path)
    wanted = [file for split in layout.members.values() for _, file in split]
    files = dict(listing.read(wanted))
    # The first image says how large all of them are, or they are refused as they are decoded.
    first = read_image(wanted[0], files[wanted[0]], path, resize).array
    size = first.shape[:2]
    if size[0] != size[1] or size[0] < 2:
        raise DataError(
            f"images of {path} are {_size(first)}; allowed: square ones of 2 pixels or more, or a "
            "resize setting"
        )
    needed = 3 * first.shape[0] * first.shape[1] * len(wanted)
    if needed > DECODED_BYTES:
        raise DataError(
            f"{path} holds {len(wanted):,} images of {_size(first)}, {needed >> 20:,} MiB once "
            f"decoded; allowed: {DECODED_BYTES >> 20:,} MiB, or a resize setting, e.g. resize=32"
        )

    def decode(file: str) -> Pixels:
        pixels = read_image(file, files[file], path, resize)
        if pixels.array.shape[:2] != first.shape[:2]:
            raise DataError(
                f"image {file} of {path} is {_size(pixels.array)} while {wanted[0]} is "
                f"{_size(first)}; allowed: one size, or a resize setting, e.g. resize=32"
            )
        return pixels

    with ThreadPoolExecutor() as pool:
        decoded = list(
            Bar(
                pool.map(decode, wanted),
                total=len(wanted),
                desc=f"decode {name}",
                unit="image",
                leave=False,
            )
        )
    bits = use_bits(decoded, wanted, files, path, resize)
    channels = 3 if any(pixels.array.ndim == 3 for pixels in decoded) else 1
    arrays = iter([pixels.array for pixels in decoded])
    images = {
        split: torch.from_numpy(stacked([*islice(arrays, len(members))], channels))
        for split, members in layout.members.items()
    }
    labels = {s: torch.tensor([label for label, _ in m]) for s, m in layout.members.items()}
    data = ImageData(
        name,
        images["train"],
        labels["train"],
        images["test"],
        labels["test"],
        layout.class_names,
    )
    return data, " ".join(_remarks(name, layout, wanted, decoded, bits))


def _remarks(
    name: str, layout: Layout, wanted: list[str], decoded: list[Pixels], bits: int
) -> Iterator[str]:
    """Sentences on what was left out and what was made of pixels, with the first names."""

    def count(files: list[str]) -> str:
        names = ", ".join(shown(file) for file in files[:3]) + (", ..." if len(files) > 3 else "")
        return f"{len(files):,} ({names})"

    if layout.left_out:
        yield (
            f"{name}: files left out, because they end like no image, are hidden, are pipes or "
            f"lie outside the class folders that are read: {count(layout.left_out)}."
        )
    if layout.doubled:
        yield (
            f"{name}: names that the archive holds more than once, of which the last is read: "
            f"{count(layout.doubled)}."
        )
    clear = [file for file, p in zip(wanted, decoded, strict=True) if p.is_transparent]
    if clear:
        yield f"{name}: images with transparent pixels, put on white: {count(clear)}."
    moving = [file for file, p in zip(wanted, decoded, strict=True) if p.is_animated]
    if moving:
        yield f"{name}: images of several frames, of which the first is read: {count(moving)}."
    if bits < 16:
        yield f"{name}: grey images of 16 bits use {bits} of them; the upper 8 of these are kept."


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"
