"""The files of a .tar, plain or compressed, read into memory: only plain files, links are not."""

import bz2
import gzip
import lzma
import math
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from atomlib.datasets import limits
from atomlib.datasets.listing import Listing, enter, hidden
from atomlib.errors import DataError


def is_tar(start: bytes) -> bool:
    """By its first header's checksum, since that begins with a name: "PKLot", or "BZhang"."""
    with suppress(tarfile.HeaderError):
        return bool(tarfile.TarInfo.frombuf(start, tarfile.ENCODING, "surrogateescape"))
    return False


COMPRESSIONS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""How compressed files begin."""

OTHERS = {b"7z\xbc\xaf\x27\x1c": ".7z", b"Rar!": ".rar", b"\x28\xb5\x2f\xfd": ".zst"}
"""Archives that are not read."""


class TarListing(Listing):
    """The members of a .tar; of a compressed one, the content of those that ``keep`` names."""

    def __init__(self, path: Path, most: int, keep: Callable[[str], bool]):
        super().__init__(path, most)
        with open(path, "rb") as file:
            start = file.read(tarfile.BLOCKSIZE)
        is_plain = is_tar(start)
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
                if count >= limits.MEMBERS:
                    raise limits.too_many(path)
                archive.members = []  # or they would pile up
                name = member.name if "/" in member.name else member.name.replace("\\", "/")
                if member.isfile() or member.isdir():
                    place = member.offset_data, member.size
                    name = enter(self, name, place, member.isdir())
                elif not hidden(name):
                    self.links[name] = (
                        "a link or a device; allowed: plain files "
                        "(tar --dereference --hard-dereference packs them so)"
                    )
                is_stream = opened is not open or member.issparse()
                if member.isfile() and is_stream and name and keep(name):
                    limits.check_member(name, member.size, path, most)
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
                limits.check_member(name, size, self.path, most=self.most)
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


class _Bounded:
    """A stream from which nothing reads past what an archive may unfold to, nor much at once."""

    def __init__(self, stream: BinaryIO, path: Path):
        self.stream, self.path, self.room = stream, path, limits.room(path)
        self.until = math.inf

    def read(self, size: int) -> bytes:
        # tarfile reads as much as a header says, even for a name only.
        end = self.tell() + size
        if size > limits.FILE_BYTES or end > min(self.room + (1 << 20), self.until):
            raise limits.unfolds(self.path)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        if position > self.room:  # to skip a member is to decompress it
            raise limits.unfolds(self.path)
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()


class _WholeTarInfo(tarfile.TarInfo):
    """tarfile takes a header that is cut off or damaged for the end of the archive; we do not."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        # From Python 3.14 on tarfile reads a long header piece by piece: no read is too large.
        tar.fileobj.until = tar.fileobj.tell() + limits.FILE_BYTES
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # the block of zeros that ends a whole archive
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from None
        finally:
            tar.fileobj.until = math.inf
