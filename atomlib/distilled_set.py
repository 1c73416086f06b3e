"""A distilled set as a file: its images, its labels, and every setting that made it."""

import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import Dataset

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData
from atomlib.datasets.png_folder import as_bytes, hugging_face_folder, png_folder
from atomlib.errors import SettingError, as_row, check_choice, check_kind, shown
from atomlib.methods import METHODS, Method, UnknownMethod, find, place
from atomlib.published import PublishedSet, read_published
from atomlib.published.hand_on import write_dc, write_mtt
from atomlib.published.layouts import rate_in
from atomlib.runtime.files import DamagedError, digest_of, read_tensors, write_tensors
from atomlib.runtime.paths import as_path

__all__ = ["DistilledSet", "PublishedSet", "by_class", "load_folder", "read_published"]

FORMAT = 3


@dataclass(eq=False, repr=False)
class DistilledSet(Dataset):
    """IPC synthetic images of each class, class by class.

    As a ``torch.utils.data.Dataset`` its items are (image in [0, 1], label).
    """

    images: Float[Tensor, "n c s s"]
    """Pixels in [0, 1]: ``trained`` after the inverse transform, clipped."""
    trained: Float[Tensor, "n c s s"]
    """As trained on: in the space of the pre-processing, unclipped."""
    labels: Int[Tensor, "n"]
    method: Method | UnknownMethod
    """Resolved: no setting is None."""
    data_name: str
    data_fingerprint: str
    class_names: tuple[str, ...]
    versions: dict[str, str]
    revision: int = 0
    """Of the method that made it; 0 where that is not known."""
    given: list[str] = field(default_factory=list)
    """The settings that were not at their default then (atomlib.runtime.provenance)."""
    history: list[tuple[int, float]] = field(default_factory=list)
    """(steps taken, loss then), at most MOST_LOSSES of them."""
    extras: dict[str, float] = field(default_factory=dict)
    """Numbers that the method gives with the images, such as a learned rate."""

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.images.shape[1:]))
        return f"<DistilledSet {self.stem}: {len(self)} images of {shape}>"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "c s s"], int]:
        index = as_row(index)
        return self.images[index], int(self.labels[index])

    @property
    def ipc(self) -> int:
        return self.method.ipc

    @property
    def zca(self) -> preprocess.ZCA:
        """Which pre-processing ``trained`` is in, and test images need."""
        return self.method.zca

    @property
    def lr(self) -> float | None:
        """The rate that networks are to be trained at, where it was learned with the images."""
        return rate_in(self.extras)

    @property
    def title(self) -> str:
        """What a progress bar calls it."""
        return self.method.name

    @property
    def stem(self) -> str:
        """<dataset>-<method>-ipc<k>-seed<s>[-<recipe>][-<variant>], as its file is named."""
        return stem(self.data_name, self.method)

    def save(self, path: str | Path) -> Path:
        """Write one .safetensors file, atomically; its metadata holds all but the tensors.

        Raises SettingError for what ``load`` would refuse.
        """
        path = as_path("path", path, file=True)
        self.check()
        about = {
            "format": FORMAT,
            "method": self.method.name,
            "settings": self.method.recorded(),
            "data": {
                "name": self.data_name,
                "fingerprint": self.data_fingerprint,
                "class_names": list(self.class_names),
            },
            "versions": self.versions,
            "revision": self.revision,
            "given": self.given,
            "history": [[step, float(loss)] for step, loss in self.history],
            "extras": {name: float(value) for name, value in self.extras.items()},
        }
        tensors = {"images": self.images, "trained": self.trained, "labels": self.labels}
        write_tensors(path, tensors, about)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote, whoever wrote it; nothing is unpickled.

        Raises SettingError where the file is missing, and DamagedError where it is cut short,
        changed since, or not a distilled set.
        """
        path = as_path("path", path)
        if os.path.isdir(path):
            raise SettingError(
                f"distilled set {path} is a folder; allowed: one file (load_folder reads a folder)"
            )
        if not os.path.isfile(path):
            raise SettingError(f"distilled set {path} is missing; make it with distill(...).save")
        try:
            tensors, about = read_tensors(path)
        except DamagedError as error:
            if path.suffix == ".safetensors":
                raise
            raise DamagedError(f"{error}; read_published reads other authors' files") from None
        try:
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']}, this version reads {FORMAT}")
            made = cls(
                **{name: tensors[name] for name in ("images", "trained", "labels")},
                method=_method(about),
                data_name=about["data"]["name"],
                data_fingerprint=about["data"]["fingerprint"],
                class_names=tuple(about["data"]["class_names"]),
                versions=dict(about["versions"]),
                revision=about["revision"],
                given=list(about["given"]),
                history=[(int(step), float(loss)) for step, loss in about["history"]],
                extras={str(name): float(value) for name, value in about["extras"].items()},
            )
            made._check()
            return made
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DamagedError(
                f"{path} is no distilled set ({error}); allowed: what DistilledSet.save wrote"
            ) from None

    def check(self) -> None:
        """Raise SettingError where this is no whole set, as one put together by hand may be."""
        try:
            self._check()
        except (TypeError, ValueError) as error:
            raise SettingError(
                f"distilled set is not whole ({error}); allowed: what distill or "
                "DistilledSet.load returns"
            ) from None

    def _check(self) -> None:
        """Raise ValueError, or TypeError, for anything that ``load`` is not to return."""
        for name in ("images", "trained", "labels"):
            tensor = getattr(self, name)
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
                raise ValueError(f"its {name} are {shown(tensor)}, no tensor of numbers")
        if not isinstance(self.method, Method | UnknownMethod):
            raise ValueError(f"its method is {shown(self.method)}")
        names = (self.data_name, self.data_fingerprint, *self.class_names)
        for name in (*names, *dict(self.versions).values(), *self.given):
            if not isinstance(name, str):
                raise ValueError(f"it has {name!r} where a name is due")
        if type(self.revision) is not int or self.revision < 0:
            raise ValueError(f"its revision is {self.revision!r}")
        # It becomes part of a file's name.
        if not re.fullmatch(r"[^\x00-\x1f/\\.][^\x00-\x1f/\\]{0,99}", self.data_name):
            raise ValueError(f"its data is named {self.data_name[:99]!r}")
        unset = self.method.unset()
        if unset:
            raise ValueError(f"its setting {unset[0]} is not filled in")
        n = self.method.ipc * len(self.class_names)
        if self.images.ndim != 4 or len(self.images) != n:
            raise ValueError(f"its tensors do not hold {n} images")
        if self.images.shape[-2] != self.images.shape[-1]:
            raise ValueError("its images are not square")
        if self.trained.shape != self.images.shape:
            raise ValueError("images and trained differ in shape")
        if {self.images.dtype, self.trained.dtype} != {torch.float32}:
            raise ValueError("images and trained are not float32")
        if not self.trained.isfinite().all() or not ((self.images >= 0) & (self.images <= 1)).all():
            raise ValueError("it has pixels that are no numbers, or beyond 0 and 1")
        order = by_class(len(self.class_names), self.method.ipc)
        if self.labels.dtype != order.dtype or not torch.equal(self.labels.cpu(), order):
            raise ValueError("labels are not IPC of each class in order")

    def digest(self) -> str:
        """SHA-256 of all that an evaluation of this set depends on, its own settings apart."""
        about = f"{self.data_fingerprint} {self.method.zca}"
        return digest_of(about, self.trained, self.labels)

    def export(
        self, folder: str | Path, layout: str = "png", data: ImageData | None = None
    ) -> Path:
        """Write the set as others read it; return the folder, or the file that has the images.

        "png" is <folder>/<class>/<number>.png, torchvision's ImageFolder's; "hugging-face" is
        what ``datasets.load_dataset`` reads: pixels as they are (atomlib.datasets.png_folder).
        "dc" and "mtt" are the files of those methods' code (atomlib.published.hand_on): images
        normalised, not whitened; to undo ZCA takes ``data``, which the set was made from. Raises
        SettingError where the folder cannot be written, or holds files already; "dc" minds only a
        file of its own name, and it and "mtt" may write the same set again.
        """
        check_choice("layout", layout, ["png", "hugging-face", "dc", "mtt"])
        check_kind("data", data, ImageData | None, "what load_dataset returns, or None")
        folder = as_path("folder", folder)
        self.check()
        if layout == "mtt":
            return write_mtt(folder, self._normalised(data), self.labels, lr=self.lr)
        if layout == "dc":
            about = {"method": self.method.name.upper(), "data": self.data_name, "ipc": self.ipc}
            return write_dc(folder, self._normalised(data), self.labels, **about)
        images = as_bytes(self.images), self.labels, self.class_names
        if layout == "png":
            return png_folder(*images, folder)
        about = (
            f"{len(self)} images that stand in for {self.data_name}: {self.ipc} per class, made by "
            f"{self.method.label} (atomlib {self.versions.get('atomlib', '')})."
        )
        return hugging_face_folder(*images, folder, about=about)

    def _normalised(self, data: ImageData | None) -> Float[Tensor, "n c s s"]:
        """Network inputs without ZCA, nothing clipped."""
        if not self.zca:
            return self.trained
        if data is None or data.fingerprint != self.data_fingerprint:
            raise SettingError(
                f"data is {'None' if data is None else data.name}; allowed with a whitened set in "
                f"this layout: {self.data_name}, which it was made from, to undo the whitening"
            )
        device = self.trained.device
        pixels = preprocess.fitted(data, self.zca, device).inverse(self.trained)
        return preprocess.fitted(data, False, device).of_floats(pixels)


def load_folder(
    folder: str | Path, methods: Sequence[str] | None = None, seed: int | None = None
) -> list[DistilledSet]:
    """The distilled sets of a folder, by data set, method and IPC.

    Only those of ``methods`` and of one distillation ``seed``, if given. Variants of a method,
    such as an ablation's or a checkpoint, are left out, and damaged files too, which are named.

    Raises SettingError, with the command that makes them, where there is none.
    """
    check_kind("methods", methods, list | tuple | None, "a list of methods, or None")
    wanted = [find(method).name for method in methods] if methods else None
    folder = as_path("folder", folder)
    sets = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            sets.append(DistilledSet.load(path))
        except DamagedError as error:
            print(f"{error}; left out", file=sys.stderr)
    sets = [
        s for s in sets if not s.method.variant and s.method.name in (wanted or {s.method.name})
    ]
    sets = [s for s in sets if seed is None or s.method.seed == seed]
    if not sets:
        of_seed = "" if seed is None else f" and seed {seed}"
        found = f"holds no distilled set of {', '.join(wanted or METHODS)}{of_seed}"
        raise SettingError(
            f"folder {folder} {found if folder.is_dir() else 'is not there'}; "
            f"make them with: make reports PROFILE={folder.parent.name or 'quick'}"
        )
    return sorted(
        sets, key=lambda s: (s.data_name, place(s.method.name), s.method.name, s.ipc, s.method.seed)
    )


def by_class(classes: int, ipc: int) -> Int[Tensor, "n"]:
    """Labels of a distilled set: IPC of each class, class by class."""
    return torch.arange(classes).repeat_interleave(ipc)


def _method(about: dict[str, Any]) -> Method | UnknownMethod:
    """The method that a file tells of: by its name where it is known, else its settings only."""
    name, settings = str(about["method"]), about["settings"]
    if name in METHODS:
        return METHODS[name].from_json(json.dumps(settings))
    return UnknownMethod(name=name, settings=settings)


def stem(data_name: str, method: Method | UnknownMethod) -> str:
    """How a distilled set's file is named:
    <dataset>-<method>-ipc<k>-seed<s>[-<recipe>][-<variant>].
    """
    names = [f"ipc{method.ipc}", f"seed{method.seed}"]
    names += [] if method.recipe == "text" else [method.recipe]
    return "-".join(filter(None, (data_name, method.name, *names, method.variant)))


MOST_LOSSES = 200
"""That a set keeps of its distillation."""


def summarise(losses: list[float]) -> list[tuple[int, float]]:
    """(steps taken, loss then) at up to MOST_LOSSES evenly spaced iterations, the last included."""
    every = max(1, -(-len(losses) // MOST_LOSSES))
    last = len(losses) - 1
    return [(i, loss) for i, loss in enumerate(losses) if (last - i) % every == 0]
