"""Reads folders and archives (zip, tar) safely: sizes are bounded, nothing is unpacked to disk.

An archive is never unpacked to disk: members are read by name into memory, so no name in it leads
anywhere. Headers are not trusted: sizes are checked before memory is allocated. From archives only
plain files are read; in a folder links to files are followed, but not links to folders, which could
form a cycle.
"""

import bz2
import gzip
import lzma
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from atomlib.errors import DataError, shown

FILE_BYTES = 1 << 26
"""Of one image or list: 64 MiB."""

ARCHIVE_BYTES = 1 << 34
"""Of all that is read from one archive: 16 GiB, ten times the largest set in the field."""

RATIO = 200
"""How many times its own size an archive above FILE_BYTES may unfold to. Images, which are
compressed already, hardly unfold at all; a bomb does a thousand times and more."""

MEMBERS = 1 << 21
"""Of one archive: two million, images or not."""

NAME_LENGTH = 1000
"""Characters of the name of a file with its folders."""

Wanted = Callable[[str], bool]
"""Whether a file of that name is to be read."""


def read_files(
    path: Path, wanted: Wanted, *, most: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every wanted file that is not hidden, in the order they lie in.

    ``most``, bytes of one file, is FILE_BYTES where it is None.

    Raises DataError for what is no archive, is damaged, leads elsewhere or is too large.
    """

    most = FILE_BYTES if most is None else most

    def visible(name: str) -> bool:
        return not _hidden(name) and wanted(name)

    try:
        if path.is_dir():
            yield from _read_folder(path, visible, most)
        elif zipfile.is_zipfile(path):
            yield from _read_zip(path, visible, most)
        else:
            yield from _read_tar(path, visible, most)
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


def _read_folder(folder: Path, wanted: Wanted, most: int) -> Iterator[tuple[str, bytes]]:
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        leads_on = file.is_symlink() and not file.is_file()  # to a folder, or to nothing
        if leads_on and not _hidden(name) and (wanted(name) or file.is_dir()):
            raise DataError(
                f"{shown(name)} of {folder} is a link to a folder or to nothing; allowed: plain "
                "files and folders, and links to files"
            )
        if wanted(name) and file.is_file():
            _check_member(name, file.stat().st_size, folder, most)
            yield name, file.read_bytes()


def _read_zip(path: Path, wanted: Wanted, most: int) -> Iterator[tuple[str, bytes]]:
    with open(path, "rb") as file:
        # The directory of members is read whole, and each of its entries made an object. Python
        # has no public word for how long it says it is.
        end = zipfile._EndRecData(file)
        if end and end[zipfile._ECD_SIZE] > 128 * MEMBERS:
            raise _too_many(path)
    with zipfile.ZipFile(path) as archive:
        if len(archive.infolist()) > MEMBERS:
            raise _too_many(path)
        members = [m for m in archive.infolist() if wanted(m.filename) and not m.is_dir()]
        if sum(member.file_size for member in members) > _room(path):
            raise _unfolds(path)
        for member in members:
            _check_member(member.filename, member.file_size, path, most)
            # Of bzip2 and LZMA, Python unfolds all that a piece holds, and that may be gigabytes.
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(
                    f"{shown(member.filename)} of {path} is compressed by method "
                    f"{member.compress_type}; allowed in a .zip: deflate (8) or none (0)"
                )
            content = bytearray()
            # In pieces, since read() decompresses everything before it looks at the size in the
            # header.
            with archive.open(member) as file:
                while piece := file.read(1 << 16):
                    content += piece
            if len(content) != member.file_size:
                raise EOFError
            yield member.filename, bytes(content)


def _read_tar(path: Path, wanted: Wanted, most: int) -> Iterator[tuple[str, bytes]]:
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
            if not wanted(member.name):
                continue
            if not (member.isfile() or member.isdir()):
                raise DataError(
                    f"{shown(member.name)} of {path} is a link or a device; allowed: plain files"
                )
            if member.isfile():
                _check_member(member.name, member.size, path, most)
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
        # tarfile reads as much as a header says, even for a name only.
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


def _check_member(name: str, size: int, path: Path, most: int) -> None:
    """Raise DataError for a name that is none, or a file that is too large to be an image."""
    if unspeakable(name) or len(name) > NAME_LENGTH:
        raise DataError(
            f"{shown(name)} of {path} is no name of a file; allowed: up to {NAME_LENGTH} "
            "characters of text without control characters"
        )
    if size > most:
        raise DataError(f"{shown(name)} of {path} has {size:,} bytes; allowed: {most:,} a file")


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def unspeakable(name: str) -> bool:
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
