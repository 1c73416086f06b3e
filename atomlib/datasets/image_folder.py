"""Folders and archives of images as data sets: decoded once into a cache, then memory-mapped.

Two layouts are read: {train,test|val}/<class>/<image>, at any depth below the top, and
TinyImageNet's (wnids.txt, train/<wnid>/images/, val/images/ with val_annotations.txt). The files
are not trusted: the size of what is read (see ``archives``) and decoded is checked before memory is
allocated.
"""

import hashlib
import io
import math
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from atomlib.datasets.archives import read_files, unspeakable
from atomlib.datasets.image_data import ImageData
from atomlib.errors import DataError, shown
from atomlib.runtime.files import (
    DamagedError,
    cache_folder,
    read_tensors,
    set_aside,
    sha256_file,
    write_tensors,
)

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

LISTS = {"wnids.txt", "words.txt", "val_annotations.txt"}

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What PIL may take a file for: of others, some start programs, as PostScript does."""

PIXELS = 1 << 25
"""Of one image, before it is brought to size: 33 million."""

DECODED_BYTES = 1 << 34
"""Of all images of a data set together: 16 GiB."""

NAME_BYTES = 200
"""Of a class name; with its number before it, it must do for a folder (``DistilledSet.export``)."""

CACHE_FORMAT = 2  # raise it when decoding changes, so that old caches are not read

LAYOUT = "allowed: train/<class>/<image> and test/ or val/ likewise, or TinyImageNet's own layout"


def load_folder(path: Path, resize: int | None) -> ImageData:
    """The data set in a folder or archive. Raises DataError naming the file that is wrong."""
    most = math.isqrt(PIXELS)
    if resize is not None and (type(resize) is not int or not 1 <= resize <= most):
        raise DataError(f"resize is {shown(resize)}; allowed: 1 pixel or more, to {most}, or None")
    name = path.name
    for suffix in (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"):
        name = name.removesuffix(suffix)
    source = _folder_state(path) if path.is_dir() else sha256_file(path)
    key = hashlib.sha256(f"{CACHE_FORMAT} {source} {resize}".encode()).hexdigest()[:16]
    cached = cache_folder() / "data" / f"{name}-{key}.safetensors"
    data = _read_cache(cached)
    if data is None:
        data = _decode(name, path, resize)
        tensors = {key: getattr(data, key) for key in TENSORS}
        about = {"name": name, "class_names": data.class_names, "fingerprint": data.fingerprint}
        write_tensors(cached, tensors, about)
    return data


TENSORS = ("train_images", "train_labels", "test_images", "test_labels")


def _read_cache(path: Path) -> ImageData | None:
    """What was decoded before; None where that is not there, or damaged."""
    if not path.exists():
        return None
    try:
        tensors, about = read_tensors(path)
    except DamagedError as error:
        set_aside(path, path.parent / "damaged", error)
        return None
    about["class_names"] = tuple(about["class_names"])
    return ImageData(**tensors, **about)


def _folder_state(folder: Path) -> str:
    """Changes when any file is added, removed or touched; reads no file's content."""
    state = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        stat = file.stat()
        line = f"{file.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n"
        state.update(line.encode(errors="surrogateescape"))  # a name may be no text
    return state.hexdigest()


def _decode(name: str, path: Path, resize: int | None) -> ImageData:
    """Read, sort and decode everything; half the cost is PIL's, which runs in threads."""
    files = dict(read_files(path, _wanted))
    official = any(PurePosixPath(name).name == "wnids.txt" for name in files)
    class_names, members = (_official if official else _by_folder)(files, path)
    for class_name in class_names:
        _check_class_name(class_name, path)
    wanted = [file for split in members for _, file in members[split]]
    # The first image says how large all of them are, or they are refused as they are decoded.
    first = decode_image(wanted[0], files[wanted[0]], path, resize)
    needed = 3 * first.shape[0] * first.shape[1] * len(wanted)
    if needed > DECODED_BYTES:
        raise DataError(
            f"{path} holds {len(wanted):,} images of {_size(first)}, {needed >> 20:,} MiB once "
            f"decoded; allowed: {DECODED_BYTES >> 20:,} MiB, or a resize setting, e.g. resize=32"
        )

    def decode(file: str) -> np.ndarray:
        pixels = decode_image(file, files[file], path, resize)
        if pixels.shape[:2] != first.shape[:2]:
            raise DataError(
                f"image {file} of {path} is {_size(pixels)} while {wanted[0]} is "
                f"{_size(first)}; allowed: one size, or a resize setting, e.g. resize=32"
            )
        return pixels

    with ThreadPoolExecutor() as pool:
        decoded = list(
            tqdm(
                pool.map(decode, wanted),
                total=len(wanted),
                desc=f"decode {name}",
                unit="image",
                leave=False,
            )
        )
    colour = any(pixels.ndim == 3 for pixels in decoded)
    size = first.shape[:2]
    arrays: dict[str, np.ndarray] = {}
    row = 0
    for split in ("train", "test"):
        count = len(members[split])
        out = np.empty((count, 3 if colour else 1, *size), np.uint8)
        for index in range(count):
            pixels = decoded[row]
            row += 1
            # A greyscale image among coloured ones gets three equal channels.
            out[index] = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]
        arrays[split] = out
    if size[0] != size[1]:
        raise DataError(
            f"images of {path} are {_size(first)}; allowed: square ones, or a resize setting"
        )
    labels = {s: torch.tensor([label for label, _ in members[s]]) for s in members}
    return ImageData(
        name,
        torch.from_numpy(arrays["train"]),
        labels["train"],
        torch.from_numpy(arrays["test"]),
        labels["test"],
        class_names,
    )


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[0]}"


def _wanted(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in IMAGES or path.name in LISTS


def _check_class_name(name: str, path: Path) -> None:
    if unspeakable(name) or not name.strip() or len(name.encode()) > NAME_BYTES:
        raise DataError(
            f"class name {shown(name)} of {path} is not valid; allowed: 1 to {NAME_BYTES} bytes of "
            "text without control characters"
        )


Members = dict[str, list[tuple[int, str]]]
"""For "train" and "test": (label, file name) of each image, by class and then by name."""


def _by_folder(files: dict[str, bytes], path: Path) -> tuple[tuple[str, ...], Members]:
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in files:
        parts = PurePosixPath(name).parts
        if len(parts) >= 3 and parts[-3] in ("train", "test", "val"):
            found[parts[-3]][parts[-2]].append(name)
    held_out = "test" if "test" in found else "val"
    for split in ("train", held_out):
        if split not in found:
            absent = "train/" if split == "train" else "test/ or val/"
            raise DataError(f"{path} has no {absent} with one folder of images per class; {LAYOUT}")
    for here, there in (("train", held_out), (held_out, "train")):
        for name in sorted(set(found[here]) - set(found[there])):
            raise DataError(
                f"class folder {shown(name)} of {path} is in {here}/ but not in {there}/; "
                "allowed: the same class folders in both"
            )
    names = tuple(sorted(found["train"]))
    return names, {
        split: [(k, file) for k, name in enumerate(names) for file in sorted(found[source][name])]
        for split, source in (("train", "train"), ("test", held_out))
    }


def _official(files: dict[str, bytes], path: Path) -> tuple[tuple[str, ...], Members]:
    """TinyImageNet's layout; its validation images serve as the test set."""
    lists = {PurePosixPath(name).name: name for name in files if PurePosixPath(name).name in LISTS}
    top = PurePosixPath(lists["wnids.txt"]).parent

    def rows(name: str) -> list[list[str]]:
        """The fields of each line of a list, as many as are needed of it."""
        needed = {"wnids.txt": 1, "words.txt": 2, "val_annotations.txt": 2}[name]
        try:
            text = files[lists[name]].decode()
        except (KeyError, UnicodeDecodeError):
            state = "damaged" if name in lists else "missing"
            raise DataError(f"list {name} of {path} is {state}; {LAYOUT}") from None
        fields = [line.split("\t") for line in text.splitlines() if line.strip()]
        if not fields or any(len(row) < needed for row in fields):
            raise DataError(f"list {name} of {path} is empty or cut short; {LAYOUT}")
        return [row[:needed] for row in fields]

    wnids = sorted(row[0].strip() for row in rows("wnids.txt"))
    words = dict(rows("words.txt")) if "words.txt" in lists else {}
    label = {wnid: k for k, wnid in enumerate(wnids)}
    test = []
    for file, wnid in rows("val_annotations.txt"):
        full = str(top / "val" / "images" / file)
        if wnid in label:  # an archive of part of the classes may list the others too
            if full not in files:
                raise DataError(
                    f"image {shown(full)} of {path} is missing; val_annotations.txt lists it"
                )
            test.append((label[wnid], full))
    train = []
    for name in files:
        parts = PurePosixPath(name).parts
        if len(parts) >= 4 and parts[-4] == "train" and parts[-3] in label:
            train.append((label[parts[-3]], name))
    for split, members in (("train", train), ("val", test)):
        absent = sorted(set(range(len(wnids))) - {k for k, _ in members})
        if absent:
            raise DataError(
                f"class {shown(wnids[absent[0]])} of {path} has no images in {split}/; "
                "allowed: every class of wnids.txt in both splits"
            )
    names = tuple(words.get(wnid, wnid).split(",")[0] for wnid in wnids)
    return names, {"train": sorted(train), "test": sorted(test)}


def decode_image(name: str, content: bytes, path: Path, resize: int | None) -> np.ndarray:
    """uint8 [h, w, 3], or [h, w] where the file is greyscale; of an animation the first frame."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise _too_large(name, path)
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16 bits: the upper 8 are what 8 bits would show
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
            if resize is not None and image.size != (resize, resize):
                image = ImageOps.fit(image, (resize, resize), Image.Resampling.BICUBIC)
            return np.asarray(image)
    except DataError:
        raise
    except Image.DecompressionBombError:  # PIL's own bound, above ours
        raise _too_large(name, path) from None
    except Exception:  # of damaged files PIL's decoders raise nearly anything
        raise DataError(
            f"image {name} of {path} is truncated or no image; replace or delete it"
        ) from None


def _too_large(name: str, path: Path) -> DataError:
    return DataError(f"image {name} of {path} is too large; allowed: {PIXELS:,} pixels")
