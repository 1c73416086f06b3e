"""The files of a .zip, read by name into memory: no name in it leads anywhere."""

import struct
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from atomlib.datasets import limits
from atomlib.datasets.listing import Listing, enter, hidden
from atomlib.errors import DataError, shown


class ZipListing(Listing):
    """The members of a .zip."""

    def __init__(self, path: Path, most: int):
        super().__init__(path, most)
        with open(path, "rb") as file:
            # The directory of members is read whole, and each of its entries made an object.
            # Python has no public word for how long it says it is.
            end = zipfile._EndRecData(file)
            if end and end[zipfile._ECD_SIZE] > 128 * limits.MEMBERS:
                raise limits.too_many(path)
        with zipfile.ZipFile(path) as archive:
            if len(archive.infolist()) > limits.MEMBERS:
                raise limits.too_many(path)
            for member in archive.infolist():
                name = _zip_name(member, path)
                enter(self, name, member, member.is_dir() or name.endswith("/"))

    def _read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        if sum(self.names[name].file_size for name in names) > limits.room(self.path):
            raise limits.unfolds(self.path)
        with zipfile.ZipFile(self.path) as archive:
            for name in names:
                yield name, self._content(archive, name)

    def _content(self, archive: zipfile.ZipFile, name: str) -> bytes:
        member = self.names[name]
        limits.check_member(name, member.file_size, self.path, self.most)
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
        if name == member.filename and not folders.isascii() and not hidden(name):
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
