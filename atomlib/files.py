"""Writing files so that a kill, a full disk or a read-only folder leaves nothing half-written."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from atomlib.errors import SettingError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; flush it to disk and rename it once all is well.

    Whatever goes wrong, ``path`` is either as it was or whole. A full disk or a read-only
    folder is a SettingError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
