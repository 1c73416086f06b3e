"""The cache as several accounts may share it: what one may not read or write is done without it."""

import errno
import glob
import hashlib
import json
import os
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from atomlib.errors import SettingError
from atomlib.runtime.files import DamagedError, read_about, read_tensors, set_aside, write_tensors
from atomlib.runtime.paths import cache_folder, check_writable
from atomlib.runtime.provenance import Facts, differences


def kept_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What the cache holds in ``path``; None where it is not there or this account may not read it.

    A damaged file is told, set aside, and None.
    """
    if not os.path.exists(path):  # Path.exists raises where a folder above may not be read
        return None
    try:
        open(path, "rb").close()
        return read_tensors(path)
    except OSError as error:
        _tell(path, "read", error.strerror)
        return None
    except DamagedError as error:
        set_aside(path, path.parent / "damaged", error)
        return None


def place(folder: str, name: str, facts: Facts) -> Path:
    """Where the cache keeps what comes of a run with these facts on the data set ``name``."""
    key = hashlib.sha256(json.dumps(asdict(facts)).encode()).hexdigest()
    return cache_folder() / folder / f"{name}-{key[:16]}.safetensors"


def kept_place(path: Path, facts: Facts, defaults: dict[str, Any]) -> Path:
    """Where the cache has what came of a run with these facts: ``path``, or where that is not
    there, a file beside it with the same facts.

    Files are named by a hash of their facts. Settings that were added since change it, but not
    what came of the run where they have their ``defaults``.
    """
    if os.path.exists(path):  # Path.exists raises where a folder above may not be read
        return path
    name = path.stem.rpartition("-")[0]
    for other in sorted(path.parent.glob(f"{glob.escape(name)}-*{path.suffix}")):
        try:
            then = read_about(other)["facts"]
            then = Facts(**{**then, "settings": defaults | then["settings"]})
            if not differences(then, facts):
                return other
        except (KeyError, TypeError, AttributeError, OSError, DamagedError):
            continue  # another version's, another account's, or damaged
    return path


def keep_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write ``path`` for the next time, unless this account may not, which is told.

    Raises SettingError where there is no room, say.
    """
    try:
        write_tensors(path, tensors, about)
    except SettingError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in NOT_OURS:
            raise
        _tell(path.parent, "written", os.strerror(cause.errno))


NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What the system says of another account's folder, or of a disk that is only read."""


def check_cache(folder: Path) -> None:
    """Raise SettingError unless a file can be written to this folder of the cache: before work that
    is too long to be done again."""
    try:
        check_writable(folder)
    except SettingError as error:
        raise SettingError(f"{error}, which ATOM_CACHE names") from None


@cache
def _tell(place: Path, what: str, reason: str) -> None:
    """Once per folder that cannot be written, and file that cannot be read."""
    print(
        f"the cache's {place} cannot be {what} ({reason}); going on without, so the same is done "
        "again next time; ATOM_CACHE=/path/to/a/folder names one of your own",
        file=sys.stderr,
    )
