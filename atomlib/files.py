"""Writing files so that a kill, a full disk or a read-only folder leaves nothing half-written."""

import glob
import hashlib
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from atomlib.errors import SettingError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; flush it to disk and rename it once all is well.

    Whatever goes wrong, ``path`` is either as it was or whole. A full disk or a read-only
    folder is a SettingError.
    """
    # Not by the process's number: machines that share the folder may have the same.
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except Exception as error:
        # safetensors reports a full disk as its own error type, hence the wide net.
        if isinstance(error, SettingError):
            raise
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingError(
            f"{path} could not be written ({reason}); allowed: a writable folder with room"
        ) from error
    finally:
        with suppress(OSError):  # its folder is a file, say: then there is nothing to remove
            partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path, marker: str) -> Iterator[Path]:
    """Yield a new folder beside ``folder``; put it in its place once all is well.

    What it replaces must be empty or hold a file named ``marker``, which the new one gets too:
    so nobody loses a folder that something else made. Raises SettingError otherwise, and where
    nothing can be written there.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingError(f"folder {folder} is a file; allowed: a new or an empty folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / marker).exists():
        raise SettingError(
            f"folder {folder} holds other files; allowed: a new or an empty one, or one that "
            "the same command made"
        )
    check_writable(folder.parent)
    partial = Path(
        tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".partial")
    )
    old = partial.with_suffix(".old")
    try:
        yield partial
        (partial / marker).touch()
        partial.chmod(0o755)  # mkdtemp's is the owner's alone
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise SettingError(
            f"{folder} could not be written ({error.strerror or error}); "
            "allowed: a writable folder with room"
        ) from error
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Remove what a kill in the midst of writing ``path`` left, once no one can be at it still."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                left.unlink()


LEFT_SECONDS = 3600.0
"""After which a partial file is nobody's."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold other processes off what makes ``path``; a process that dies lets go of it.

    Where another is at it, wait, and say so: what it made can be read then.
    """
    lock = lock_of(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{path.name}: another process is at it; waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_of(path: Path) -> FileLock:
    """The lock that ``alone`` takes."""
    return FileLock(path.with_name(f".{path.name}.lock"))


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


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where decoded data and ZCA matrices are kept: ATOM_CACHE, else ~/.cache/atomlib."""
    return Path(os.environ.get("ATOM_CACHE") or Path.home() / ".cache" / "atomlib")
