"""Which layout of the field a file has: its images, labels and rate, as they lie in it.

- {"data": [[images, labels], ...], "accs_all_exps": {...}}: DC, DSA, DM, CAFE, IDM, GLaD, DataDAM
- images_best.pt, labels_best.pt and lr.pt beside each other: MTT, TESLA, FTD, DATM, DD-Ranking
- [images, labels], in [0, 1]: IDC, DANCE, DSDM
- images.npy and labels.npy, or one .npz, channels last: KIP, FRePo
- {"images": ..., "labels": ...}, or images only, in order of class
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomlib.errors import SettingError, shown
from atomlib.published.tensor_files import SUFFIXES, read_tensors_of
from atomlib.runtime.files import DamagedError

IMAGES = ("images", "image", "x", "syn_images", "image_syn")
LABELS = ("labels", "label", "targets", "target", "y", "label_syn")
RATES = ("lr", "syn_lr", "rate")

MOST_VALUES = 1 << 30
"""Of the images of a set: 4 GiB of float32."""

ALLOWED = (
    "allowed: the layouts of DC, DataDAM, MTT, DATM, IDC, KIP and FRePo, PNG or JPEG by class, "
    "a PNG grid, and atomlib's own"
)


@dataclass
class Found:
    """A set as its file holds it, before anything is made of it."""

    layout: str
    """In words, for a reader."""
    images: Tensor
    """float32 [n, c, s, s] in whatever space its author had them."""
    labels: Tensor | None
    """As in the file; None where it has none."""
    lr: float | None = None
    experiment: int | None = None
    """Which of a file's sets this is, from 0; None where there is only one."""
    claims: dict[str, list[float]] = field(default_factory=dict)
    """Accuracies, in percent, that the file says were measured on this set, by network."""
    notes: list[str] = field(default_factory=list)
    """What was taken for granted, in sentences for a reader."""
    space: str | None = None
    """Where the layout says it: "pixels", or what a file of ours says."""


def find(path: Path, experiment: int | None = None) -> Found:
    """The set in a file, or in a folder of files, of tensors.

    Raises DamagedError where it has no known layout, SettingError where ``experiment`` is none
    of the file's several.
    """
    if path.is_dir():
        path = _images_file(path)
    found = _in_tree(read_tensors_of(path), path, experiment)
    found.images = as_images(found.images, path, found.notes)
    return found


def holds_tensors(folder: Path) -> bool:
    """Whether a folder has files of tensors of its own."""
    return any(file.suffix in SUFFIXES for file in folder.iterdir() if file.is_file())


def _in_tree(tree: Any, path: Path, experiment: int | None) -> Found:
    if isinstance(tree, Mapping) and isinstance(tree.get("data"), list | tuple):
        return _experiments(tree, path, experiment)
    notes: list[str] = []
    if isinstance(tree, Mapping):
        images, labels = _named(tree, IMAGES), _labels(_named(tree, LABELS), path)
        if _is_images(images):
            rate = _rate(_named(tree, RATES), notes)
            return Found("images and labels by name", images, labels, rate, notes=notes)
    if isinstance(tree, list | tuple) and len(tree) in (2, 3) and _is_images(tree[0]):
        labels, rate = _labels(tree[1], path), _rate(tree[2], notes) if len(tree) == 3 else None
        return Found("a list of images and labels (IDC)", tree[0], labels, rate, notes=notes)
    if _is_images(tree):
        return _beside(tree, path)
    raise DamagedError(f"{path} holds {_in_words(tree)}, which is no known layout; {ALLOWED}")


def _experiments(tree: Mapping, path: Path, experiment: int | None) -> Found:
    """DC's layout: several sets, with accuracies of all of them one after another."""
    sets = tree["data"]
    pairs = [s for s in sets if isinstance(s, list | tuple) and len(s) == 2 and _is_images(s[0])]
    if not sets or len(pairs) != len(sets):
        raise DamagedError(f"{path} holds no images and labels under 'data'; {ALLOWED}")
    claims = _accuracies(tree.get("accs_all_exps"))
    notes = []
    # One entry for each experiment, with as many accuracies; DataDAM's code adds an entry of the
    # same experiment at each evaluation, and often no accuracies.
    of_runs = bool(claims) and all(len(of) % len(sets) == 0 for of in claims.values())
    of_runs = of_runs and not _one_after_another([images for images, _ in pairs])
    if experiment is None:
        experiment = 0 if of_runs else len(sets) - 1
        if len(sets) > 1:
            kept = "experiments" if of_runs else "evaluations of one experiment"
            notes.append(
                f"the file holds {len(sets)} sets, taken for {kept}: number {experiment} is read"
            )
    if type(experiment) is not int or not 0 <= experiment < len(sets):
        raise SettingError(
            f"experiment is {shown(experiment)}; allowed with {path}: 0 to {len(sets) - 1}"
        )
    if of_runs:
        claims = {
            network: of[len(of) // len(sets) * experiment :][: len(of) // len(sets)]
            for network, of in claims.items()
        }
    elif claims and experiment < len(sets) - 1:
        claims = {}  # they are of the last
    images, labels = pairs[experiment]
    return Found(
        "experiments of the DC family",
        images,
        _labels(labels, path),
        experiment=experiment,
        claims=claims,
        notes=notes,
    )


def _one_after_another(sets: list[Tensor]) -> bool:
    """Whether sets are stages of one run: neighbours are then more alike than first and last."""
    if len(sets) < 3 or len({images.shape for images in sets}) > 1:
        return False
    alike = torch.corrcoef(torch.stack([images.flatten()[:100_000].double() for images in sets]))
    neighbours = alike.diagonal(1).mean()
    return bool(neighbours - alike[0, -1] > 0.1)


def _accuracies(tree: Any) -> dict[str, list[float]]:
    """Accuracies by network, in percent; fractions are what the DC family stores."""
    if not isinstance(tree, Mapping):
        return {}
    claims: dict[str, list[float]] = {}
    for network, values in tree.items():
        values = values.flatten().tolist() if isinstance(values, Tensor) else values
        if not (isinstance(values, list | tuple) and values and isinstance(network, str)):
            continue
        if all(_is_number(value) and 0 <= value <= 100 for value in values):
            claims[network[:40]] = [float(value) for value in values[:100_000]]
    # Of the file, not of each network: one that failed may be below 1 %.
    scale = 100 if claims and max(map(max, claims.values())) <= 1 else 1
    return {network: [scale * value for value in values] for network, values in claims.items()}


def _beside(images: Tensor, path: Path) -> Found:
    """Only images, with labels and a rate in files beside them that are named alike."""
    labels = _companion(path, "labels")
    rate = _companion(path, "lr")
    notes = []
    if labels is not None:
        notes.append(f"labels are those of {labels.name}")
    return Found(
        "images, labels and rate in files of their own (MTT, KIP)",
        images,
        None if labels is None else _labels(read_tensors_of(labels), labels),
        None if rate is None else _rate(read_tensors_of(rate), notes),
        notes=notes,
    )


def _companion(path: Path, what: str) -> Path | None:
    """The file of labels, or of the rate, that goes with one of images."""
    stem = path.name.removesuffix(path.suffix)
    if "image" not in stem:
        return None
    word = "images" if "images" in stem else "image"
    names = [stem.replace(word, what), stem.replace(word, what.removesuffix("s")), what]
    names += [name.replace("_zca", "") for name in names[:2]]
    files = [path.with_name(f"{name}{path.suffix}") for name in names]
    return next((file for file in files if file != path and file.is_file()), None)


def _images_file(folder: Path) -> Path:
    """The one file of a folder that holds the images."""
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix in SUFFIXES)
    named = [f for f in files if "image" in f.stem]
    # Of MTT's pair, images_zca_<n> is the one to look at, not to train on.
    trained = [f for f in named if "_zca" not in f.stem] or named
    best = [f for f in trained if f.stem in ("images_best", "images")]
    chosen = best[:1] or trained or files
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(file.name for file in chosen[:10])
    raise SettingError(f"folder {folder} holds several sets; allowed: the path of one of {names}")


def _is_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim in (3, 4, 5) and value.numel() > 0


def _named(tree: Mapping, names: tuple[str, ...]) -> Any:
    return next((tree[name] for name in names if name in tree), None)


def rate_in(tree: Mapping) -> float | None:
    """The learning rate in a dictionary, by the names that it goes by."""
    return _rate(_named(tree, RATES), [])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _labels(value: Any, path: Path) -> Tensor | None:
    """Labels as a tensor; None where there are none. Raises DamagedError for what is no number."""
    if isinstance(value, Mapping) and any(name in value for name in LABELS):
        value = _named(value, LABELS)
    if value is None or isinstance(value, Tensor):
        return value if value is None else value.detach()
    try:
        return torch.tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise DamagedError(
            f"labels of {path} are {shown(value)}; allowed: one number, or one for each class, for "
            "each image"
        ) from None


def _rate(value: Any, notes: list[str]) -> float | None:
    """A learning rate, where that is a positive number; a note where it is not."""
    if isinstance(value, Mapping) and any(name in value for name in RATES):
        value = _named(value, RATES)
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if _is_number(value) and value > 0:
        return float(value)
    if value is not None:
        notes.append(f"its learning rate, {shown(value)}, is no positive number and is not used")
    return None


def as_images(images: Tensor, path: Path, notes: list[str]) -> Tensor:
    """float32 [n, c, s, s], whichever order the channels are in."""
    if images.layout != torch.strided or images.is_complex() or images.is_quantized:
        raise DamagedError(
            f"{path} holds images of {images.dtype}; allowed: numbers, stored densely"
        )
    if images.numel() > MOST_VALUES:
        raise DamagedError(
            f"{path} holds images of {images.numel():,} values; allowed: {MOST_VALUES:,}"
        )
    images = images.detach()
    if images.ndim == 5:  # by class
        images = images.flatten(0, 1)
    if images.ndim == 3:
        images = images[:, None]
    shape = tuple(images.shape)
    if shape[1] not in (1, 3) and shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
        notes.append("channels come last in the file")
    shape = tuple(images.shape)
    if shape[1] not in (1, 3) or shape[2] != shape[3] or shape[2] < 2:
        raise DamagedError(
            f"{path} holds images of shape {shape}; allowed: 1 or 3 channels of square images"
        )
    scale = 255 if images.dtype == torch.uint8 else 1
    images = images.to(torch.float32).contiguous() / scale
    if not images.isfinite().all():
        raise DamagedError(f"{path} holds pixels that are no numbers; allowed: finite ones only")
    return images


def _in_words(tree: Any) -> str:
    """What a file holds, for a sentence."""
    if isinstance(tree, Tensor):
        return f"a tensor of shape {tuple(tree.shape)}"
    if isinstance(tree, Mapping):
        return f"a dictionary of {shown(list(tree)[:5])}"
    return f"a {type(tree).__name__}"
