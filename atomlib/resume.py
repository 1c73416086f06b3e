"""Where a run was, in one file, so that a run that was killed goes on from there.

The file is written now and then, read when the same run starts again, and gone when it ends. It
is only ever replaced as a whole, and counts only for the same run of the same code's versions: a
run that goes on ends with the bytes of one that was never cut (on a CPU).
"""

import hashlib
import time
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from atomlib.files import atomic_write, check_writable
from atomlib.provenance import versions

EVERY_SECONDS = 30.0
"""Between two writings: what a kill costs at most. A file of IPC 50 takes a hundredth of one."""


class Bookmark:
    """The tensors that a run needs to go on, in the file ``path``; nothing where that is None.

    ``run`` names everything that decides the result: settings, data, how arithmetic runs. Raises
    SettingError, before any work, where the file's folder cannot be written.
    """

    def __init__(self, path: str | Path | None, run: str):
        self.path = None if path is None else Path(path)
        if self.path is not None:
            check_writable(self.path.parent)
        about = f"{run} {versions()} {torch.get_num_threads()}"
        self.key = hashlib.sha256(about.encode()).hexdigest()
        self.written = time.monotonic()

    def read(self) -> dict[str, Tensor] | None:
        """What ``write`` wrote last; None where that is another run's, damaged or not there."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with safe_open(self.path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        whole = about.get("run") == self.key and about.get("digest") == _digest(tensors)
        return tensors if whole else None

    def due(self) -> bool:
        """Whether it is time to write again."""
        return self.path is not None and time.monotonic() - self.written >= EVERY_SECONDS

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Keep these. Raises SettingError where the file cannot be written."""
        if self.path is None:
            return
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        with atomic_write(self.path) as partial:
            partial.write_bytes(save(tensors, {"run": self.key, "digest": _digest(tensors)}))
        self.written = time.monotonic()

    def end(self) -> None:
        """The run is over: there is nothing to go on from."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy())
    return digest.hexdigest()
