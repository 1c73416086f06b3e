"""Reads folders and archives (zip, tar) safely: sizes are bounded, nothing is unpacked to disk.

An archive is never unpacked to disk: members are read by name into memory, so no name in it leads
anywhere (``zip_listing``, ``tar_listing``, ``folder_listing``; sizes in ``limits``). From archives
only plain files are read; in a folder links to files are followed, but not links to folders.
Names come first, so that it can be decided which files are needed at all.
"""

import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from atomlib.datasets import limits
from atomlib.datasets.folder_listing import FolderListing
from atomlib.datasets.listing import Listing, telling
from atomlib.datasets.tar_listing import COMPRESSIONS, TarListing, is_tar
from atomlib.datasets.zip_listing import ZipListing


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

    ``most``, bytes of one file that is read, is limits.FILE_BYTES where it is None.

    Raises DataError for what is no archive, is damaged, holds too much or is not to be read.
    """
    most = limits.FILE_BYTES if most is None else most
    with telling(path):
        if path.is_dir():
            return FolderListing(path, most)
        if _is_zip(path):
            return ZipListing(path, most)
        return TarListing(path, most, keep)


def _is_zip(path: Path) -> bool:
    """By how it begins: any archive may end in a file that is a .zip itself."""
    with open(path, "rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    if is_tar(start) or start.startswith(tuple(COMPRESSIONS)):
        return False
    # A .zip may also lie behind a program that unpacks it.
    return start.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")) or zipfile.is_zipfile(path)
