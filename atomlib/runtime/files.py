"""Atomic writes, checksums inside files, and locks between processes.

A kill, a full disk or a read-only folder leaves nothing half-written. Tensors are safetensors with
one entry of metadata, records one JSON object; each file carries a checksum of all that it says.
Nothing is ever unpickled, and a file is never given more memory than it takes up on disk.
"""

import glob
import hashlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atomlib.errors import SettingError
from atomlib.runtime.paths import check_writable


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; flush it to disk and rename it once all is well.

    Whatever goes wrong, ``path`` is either as it was or whole. A full disk or a read-only
    folder is a SettingError.
    """
    partial = _partial(path)
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


def _partial(path: Path) -> Path:
    # Not by the process's number: machines that share the folder may have the same.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


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
        partial.chmod(0o755)  # mkdtemp's is readable by its owner only
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
    """Remove partial files that killed processes left beside ``path``, once they are old enough."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_SECONDS:
                left.unlink()


LEFT_SECONDS = 3600.0
"""After which a partial file is nobody's."""


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold the lock on making ``path``; a process that dies releases it.

    Where another process holds it, wait, and say so: what that one made can be read then.
    """
    held = lock_file(path)
    try:
        held.acquire(blocking=False)
    except Timeout:
        print(f"{path.name}: another process holds the lock; waiting", file=sys.stderr)
        held.acquire()
    except (OSError, NotImplementedError) as error:
        _tell_of_no_locks(path.parent, getattr(error, "strerror", None) or str(error))
    try:
        yield
    finally:
        held.release()


@cache
def _tell_of_no_locks(folder: Path, reason: str) -> None:
    """Once per folder: a file system of a network, say, whose server grants no locks."""
    print(
        f"{folder} grants no locks ({reason}); going on without, so let one process at a time "
        "write there, or two may do the same work",
        file=sys.stderr,
    )


def lock_file(path: Path) -> FileLock:
    """The lock on making ``path``, not held yet: a file beside it, which all may take who share
    the folder."""
    return FileLock(path.with_name(f".{path.name}.lock"), mode=0o666)


def name_bytes(path: Path) -> int:
    """Of the longest name that making ``path`` takes: the file's, the partial's, or the lock's."""
    paths = (path, _partial(path), lock_file(path).lock_file)
    return max(len(os.fsencode(Path(each).name)) for each in paths)


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(about: str, *tensors: Tensor) -> str:
    """Hex SHA-256 of words and of the values of tensors, in this order."""
    digest = hashlib.sha256(about.encode())
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


MOST_BYTES = 1 << 34
"""Of a file of tensors: 16 GiB. A distilled set of ImageNet's 1000 classes, 50 each, has 5."""

MOST_RECORD_BYTES = 1 << 26
"""Of a record: 64 MiB. One of a thousand networks has 0.02."""


class DamagedError(SettingError):
    """A file that is cut short, has a byte changed, or was never one of ours."""


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and what they are, ``about``, in one file, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Only one entry: safetensors writes several in no fixed order.
    metadata = {"atomlib": json.dumps({**about, "checksum": _checksum(about, tensors)})}
    with atomic_write(path) as partial:
        # Not safetensors' own writing, which a kill makes leave a file of no known name.
        partial.write_bytes(save(tensors, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write_tensors`` wrote. Raises DamagedError for any other content."""
    check_file(path, MOST_BYTES)
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["atomlib"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        same = about.pop("checksum") == _checksum(about, tensors)
    except KeyError:
        raise DamagedError(f"{path} was not written by atomlib; {WHOLE}") from None
    except UNREADABLE as error:
        raise DamagedError(
            f"{path} is cut short, damaged or no .safetensors file ({_line(error)}); {WHOLE}"
        ) from None
    if not same:
        raise DamagedError(f"{path} is damaged (its checksum differs); {WHOLE}")
    return tensors, about


def read_about(path: Path) -> dict[str, Any]:
    """What a file of tensors says that they are, unchecked. Raises DamagedError."""
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads((file.metadata() or {})["atomlib"]))
    except (KeyError, *UNREADABLE) as error:
        raise DamagedError(f"{path} was not written by atomlib ({_line(error)}); {WHOLE}") from None


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its checksum, as its last entry."""
    record = unsealed(record)
    return {**record, "checksum": _checksum(record, {})}


def unsealed(record: dict[str, Any]) -> dict[str, Any]:
    """A record without its checksum."""
    return {name: value for name, value in record.items() if name != "checksum"}


def is_intact(record: Any) -> bool:
    """Whether this is a record that ``sealed`` gave, as JSON brings it back."""
    return isinstance(record, dict) and record.get("checksum") == _checksum(unsealed(record), {})


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write one JSON object with its checksum, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(sealed(record), indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """What ``write_record`` wrote. Raises DamagedError for any other content."""
    check_file(path, MOST_RECORD_BYTES)
    try:
        record = json.loads(path.read_bytes())
    except UNREADABLE as error:
        raise DamagedError(f"{path} is no JSON ({_line(error)}); {WHOLE}") from None
    if not is_intact(record):
        raise DamagedError(f"{path} is damaged or no record (its checksum differs); {WHOLE}")
    return unsealed(record)


def set_aside(path: Path, folder: Path, error: DamagedError) -> None:
    """Move a damaged file into ``folder``, and say so: it will be made again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = 0
        while (place := folder / f"{path.name}.{number}").exists():
            number += 1
        path.rename(place)
    except OSError as not_ours:
        print(f"{error}; cannot be set aside ({not_ours.strerror}), made again", file=sys.stderr)
    else:
        print(f"{error}; set aside as {place}, made again", file=sys.stderr)


WHOLE = "allowed: a whole file, as it was written"


# MemoryError: a header that asks for what no machine has. RecursionError: JSON nested by the
# thousand.
UNREADABLE = (
    SafetensorError,
    AttributeError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


def check_file(path: Path, most: int) -> bytes:
    """The first 64 bytes of a file.

    Raises DamagedError where it cannot be read, is none (see ``check_start``), or has more than
    ``most`` bytes.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror}); {WHOLE}") from None
    check_start(path, start)
    if size > most:
        raise DamagedError(f"{path} has {size:,} bytes; allowed: {most:,} at the most")
    return start


def check_start(path: Path, start: bytes) -> None:
    """Raise DamagedError for what commonly lies where a file should be: a pointer or a web page."""
    if start.startswith(b"version https://git-lfs"):
        raise DamagedError(
            f"{path} is a Git LFS pointer, not the file itself; get it with: git lfs pull"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise DamagedError(f"{path} is a web page, not the file itself; {WHOLE}")
    if not start:
        raise DamagedError(f"{path} is cut short, it is empty; {WHOLE}")


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _checksum(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of all names, values, types, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy())
    return digest.hexdigest()
