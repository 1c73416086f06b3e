"""Tensors and numbers out of files that strangers wrote: .pt, .pth, .npy, .npz, .safetensors.

Nothing in such a file is run. A pickle may name tensors, storages, dictionaries and numpy's plain
numbers; any other name refuses the whole file. Each storage must lie in the file in full, so that
no size written in it takes memory that its bytes do not fill.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import safe_open

from atomlib.datasets.archives import read_files
from atomlib.errors import SettingError
from atomlib.runtime.files import DamagedError, check_file

MOST_BYTES = 1 << 32
"""Of a file, and of what a compressed one unfolds to: 4 GiB."""

SUFFIXES = (".pt", ".pth", ".npy", ".npz", ".safetensors")

WHOLE = "allowed: a whole .pt, .pth, .npy, .npz or .safetensors file of tensors and numbers"

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file of torch.save begins that is no zip archive: torch's magic number, pickled."""

STORAGES = {
    "BFloat16Storage": 2,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "IntStorage": 4,
    "LongStorage": 8,
    "ShortStorage": 2,
}
"""Kinds of storage that a file may hold, with the bytes of an element."""

# numpy 2 renamed the module; files of both are about.
NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")

NAMES = {
    *(f"torch {storage}" for storage in STORAGES),
    *(f"torch._utils {name}" for name in ("_rebuild_tensor_v2", "_rebuild_parameter")),
    *(f"{module} scalar" for module in NUMPY),
    "numpy dtype",
    "collections OrderedDict",
    "_codecs encode",
    "torch Size",
}
"""All that a pickle may name."""


def read_tensors_of(path: Path) -> Any:
    """What the file holds: tensors and numbers, in dictionaries and lists as its author put them.

    Raises DamagedError, in one sentence, for what is cut short, damaged, too large, or holds
    anything but tensors and numbers.
    """
    start = check_file(path, MOST_BYTES)
    try:
        if path.suffix == ".safetensors":
            return _safetensors(path)
        if start.startswith(b"\x93NUMPY"):
            return _array(path.read_bytes())
        if start.startswith(b"PK"):
            return _zip(path)
        if start.startswith(LEGACY_MAGIC):
            return _legacy(path.read_bytes())
    except _Unwelcome as error:
        raise DamagedError(f"{path} {error}; {WHOLE}") from None
    except SettingError:
        raise
    except Exception:  # of bytes that mean nothing, torch's and numpy's readers raise anything
        raise DamagedError(f"{path} is cut short or damaged; {WHOLE}") from None
    raise DamagedError(f"{path} is no file of tensors; {WHOLE}")


class _Unwelcome(Exception):
    """Content that is refused whatever it would mean; the message follows the path."""


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _array(content: bytes) -> torch.Tensor:
    """A .npy file's array. numpy would take memory for what the header says, so that is checked."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise _Unwelcome(f"is a .npy file of version {version}")
    first, second = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, _, dtype = (first if version == (1, 0) else second)(stream)
    if dtype.hasobject or dtype.kind not in "fiub":
        raise _Unwelcome(f"holds values of type {dtype}")
    count = 1
    for length in shape:
        count *= length
    if min(shape, default=1) < 0 or count * dtype.itemsize != len(content) - stream.tell():
        raise _Unwelcome("does not hold as many values as it says")
    stream.seek(0)
    array = np.load(stream, allow_pickle=False)
    return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))


def _zip(path: Path) -> Any:
    members = dict(read_files(path, lambda name: True, most=MOST_BYTES))
    pickles = [name for name in members if PurePosixPath(name).name == "data.pkl"]
    if len(pickles) == 1:
        return _archived(members, pickles[0].removesuffix("data.pkl"))
    arrays = {n.removesuffix(".npy"): c for n, c in members.items() if n.endswith(".npy")}
    if pickles or not arrays:
        raise _Unwelcome("is an archive of neither torch nor numpy")
    return {name: _array(content) for name, content in arrays.items()}


def _archived(members: dict[str, bytes], top: str) -> Any:
    """What torch.save wrote, as a zip archive.

    torch reads a copy that is written here from members whose checksums and sizes are right: its
    own reader goes by what the pickle says of a storage's size, be there bytes or not.
    """
    storages = {
        name.removeprefix(f"{top}data/"): content
        for name, content in members.items()
        if name.startswith(f"{top}data/")
    }
    for key, needed in _storages(io.BytesIO(members[f"{top}data.pkl"]), extra=()):
        if needed > len(storages.get(key, b"")):
            raise _Unwelcome("does not hold as many values as it says")
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w") as archive:
        for name in ("data.pkl", "byteorder", *(f"data/{key}" for key in storages)):
            if f"{top}{name}" in members:
                archive.writestr(f"set/{name}", members[f"{top}{name}"])
        archive.writestr("set/version", "3\n")
    return _load(copy)


def _legacy(content: bytes) -> Any:
    """What torch.save wrote before it wrote zip archives: five pickles, then the storages."""
    stream = io.BytesIO(content)
    asked: dict[str, int] = {}
    for _ in range(5):
        for key, needed in _storages(stream, extra=(None,)):
            asked[key] = max(needed, asked.get(key, 0))
    if sum(asked.values()) > len(content) - stream.tell():
        raise _Unwelcome("does not hold as many values as it says")
    return _load(io.BytesIO(content))


def _load(file: BinaryIO) -> Any:
    file.seek(0)
    stand_ins = [(_scalar, f"{module}.scalar") for module in NUMPY] + [(_Type, "numpy.dtype")]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(file, map_location="cpu", weights_only=True)


class _Type:
    """Stands in for numpy.dtype, which numpy's numbers are pickled with."""

    def __init__(self, code: str, *_: bool):
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1] if state[1] in "<>" else "<"


# As numpy names types, and as struct does.
NUMBERS = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q",
    "u8": "Q", "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


def _scalar(kind: _Type, content: bytes) -> float:
    """Stands in for numpy's function of that name: one plain number out of its bytes."""
    return struct.unpack(kind.order + NUMBERS[kind.code], content)[0]


_UNKNOWN = object()
"""A value on the pickle's stack that is not followed."""


def _storages(stream: BinaryIO, extra: tuple) -> Iterator[tuple[str, int]]:
    """(key, bytes) of each storage that one pickle asks for; reads it without building anything.

    torch names a storage by a tuple of constants, ("storage", kind, key, device, count) and what
    ``extra`` says, and it is written in one piece; anything else in its place is refused.
    """
    memo: dict[int, Any] = {}
    stack: list[Any] = [_UNKNOWN]  # what was pushed since the last mark
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "GLOBAL":
            if argument not in NAMES:
                raise _Unwelcome(f"names {argument.replace(' ', '.')[:100]}, which is not read")
            stack.append(argument)
        elif name == "PROTO" and argument != 2:
            raise _Unwelcome(f"is pickled by protocol {argument}, where torch.save's is 2")
        elif name in CONSTANTS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1] if stack else _UNKNOWN
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo.get(argument, _UNKNOWN))
        elif name == "MARK":
            stack = []
        elif name == "TUPLE":
            stack = [tuple(stack)]
        elif name == "BINPERSID":
            yield _storage(stack[-1] if stack else None, extra)
            stack = [_UNKNOWN]
        else:
            stack = [_UNKNOWN]


CONSTANTS = ("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "NONE")


def _storage(asked: Any, extra: tuple) -> tuple[str, int]:
    if isinstance(asked, tuple) and len(asked) == 5 + len(extra) and asked[5:] == extra:
        word, kind, key, _, count = asked[:5]
        size = STORAGES.get(kind.removeprefix("torch ")) if isinstance(kind, str) else None
        known = word == "storage" and size and isinstance(key, str) and type(count) is int
        if known and 0 <= count <= MOST_BYTES:
            return key, count * size
    raise _Unwelcome("asks for a storage in a way that torch.save does not")
