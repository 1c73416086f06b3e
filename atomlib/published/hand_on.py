"""Writing a set as the field's own evaluation codes read it.

dc     <folder>/res_<METHOD>_<DATA>_ConvNet_<ipc>ipc.pt, as DC, DSA and DM write it
mtt    <folder>/images_best.pt and labels_best.pt, as MTT does, and lr.pt where a rate is learned
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from atomlib.runtime.files import atomic_write, check_writable

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

    ``accuracies``, in percent, are written as fractions, as there; none is an empty list.
    """
    method, data = (re.sub(r"[^A-Za-z0-9.-]", "-", name) for name in (method, data))
    name = f"res_{method}_{NAMES.get(data, data)}_ConvNet_{ipc}ipc.pt"
    path = check_writable(Path(folder)) / name
    content = {
        "data": [[_own(images), _own(labels)]],
        "accs_all_exps": {"ConvNet": [float(accuracy) / 100 for accuracy in accuracies]},
    }
    _save(content, path)
    return path


def write_mtt(
    folder: str | Path,
    images: Float[Tensor, "n c s s"],
    labels: Tensor,
    *,
    lr: float | None = None,
) -> Path:
    """Write one set as MTT's ``distill.py`` does: bare tensors; return the file of images."""
    folder = check_writable(Path(folder))
    tensors = {"images_best": images, "labels_best": labels}
    if lr is not None:
        tensors["lr"] = torch.tensor(lr)
    for name, tensor in tensors.items():
        _save(_own(tensor), folder / f"{name}.pt")
    return folder / "images_best.pt"


def _save(content: object, path: Path) -> None:
    # Through memory, or the partial file's name would be part of what is written.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as partial:
        partial.write_bytes(buffer.getvalue())


def _own(tensor: Tensor) -> Tensor:
    """A copy, since torch.save writes all of the memory that a view looks at."""
    return tensor.detach().cpu().clone()
