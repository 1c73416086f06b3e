"""The files of a folder: links to files are followed, links to folders, which could form a cycle,
are not."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from atomlib.datasets import limits
from atomlib.datasets.listing import Listing, hidden


class FolderListing(Listing):
    """The files of a folder."""

    def __init__(self, path: Path, most: int):
        super().__init__(path, most)

        for name, full in walk(path):
            if hidden(name):
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
            limits.check_member(name, full.stat().st_size, self.path, self.most)
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
        folders[:] = sorted(name for name in folders if not hidden(name))
