"""A distilled set that somebody else made: read from the file that they published."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from atomlib import preprocess
from atomlib.datasets import ImageData, image_folder
from atomlib.datasets.listing import telling
from atomlib.errors import SettingError, as_row, check_choice, check_kind, shown
from atomlib.published import labels as reading_labels
from atomlib.published import layouts, pictures, pixels
from atomlib.published.layouts import ALLOWED, Found
from atomlib.published.looks import Looks
from atomlib.published.pixels import SPACES, Space, statistics_of
from atomlib.published.tensor_files import SUFFIXES
from atomlib.runtime.files import DamagedError, check_start, digest_of, read_about, read_tensors
from atomlib.runtime.paths import as_path


@dataclass(eq=False)
class PublishedSet(Dataset):
    """Synthetic images with their labels, and what their file says and what was guessed.

    As a ``torch.utils.data.Dataset`` its items are (image in [0, 1], label or probabilities).
    """

    images: Float[Tensor, "n c s s"]
    """To look at: pixels in [0, 1], clipped."""
    trained: Float[Tensor, "n c s s"]
    """To train on: network inputs, in the space of the pre-processing ``zca`` names, unclipped."""
    labels: Int[Tensor, "n"] | Float[Tensor, "n k"]
    """Classes, or probabilities by class."""
    zca: preprocess.ZCA
    """Which pre-processing test images need."""
    lr: float | None
    """The rate that networks are to be trained at, where it was learned with the images."""
    title: str
    """The file's name, for tables."""
    layout: str
    space: Space
    """Of the file's pixels."""
    looks: Looks
    data_name: str = ""
    """Of the data set it was read with; empty, as the next two, where it was read without."""
    data_fingerprint: str = ""
    class_names: tuple[str, ...] = ()
    claims: dict[str, list[float]] = field(default_factory=dict)
    """Accuracies in percent that the file says were measured, by network."""
    notes: tuple[str, ...] = ()
    """What was guessed or taken for granted, in sentences."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "c s s"], int | Tensor]:
        index = as_row(index)
        label = self.labels[index]
        return self.images[index], label if self.soft else int(label)

    @property
    def soft(self) -> bool:
        """Whether labels are probabilities."""
        return self.labels.ndim == 2

    @property
    def classes(self) -> Int[Tensor, "n"]:
        """The class of each image: the likeliest, where labels are soft."""
        return self.labels.argmax(1) if self.soft else self.labels

    @property
    def ipc(self) -> int:
        """Images per class, rounded where classes have unlike numbers of them."""
        count = len(self.class_names) or int(self.classes.max()) + 1
        return max(1, round(len(self) / count))

    @property
    def claim(self) -> str:
        """Mean and deviation, one having none, of the accuracies that the file holds; empty where
        it has none."""
        return "; ".join(
            f"{network} {fmean(of):.2f}{f' ± {pstdev(of):.2f}' if len(of) > 1 else ''} "
            f"(n = {len(of)})"
            for network, of in self.claims.items()
        )

    def digest(self) -> str:
        """SHA-256 of all that an evaluation of this set depends on, its own settings apart."""
        about = f"{self.data_fingerprint} {self.zca} {self.lr}"
        return digest_of(about, self.trained, self.labels)

    def describe(self) -> str:
        """What it is, in lines for a reader."""
        kind = "soft" if self.soft else "hard"
        side, channels = self.images.shape[-1], self.images.shape[1]
        lines = [
            f"{self.title}: {len(self)} images of {side} x {side} x {channels}, {kind} labels",
            f"layout: {self.layout}",
            f"pixels: {self.space}",
        ]
        if self.lr is not None:
            lines.append(f"learned rate: {self.lr:.5g}")
        lines.append(f"its file says: {self.claim or 'nothing'}")
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"looks: {self.looks}")
        if self.looks.warning:
            lines.append(f"warning: {self.looks.warning}")
        return "\n".join(lines)


def read_published(
    path: str | Path,
    data: ImageData | None = None,
    *,
    experiment: int | None = None,
    space: Space | None = None,
    labels: reading_labels.Kind | None = None,
    factor: int = 1,
    ipc: int | None = None,
    statistics: str | None = None,
) -> PublishedSet:
    """Read a distilled set in any of the field's layouts; nothing in the file is run.

    ``data`` is what the set stands for: without it the set can be looked at, not evaluated.
    ``experiment`` chooses one of a file's sets, from 0. ``space`` and ``labels`` say what pixels
    and labels are, where telling it from the values would not do. ``factor`` is IDC's: each image
    holds factor x factor smaller ones. ``ipc`` serves a file that has no labels. ``statistics``
    names the data set whose mean and deviation normalised the pixels, if not that of ``data``.

    Raises SettingError for a setting that is not allowed, or a set that does not fit the data;
    DamagedError for a file that is cut short, damaged or of no known layout.
    """
    path = as_path("path", path)
    _check_settings(path, data, space, factor, ipc, statistics)
    classes = None if data is None else data.num_classes
    found = _find(path, data, experiment, ipc)
    if experiment is not None and found.experiment is None:
        raise SettingError(
            f"experiment is {shown(experiment)}; {path} holds one set: allowed: None"
        )
    name = str(path)
    if found.labels is None:
        found.labels = reading_labels.in_order(len(found.images), classes, ipc, name)
        found.notes.append("the file has no labels: images are taken to lie class by class")
    known, kind = reading_labels.read(found.labels, len(found.images), labels, name)
    found.notes.append(f"labels: {kind}")
    if data is not None:
        _match_channels(found, data)
        _check_fits(found.images, data, path)
        reading_labels.check_classes(known, data.num_classes, name, data.name)
    most = found.images.shape[-1] // 2
    if factor > max(1, most):
        raise SettingError(f"factor is {factor}; allowed: 1 to {most}, or parts have one pixel")
    if factor > 1:
        if space in (None, "pixels") and pixels.are_bytes(found.images):
            found.images = found.images / 255  # what the side is filled up with is grey, in [0, 1]
        found.images, known = unfolded(found.images, known, factor)
        found.notes.append(f"each image holds {factor} x {factor} (IDC), decoded to {len(known)}")
    space = _space(found, space)
    trained, shown_images, zca = _as_inputs(found, space, data, statistics)
    return PublishedSet(
        images=shown_images,
        trained=trained,
        labels=known,
        zca=zca,
        lr=found.lr,
        title=path.name,
        layout=found.layout,
        space=space,
        looks=Looks.of(found.images, shown_images, data),
        data_name="" if data is None else data.name,
        data_fingerprint="" if data is None else data.fingerprint,
        class_names=() if data is None else data.class_names,
        claims=found.claims,
        notes=tuple(found.notes),
    )


def _check_settings(path, data, space, factor, ipc, statistics) -> None:
    if not os.path.exists(path):  # Path.exists raises for a name that is too long
        raise SettingError(f"{path} is missing; allowed: the path of a file or folder")
    if data is not None:
        check_kind("data", data, ImageData, "what load_dataset returns, or None")
    if space is not None:
        check_choice("space", space, SPACES)
    if statistics is not None:
        check_choice("statistics", statistics, preprocess.STATISTICS)
    if statistics is not None and data is None:
        raise SettingError(f"statistics is {statistics!r}; allowed without data: None")
    if type(factor) is not int or not 1 <= factor <= 16:
        raise SettingError(f"factor is {shown(factor)}; allowed: 1 to 16")
    if ipc is not None and (type(ipc) is not int or not 1 <= ipc <= 10**6):
        raise SettingError(f"ipc is {shown(ipc)}; allowed: 1 or more, or None")


def _find(path: Path, data: ImageData | None, experiment: int | None, ipc: int | None) -> Found:
    """The set in whichever kind of file or folder it is."""
    classes = None if data is None else data.class_names
    if path.is_dir():
        if layouts.holds_tensors(path):
            return layouts.find(path, experiment)
        return pictures.by_class(path, classes)
    if pictures.is_picture(path):
        side = None if data is None else data.image_size
        return pictures.grid(path, side, None if data is None else data.num_classes, ipc)
    with telling(path), open(path, "rb") as file:
        start = file.read(64)
    check_start(path, start)
    if path.suffix == ".safetensors":
        return _ours(path, data, experiment)
    if path.suffix in SUFFIXES:
        return layouts.find(path, experiment)
    if path.name.lower().endswith(image_folder.SUFFIXES):
        return pictures.by_class(path, classes)
    raise DamagedError(f"{path} has no known ending; {ALLOWED}")


def _ours(path: Path, data: ImageData | None, experiment: int | None) -> Found:
    """What ``DistilledSet.save`` wrote; or any other file of safetensors with such names.

    Raises DamagedError where it is ours and not whole, SettingError where it was made from other
    data than ``data``.
    """
    try:
        read_about(path)
    except DamagedError:
        return layouts.find(path, experiment)
    tensors, about = read_tensors(path)
    try:
        made_from, zca = about["data"], about["settings"]["zca"]
        if data is not None and made_from["fingerprint"] != data.fingerprint:
            raise SettingError(
                f"{path} was made from {made_from['name']} (fingerprint "
                f"{made_from['fingerprint'][:12]}), data is {data.name} ({data.fingerprint[:12]}); "
                "allowed: the data it was made from"
            )
        return Found(
            "atomlib's own",
            layouts.as_images(tensors["trained"], path, []),
            tensors["labels"],
            layouts.rate_in(about["extras"]),
            space=next(space for space in SPACES[1:] if ZCA_OF[space] == zca),
        )
    except (KeyError, TypeError, StopIteration) as error:
        raise DamagedError(
            f"{path} is no distilled set ({error}); allowed: what DistilledSet.save wrote"
        ) from None


def _match_channels(found: Found, data: ImageData) -> None:
    """Pictures of grey images may have three equal channels, and the other way round."""
    pictured = found.space == "pixels"
    grey = pictured and bool((found.images == found.images[:, :1]).all())
    if grey and found.images.shape[1] != data.channels:
        found.images = found.images[:, :1].repeat(1, data.channels, 1, 1)
        found.notes.append(f"the pictures are grey, their channels are made {data.channels}")


def _check_fits(images: Tensor, data: ImageData, path: Path) -> None:
    shape, wanted = tuple(images.shape[1:]), tuple(data.train_images.shape[1:])
    if shape != wanted:
        raise SettingError(
            f"images of {path} are {shape} (channels, height, width); allowed: {wanted}, as those "
            f"of {data.name}"
        )


def _space(found: Found, given: Space | None) -> Space:
    """What the user says, what the layout says, or what the values tell."""
    if given or found.space:
        return given or found.space
    space, told = pixels.guess(found.images)
    found.notes.append(f"pixels are taken for {space} ({told})")
    if space == "whitened":
        found.notes.append(
            "which ZCA whitened them is not in the file: taken for one fitted on images in [0, 1]"
        )
    return space


def _as_inputs(
    found: Found, space: Space, data: ImageData | None, statistics: str | None
) -> tuple[Tensor, Tensor, preprocess.ZCA]:
    """Network inputs, the same to look at, and the pre-processing that they are in."""
    images = found.images
    if space == "pixels":
        images = _in_parts_of_1(images, found.notes)
    if data is None:
        return images, _seen_alone(images, space, found.notes), ZCA_OF[space]
    device = torch.device("cpu")
    fitted = preprocess.fitted(data, ZCA_OF[space], device)
    if space == "pixels":
        return fitted.of_floats(images), images.clamp(0, 1), False
    if space == "normalised" and statistics not in (None, data.name):
        mean, std = statistics_of(statistics)
        images = fitted.of_floats(images * std + mean)
    return images, fitted.inverse(images).clamp(0, 1), ZCA_OF[space]


def _in_parts_of_1(images: Tensor, notes: list[str]) -> Tensor:
    """Pixels of which 1 is white; learned ones may lie beyond. Raises SettingError for others."""
    if pixels.are_bytes(images):
        return images / 255
    least, most = float(images.min()), float(images.max())
    if most > pixels.MOST_NORMALISED or (most > 2 and least < -0.5):
        raise SettingError(
            f"space is 'pixels', but values go from {least:.3g} to {most:.3g}; allowed: "
            "'normalised', 'whitened', or values from 0 to 1 or 0 to 255"
        )
    if most > 2:
        notes.append(f"pixels go from {least:.3g} to {most:.3g}: 1 is taken for white, not 255")
    return images


ZCA_OF: dict[Space, preprocess.ZCA] = {
    "pixels": False,
    "normalised": False,
    "whitened": "unit",
    "whitened-normalised": True,
    "whitened-computed": "computed",
}


def _seen_alone(images: Tensor, space: Space, notes: list[str]) -> Tensor:
    """Pixels in [0, 1] without the data set: from the values where nothing else says it."""
    if space == "pixels":
        return images.clamp(0, 1)
    notes.append("shown without the data set: brightness is stretched to three deviations")
    centre, spread = images.mean((0, 2, 3), keepdim=True), images.std().clamp_min(1e-6)
    return ((images - centre) / (6 * spread) + 0.5).clamp(0, 1)


def unfolded(
    images: Float[Tensor, "n c s s"], labels: Tensor, factor: int
) -> tuple[Float[Tensor, "m c s s"], Tensor]:
    """IDC's decoding: each image cut into factor x factor, each of them enlarged to the whole.

    The side is filled up with 0.5 to a multiple of the factor, and enlarged bilinearly (Kim et
    al., ICML 2022, arXiv 2205.14959).
    """
    side = images.shape[-1]
    missing = -side % factor
    images = F.pad(images, (0, missing, 0, missing), value=0.5)
    part = images.shape[-1] // factor
    parts = images.unfold(2, part, part).unfold(3, part, part)  # [n, c, f, f, part, part]
    parts = parts.permute(2, 3, 0, 1, 4, 5).flatten(0, 2)
    whole = F.interpolate(parts, size=(side, side), mode="bilinear")
    return whole, labels.repeat(factor**2, *(1,) * (labels.ndim - 1))
