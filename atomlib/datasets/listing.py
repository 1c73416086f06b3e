"""What a folder or archive holds: names first, so that it can be decided which files are read."""

import lzma
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from atomlib.errors import DataError, shown


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


def enter(listing: Listing, name: str, member: Any, is_folder: bool) -> str:
    """Enter a file or folder under its name from the top; "" where it is hidden."""
    if hidden(name):
        parts = name.split("/")
        first = next(i for i, part in enumerate(parts) if hidden(part))
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


def hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, is hidden, or macOS's own."""
    return any(part.startswith((".", "__MACOSX")) and part != "." for part in name.split("/"))


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
