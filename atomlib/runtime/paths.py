"""Paths that somebody gave, folders that can be written, and the folder of the cache."""

import os
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from atomlib.errors import SettingError, check_kind, shown

LONGEST_NAME = 255
"""In bytes: what file systems allow."""


def as_path(setting: str, value: object, *, file: bool = False) -> Path:
    """A path that somebody gave, with ~ as a shell reads it; of a ``file``, one that has a name.

    Raises SettingError for what can be none.
    """
    allowed = "the path of a file" if file else "the path of a file or folder"
    check_kind(setting, value, str | Path, allowed)
    path = Path(_from_home(setting, str(value), allowed))
    try:
        longest = max((len(os.fsencode(part)) for part in path.parts), default=1)
    except UnicodeEncodeError:  # half of a letter
        longest = 0
    nameless = file and path.name in ("", "..")
    if not str(value) or "\0" in str(value) or not 1 <= longest <= LONGEST_NAME or nameless:
        raise SettingError(f"{setting} is {shown(value)}; allowed: {allowed}")
    return path


def _from_home(setting: str, path: str, allowed: str) -> str:
    """A path with ~, or ~somebody, filled in. Raises SettingError where there is no such home."""
    if (full := os.path.expanduser(path)).startswith("~"):
        raise SettingError(
            f"{setting} is {shown(path)}, and there is no such home; allowed: {allowed}"
        )
    return full


def own_path(setting: str, value: object) -> Path:
    """``as_path`` of a command's option, as an absolute path."""
    return Path(os.path.abspath(as_path(setting, value)))


def check_writable(folder: Path) -> Path:
    """Make ``folder`` and prove, before any work starts, that a file can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(1 << 16))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        raise SettingError(
            f"folder {folder} cannot be written ({error.strerror}); "
            "allowed: a writable folder with room"
        ) from None
    return folder


def cache_folder() -> Path:
    """The cache of data, ZCA matrices and networks: ATOM_CACHE, else ~/.cache/atomlib.

    Without ATOM_CACHE, an account that has no home, or one that cannot be written, gets a folder
    of its own among the temporary ones.
    """
    chosen = os.environ.get("ATOM_CACHE")
    if not chosen:
        return _default_cache(os.environ.get("HOME", ""))
    return Path(_from_home("ATOM_CACHE", chosen, "the path of a folder"))


@cache
def _default_cache(_: str) -> Path:
    with suppress(OSError, RuntimeError):  # RuntimeError: no home is known
        folder = Path.home() / ".cache" / "atomlib"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    folder = Path(tempfile.gettempdir()) / f"atomlib-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat() if folder.exists() else None
    if about is None or about.st_uid != os.getuid() or not os.access(folder, os.W_OK):
        folder = Path(tempfile.mkdtemp(prefix="atomlib-"))  # that name is somebody else's
    print(f"no home to write to: the cache is {folder} (ATOM_CACHE sets it)", file=sys.stderr)
    return folder
