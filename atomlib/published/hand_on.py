"""Writing a set as the field's own evaluation codes read it.

dc     <folder>/res_<METHOD>_<DATA>_ConvNet_<ipc>ipc.pt, as DC, DSA and DM write it
mtt    <folder>/images_best.pt and labels_best.pt, as MTT does, and lr.pt where a rate is learned
"""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from atomlib.errors import SettingError
from atomlib.runtime.files import atomic_write
from atomlib.runtime.paths import as_path, check_writable

# As the codes name data sets and methods in their files.
NAMES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "tinyimagenet": "TinyImageNet"}


def write_dc(
    folder: str | Path,
    images: Float[Tensor, "n c s s"],
    labels: Tensor,
    *,
    method: str,
    data: str,
    ipc: int,
    accuracies: Sequence[float] = (),
) -> Path:
    """Write one set as DC's ``main.py`` does: images normalised, labels int64; return the file.

    ``accuracies``, in percent, are written as fractions, as there; none is an empty list. Raises
    SettingError where the folder cannot be written, or holds another set in a file of that name.
    """
    method, data = (re.sub(r"[^A-Za-z0-9.-]", "-", name) for name in (method, data))
    name = f"res_{method}_{NAMES.get(data, data)}_ConvNet_{ipc}ipc.pt"
    content = {
        "data": [[_own(images), _own(labels)]],
        "accs_all_exps": {"ConvNet": [float(accuracy) / 100 for accuracy in accuracies]},
    }
    folder = as_path("folder", folder)
    _write(folder, {name: _saved(content)})
    return folder / name


def write_mtt(
    folder: str | Path,
    images: Float[Tensor, "n c s s"],
    labels: Tensor,
    *,
    lr: float | None = None,
) -> Path:
    """Write one set as MTT's ``distill.py`` does: bare tensors; return the file of images.

    Raises SettingError where the folder cannot be written, or holds any file but those of this
    very set: a reader takes labels and a rate from files beside the images.
    """
    folder = as_path("folder", folder)
    tensors = {"images_best": images, "labels_best": labels}
    if lr is not None:
        tensors["lr"] = torch.tensor(lr)
    files = {f"{name}.pt": _saved(_own(tensor)) for name, tensor in tensors.items()}
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name not in files:
                raise _holds(folder, path.name)
    _write(folder, files)
    return folder / "images_best.pt"


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by name; none where one is there already and says something else."""
    check_writable(folder)
    for name, content in files.items():
        path = folder / name
        if os.path.lexists(path) and not (path.is_file() and path.read_bytes() == content):
            raise _holds(folder, name)
    for name, content in files.items():
        with atomic_write(folder / name) as partial:
            partial.write_bytes(content)


def _holds(folder: Path, name: str) -> SettingError:
    return SettingError(
        f"folder {folder} holds {name}, which is not of this set; allowed: a new or an empty "
        "folder, or one that this set was written to before"
    )


def _saved(content: object) -> bytes:
    # Through memory, or the partial file's name would be part of what is written.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _own(tensor: Tensor) -> Tensor:
    """A copy, since torch.save writes all of the memory that a view looks at."""
    return tensor.detach().cpu().clone()
