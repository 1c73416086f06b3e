"""What may be read from a folder or an archive at most, and what is said of more.

Headers are not trusted: sizes are checked before memory is allocated.
"""

import unicodedata
from pathlib import Path

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


def room(path: Path) -> int:
    """Bytes that an archive may unfold to."""
    return min(ARCHIVE_BYTES, max(FILE_BYTES, RATIO * path.stat().st_size))


def unfolds(path: Path) -> DataError:
    """The error for an archive that unfolds to more."""
    return DataError(
        f"{path} unfolds to more than its {path.stat().st_size:,} bytes may; allowed: "
        f"{room(path):,} bytes in all"
    )


def too_many(path: Path) -> DataError:
    """The error for an archive of more than MEMBERS."""
    return DataError(f"{path} says it holds too many files; allowed: {MEMBERS:,}")


def check_member(name: str, size: int, path: Path, most: int) -> None:
    """Raise DataError for a name that is none, or a file that is too large to be an image."""
    if unspeakable(name) or len(name) > NAME_LENGTH:
        raise DataError(
            f"{shown(name)} of {path} is no name of a file; allowed: up to {NAME_LENGTH} "
            "characters of text without control characters"
        )
    if size > most:
        raise DataError(f"{shown(name)} of {path} has {size:,} bytes; allowed: {most:,} a file")


def unspeakable(name: str) -> bool:
    """Whether a name has line breaks, control characters or bytes that are no text."""
    return any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name)
