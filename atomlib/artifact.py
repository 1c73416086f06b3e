"""Files that say themselves whether they are whole: tensors, and records in JSON.

Each carries a checksum of all that it says. Tensors are safetensors with one entry of metadata,
records one JSON object; nothing is ever unpickled, and a file is never given more memory than
it takes up on disk, of which there may be ``MOST_BYTES``.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atomlib.errors import SettingError
from atomlib.files import atomic_write

MOST_BYTES = 1 << 34
"""Of a file of tensors: 16 GiB. A distilled set of ImageNet's 1000 classes, 50 each, has 5."""

MOST_RECORD_BYTES = 1 << 26
"""Of a record: 64 MiB. One of a thousand networks has 0.02."""


class DamagedError(SettingError):
    """A file that is cut short, has a byte changed, or was never one of ours."""


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and what they are, ``about``, in one file, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry alone: safetensors writes several in no fixed order.
    metadata = {"atomlib": json.dumps({**about, "checksum": _checksum(about, tensors)})}
    with atomic_write(path) as partial:
        # Not safetensors' own writing, which a kill makes leave a file of no known name.
        partial.write_bytes(save(tensors, metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What ``write_tensors`` wrote. Raises DamagedError for any other content."""
    _check_size(path, MOST_BYTES)
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


def is_whole(record: Any) -> bool:
    """Whether this is a record that ``sealed`` gave, as JSON brings it back."""
    return isinstance(record, dict) and record.get("checksum") == _checksum(unsealed(record), {})


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write one JSON object with its checksum, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(sealed(record), indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """What ``write_record`` wrote. Raises DamagedError for any other content."""
    _check_size(path, MOST_RECORD_BYTES)
    try:
        record = json.loads(path.read_bytes())
    except UNREADABLE as error:
        raise DamagedError(f"{path} is no JSON ({_line(error)}); {WHOLE}") from None
    if not is_whole(record):
        raise DamagedError(f"{path} is damaged or no record (its checksum differs); {WHOLE}")
    return unsealed(record)


def set_aside(path: Path, folder: Path, error: DamagedError) -> None:
    """Move a damaged file into ``folder``, and say so: it will be made again."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while (place := folder / f"{path.name}.{number}").exists():
        number += 1
    path.rename(place)
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


def _check_size(path: Path, most: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror}); {WHOLE}") from None
    if size > most:
        raise DamagedError(f"{path} has {size:,} bytes; allowed: {most:,} at the most")


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
