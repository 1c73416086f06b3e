"""Folders and archives of images, decoded once into a cache and memory-mapped after that.

Two layouts are read: {train,test|val}/<class>/<image>, at any depth below the top, and
TinyImageNet's (wnids.txt, train/<wnid>/images/, val/images/ with val_annotations.txt).
An archive is never unpacked to disk: members are read by name and decoded in memory, so no name
in it leads anywhere. Nothing in it is believed: what is read and what is decoded is bounded
before memory is taken for it. Plain files alone are read from archives; of a folder, links to
files too, as the programs of its owner would, but not links to folders, which could go in circles.
"""

import bz2
import gzip
import hashlib
import io
import lzma
import math
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from atomlib.artifact import DamagedError, read_tensors, set_aside, write_tensors
from atomlib.datasets import ImageData
from atomlib.errors import DataError, shown
from atomlib.files import cache_folder, sha256_file

IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
LISTS = {"wnids.txt", "words.txt", "val_annotations.txt"}
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""What PIL may take a file for: of others, some start programs, as PostScript does."""

FILE_BYTES = 1 << 26
"""Of one image or list: 64 MiB."""

ARCHIVE_BYTES = 1 << 34
"""Of all that is read from one archive: 16 GiB, ten times the largest set in the field."""

RATIO = 200
"""How many times its own size an archive above FILE_BYTES may unfold to. Images, which are
compressed already, hardly unfold at all; a bomb does a thousand times and more."""

MEMBERS = 1 << 21
"""Of one archive: two million, images or not."""

PIXELS = 1 << 25
"""Of one image, before it is brought to size: 33 million."""

DECODED_BYTES = 1 << 34
"""Of all images of a data set together: 16 GiB."""

NAME_LENGTH = 1000
"""Characters of the name of a file with its folders."""

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
    files = dict(_read(path))
    official = any(PurePosixPath(name).name == "wnids.txt" for name in files)
    class_names, members = (_official if official else _by_folder)(files, path)
    for class_name in class_names:
        _check_class_name(class_name, path)
    wanted = [file for split in members for _, file in members[split]]
    # The first image says how large all of them are, or they are refused as they are decoded.
    first = _image(wanted[0], files[wanted[0]], path, resize)
    needed = 3 * first.shape[0] * first.shape[1] * len(wanted)
    if needed > DECODED_BYTES:
        raise DataError(
            f"{path} holds {len(wanted):,} images of {_size(first)}, {needed >> 20:,} MiB once "
            f"decoded; allowed: {DECODED_BYTES >> 20:,} MiB, or a resize setting, e.g. resize=32"
        )

    def decode(file: str) -> np.ndarray:
        pixels = _image(file, files[file], path, resize)
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
    return not _hidden(name) and (path.suffix.lower() in IMAGES or path.name in LISTS)


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _read(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every image and list, in the order they lie in."""
    try:
        if path.is_dir():
            yield from _read_folder(path)
        elif zipfile.is_zipfile(path):
            yield from _read_zip(path)
        else:
            yield from _read_tar(path)
    except DataError:
        raise
    except UNREADABLE:
        raise DataError(
            f"{path} is truncated or no archive; allowed: a folder or a whole .zip, .tar, "
            ".tar.gz or .tar.xz file"
        ) from None


# What the standard library raises for archives that are cut short, damaged, encrypted or of
# a compression it does not know.
UNREADABLE = (
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def _read_folder(folder: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        leads_on = file.is_symlink() and not file.is_file()  # to a folder, or to nothing
        if leads_on and not _hidden(name) and (_wanted(name) or file.is_dir()):
            raise DataError(
                f"{shown(name)} of {folder} is a link to a folder or to nothing; allowed: plain "
                "files and folders, and links to files"
            )
        if _wanted(name) and file.is_file():
            _check_member(name, file.stat().st_size, folder)
            yield name, file.read_bytes()


def _read_zip(path: Path) -> Iterator[tuple[str, bytes]]:
    with open(path, "rb") as file:
        # The directory of members is read whole, and each of its entries made an object. Python
        # has no public word for how long it says it is.
        end = zipfile._EndRecData(file)
        if end and end[zipfile._ECD_SIZE] > 128 * MEMBERS:
            raise _too_many(path)
    with zipfile.ZipFile(path) as archive:
        if len(archive.infolist()) > MEMBERS:
            raise _too_many(path)
        members = [m for m in archive.infolist() if _wanted(m.filename) and not m.is_dir()]
        if sum(member.file_size for member in members) > _room(path):
            raise _unfolds(path)
        for member in members:
            _check_member(member.filename, member.file_size, path)
            # Of bzip2 and LZMA, Python unfolds all that a piece holds, and that may be gigabytes.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(
                    f"{shown(member.filename)} of {path} is compressed by method "
                    f"{member.compress_type}; allowed in a .zip: deflate (8) or none (0)"
                )
            content = bytearray()
            # In pieces, since read() unfolds all there is before it goes by what the header says.
            with archive.open(member) as file:
                while piece := file.read(1 << 16):
                    content += piece
            if len(content) != member.file_size:
                raise EOFError
            yield member.filename, bytes(content)


def _read_tar(path: Path) -> Iterator[tuple[str, bytes]]:
    with open(path, "rb") as file:
        start = file.read(6)
    kinds = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
    opened = next((kind for magic, kind in kinds.items() if start.startswith(magic)), open)
    with (
        opened(path, "rb") as stream,
        tarfile.open(fileobj=_Bounded(stream, path), mode="r:", tarinfo=_WholeTarInfo) as archive,
    ):
        for count, member in enumerate(archive):
            if count >= MEMBERS:
                raise _too_many(path)
            archive.members = []  # or they would pile up
            if not _wanted(member.name):
                continue
            if not (member.isfile() or member.isdir()):
                raise DataError(
                    f"{shown(member.name)} of {path} is a link or a device; allowed: plain files"
                )
            if member.isfile():
                _check_member(member.name, member.size, path)
                content = archive.extractfile(member).read()
                if len(content) != member.size:
                    raise EOFError
                yield member.name, content
        # tarfile stops at the end mark; the checksum of the compression lies behind it.
        while archive.fileobj.read(1 << 20):
            pass


class _Bounded:
    """A stream from which nothing reads past what an archive may unfold to, nor much at once."""

    def __init__(self, stream: BinaryIO, path: Path):
        self.stream, self.path, self.room = stream, path, _room(path)

    def read(self, size: int) -> bytes:
        # tarfile reads what a header says, be it of a name alone.
        if size > FILE_BYTES or self.tell() + size > self.room + (1 << 20):
            raise _unfolds(self.path)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        if position > self.room:  # to skip a member is to decompress it
            raise _unfolds(self.path)
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()


def _room(path: Path) -> int:
    """Bytes that an archive may unfold to."""
    return min(ARCHIVE_BYTES, max(FILE_BYTES, RATIO * path.stat().st_size))


def _unfolds(path: Path) -> DataError:
    return DataError(
        f"{path} unfolds to more than its {path.stat().st_size:,} bytes may; allowed: "
        f"{_room(path):,} bytes in all"
    )


def _too_many(path: Path) -> DataError:
    return DataError(f"{path} says it holds too many files; allowed: {MEMBERS:,}")


def _check_member(name: str, size: int, path: Path) -> None:
    """Raise DataError for a name that is none, or a file that is too large to be an image."""
    if _unspeakable(name) or len(name) > NAME_LENGTH:
        raise DataError(
            f"{shown(name)} of {path} is no name of a file; allowed: up to {NAME_LENGTH} "
            "characters of text without control characters"
        )
    if size > FILE_BYTES:
        raise DataError(
            f"{shown(name)} of {path} has {size:,} bytes; allowed: {FILE_BYTES:,} a file"
        )


def _check_class_name(name: str, path: Path) -> None:
    if _unspeakable(name) or not name.strip() or len(name.encode()) > NAME_BYTES:
        raise DataError(
            f"class name {shown(name)} of {path} will not do; allowed: 1 to {NAME_BYTES} bytes of "
            "text without control characters"
        )


def _unspeakable(name: str) -> bool:
    """Whether a name has line breaks, control characters or bytes that are no text."""
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)


class _WholeTarInfo(tarfile.TarInfo):
    """tarfile takes a header that is cut off or damaged for the end of the archive; we do not."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # the block of zeros that ends a whole archive
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None


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
            raise DataError(f"{path} has no {absent} with a folder of images a class; {LAYOUT}")
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


def _image(name: str, content: bytes, path: Path, resize: int | None) -> np.ndarray:
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
