"""Reads folders and archives (zip, tar) safely: sizes are bounded, nothing is unpacked to disk.

An archive is never unpacked to disk: members are read by name into memory, so no name in it leads
anywhere. Headers are not trusted: sizes are checked before memory is allocated. From archives only
plain files are read; in a folder links to files are followed, but not links to folders, which could
form a cycle. Names come first, so that it can be decided which files are needed at all.
"""

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

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


class Listing(ABC):
    """The files of a folder or archive, and their content on demand.

    Names are as they lie in it, with "/" between folders, from the top; hidden ones and those that
    lead elsewhere ("..") are kept apart.
    """

    def __init__(self, path: Path, most: int):
        self.path, self.most = path, most
        self.names: dict[str, Any] = {}
        """Plain files, in the order they lie in, each with what is needed to read it."""
        self.folders: set[str] = set()
        """Folders, be they empty."""
        self.links: dict[str, str] = {}
        """What is no plain file and no folder, and what it is instead."""
        self.apart: dict[str, None] = {}
        """Hidden files, hidden folders with a "/" behind, pipes and devices."""
        self.doubles: dict[str, None] = {}
        """Names that an archive holds more than once: the last one counts."""

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """(name, content) of these files, one after the other.

        Raises DataError for a file that is too large, damaged or not to be read.
        """
        with telling(self.path):
            yield from self._read(names)

    @abstractmethod
    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]: ...

    def refuse_links(self, folders: Iterable[PurePosixPath]) -> None:
        """Raise DataError for a link or a device in one of these folders, or in place of it."""
        tops = tuple(f"{folder}/" for folder in folders)
        for name, kind in self.links.items():
            if f"{name}/".startswith(tops):
                raise DataError(f"{shown(name)} of {self.path} is {kind}")


def read_files(
    path: Path, wanted: Callable[[str], bool], *, most: int | None = None
) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every wanted file that is not hidden, in the order they lie in.

    ``most`` is as in ``listed``, and so is what is raised.
    """
    listing = listed(path, wanted, most=most)
    listing.refuse_links([PurePosixPath(name) for name in listing.links if wanted(name)])
    yield from listing.read([name for name in listing.names if wanted(name)])


def listed(path: Path, keep: Callable[[str], bool], *, most: int | None = None) -> Listing:
    """What a folder or archive holds; of a compressed .tar, which is read once from front to
    back, the content of the files that ``keep`` names is kept.

    ``most``, bytes of one file that is read, is FILE_BYTES where it is None.

    Raises DataError for what is no archive, is damaged, holds too much or is not to be read.
    """
    most = FILE_BYTES if most is None else most
    with telling(path):
        if path.is_dir():
            return _Folder(path, most)
        if _is_zip(path):
            return _Zip(path, most)
        return _Tar(path, most, keep)


def _is_zip(path: Path) -> bool:
    """By how it begins: any archive may end in a file that is a .zip itself."""
    with open(path, "rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    if _is_tar(start) or start.startswith(tuple(COMPRESSIONS)):
        return False
    # A .zip may also lie behind a program that unpacks it.
    return start.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")) or zipfile.is_zipfile(path)


def _is_tar(start: bytes) -> bool:
    """By its first header's checksum, since that begins with a name: "PKLot", or "BZhang"."""
    with suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(start, tarfile.ENCODING, "surrogateescape"))
    return False


COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""How compressed files begin."""

OTHERS = {b"7z\xbc\xaf\x27\x1c": ".7z", b"Rar!": ".rar", b"\x28\xb5\x2f\xfd": ".zst"}
"""Archives that are not read."""


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Whatever the standard library raises for an archive becomes one sentence."""
    try:
        yield
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(
            f"{error.filename or path} may not be read ({error.strerror}); allowed: files and "
            "folders that this account can read"
        ) from None
    except OSError as error:
        if error.errno is None:  # of a decompressor: what it was given is no such thing
            raise _no_archive(path) from None
        raise DataError(
            f"{error.filename or path} cannot be read ({error.strerror}); allowed: files and "
            "folders that are there, on a disk or share that answers"
        ) from None
    except UNREADABLE:
        raise _no_archive(path) from None


def _no_archive(path: Path) -> DataError:
    return DataError(
        f"{path} is truncated or no archive; allowed: a folder or a whole .zip, .tar, .tar.gz or "
        ".tar.xz file"
    )


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


class _Folder(Listing):
    def __init__(self, path: Path, most: int):
        super().__init__(path, most)

        for name, full in walk(path):
            if _hidden(name):
                self.apart[f"{name}/" if os.path.isdir(full) else name] = None
            elif os.path.isfile(full):  # a link to a file is followed
                self.names[name] = full
            elif os.path.islink(full):
                self.links[name] = (
                    "a link to a folder or to nothing; allowed: plain files and folders, and "
                    "links to files"
                )
            elif os.path.isdir(full):
                self.folders.add(name)
            else:
                self.apart[name] = None

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            full = Path(self.names[name])
            _check_member(name, full.stat().st_size, self.path, self.most)
            yield name, full.read_bytes()


def walk(top: Path) -> Iterator[tuple[str, str]]:
    """(name from the top, path) of everything below a folder, sorted.

    Links to folders are not followed, nor is it looked into hidden ones. Raises OSError for a
    folder that may not be read.
    """

    def stop(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(top, onerror=stop):
        below = os.path.relpath(folder, top)
        for name in sorted([*folders, *files]):
            full = os.path.join(folder, name)
            yield (name if below == "." else f"{below}/{name}"), full
        folders[:] = sorted(name for name in folders if not _hidden(name))


class _Zip(Listing):
    def __init__(self, path: Path, most: int):
        super().__init__(path, most)
        with open(path, "rb") as file:
            # The directory of members is read whole, and each of its entries made an object.
            # Python has no public word for how long it says it is.
            end = zipfile._EndRecData(file)
            if end and end[zipfile._ECD_SIZE] > 128 * MEMBERS:
                raise _too_many(path)
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > MEMBERS:
                raise _too_many(path)
            for member in archive.infolist():
                name = _zip_name(member, path)
                _enter(self, name, member, member.is_dir() or name.endswith("/"))

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        if sum(self.names[name].file_size for name in names) > _room(self.path):
            raise _unfolds(self.path)
        with zipfile.ZipFile(self.path) as archive:
            for name in names:
                yield name, self._content(archive, name)

    def _content(self, archive: zipfile.ZipFile, name: str) -> bytes:
        member = self.names[name]
        _check_member(name, member.file_size, self.path, self.most)
        # Of bzip2 and LZMA, Python unfolds all that a piece holds, and that may be gigabytes.
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(
                f"{shown(name)} of {self.path} is compressed by method {member.compress_type}; "
                "allowed in a .zip: deflate (8) or none (0)"
            )
        content = bytearray()
        # In pieces, since read() decompresses everything before it looks at the size in the header.
        with archive.open(member) as file:
            while piece := file.read(1 << 16):
                content += piece
        if len(content) != member.file_size:
            raise EOFError
        return bytes(content)


UTF8 = 0x800
"""The bit of a .zip member's flags that says that its name is UTF-8."""


def _zip_name(member: zipfile.ZipInfo, path: Path) -> str:
    """A member's name as it was meant.

    Some programs write UTF-8 without saying so, and some of Windows write "\\" between folders.
    Raises DataError for folders in letters of a language that the archive does not tell.
    """
    name = _unicode_name(member)
    if name is not None:
        return name
    name = member.filename
    if not member.flag_bits & UTF8 and not name.isascii():
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
        folders = name.replace("\\", "/").rpartition("/")[0]
        if name == member.filename and not folders.isascii() and not _hidden(name):
            raise DataError(
                f"{shown(folders)} of {path} is in letters that the archive does not tell; "
                "allowed: a .zip with names in UTF-8, a .tar, or the folder unpacked"
            )
    is_windows = member.create_system == 0 or "/" not in name
    return name.replace("\\", "/") if is_windows else name


def _unicode_name(member: zipfile.ZipInfo) -> str | None:
    """The name in the extra field that programs add where the other one is in local letters."""
    extra = member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == UNICODE_PATH and len(field) > 5:
            with suppress(UnicodeError):
                return field[5:].decode()
    return None


UNICODE_PATH = 0x7075


class _Tar(Listing):
    def __init__(self, path: Path, most: int, keep: Callable[[str], bool]):
        super().__init__(path, most)
        with open(path, "rb") as file:
            start = file.read(tarfile.BLOCKSIZE)
        is_plain = _is_tar(start)
        for magic, ending in OTHERS.items():
            if start.startswith(magic) and not is_plain:
                raise DataError(
                    f"{path} is a {ending} archive; allowed: a folder, .zip, .tar, .tar.gz or "
                    ".tar.xz"
                )
        opened = next(
            (kind for magic, kind in COMPRESSIONS.items() if start.startswith(magic)), open
        )
        if is_plain:
            opened = open
        self.kept: dict[str, bytes] = {}
        with (
            opened(path, "rb") as stream,
            tarfile.open(
                fileobj=_Bounded(stream, path), mode="r:", tarinfo=_WholeTarInfo
            ) as archive,
        ):
            for count, member in enumerate(archive):
                if count >= MEMBERS:
                    raise _too_many(path)
                archive.members = []  # or they would pile up
                name = member.name if "/" in member.name else member.name.replace("\\", "/")
                if member.isfile() or member.isdir():
                    place = member.offset_data, member.size
                    name = _enter(self, name, place, member.isdir())
                elif not _hidden(name):
                    self.links[name] = (
                        "a link or a device; allowed: plain files "
                        "(tar --dereference --hard-dereference packs them so)"
                    )
                is_stream = opened is not open or member.issparse()
                if member.isfile() and is_stream and name and keep(name):
                    _check_member(name, member.size, path, most)
                    self.kept[name] = _whole(archive, member)
            # tarfile stops at the end mark; the checksum of the compression lies behind it.
            while archive.fileobj.read(1 << 16):
                pass

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        with open(self.path, "rb") as file:
            for name in names:
                if name in self.kept:
                    yield name, self.kept.pop(name)
                    continue
                start, size = self.names[name]
                _check_member(name, size, self.path, most=self.most)
                file.seek(start)
                content = file.read(size)
                if len(content) != size:
                    raise EOFError
                yield name, content


def _whole(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member).read()
    if len(content) != member.size:
        raise EOFError
    return content


def _enter(listing: Listing, name: str, member: Any, is_folder: bool) -> str:
    """Enter a file or folder under its name from the top; "" where it is hidden."""
    if _hidden(name):
        parts = name.split("/")
        first = next(i for i, part in enumerate(parts) if _hidden(part))
        is_below = first < len(parts) - 1 or is_folder
        listing.apart["/".join(parts[: first + 1]) + "/" * is_below] = None
        return ""
    name = "/".join(part for part in name.split("/") if part not in ("", "."))
    if is_folder:
        listing.folders.add(name)
    elif name:
        if name in listing.names:
            listing.doubles[name] = None
        listing.names[name] = member
    return name


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
    return any(part.startswith((".", "__MACOSX")) and part != "." for part in name.split("/"))


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
