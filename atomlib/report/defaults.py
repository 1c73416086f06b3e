"""What a record's settings would be where nothing was asked for: the paper's, by data and IPC.

A default that depends on data or IPC is filled in by the method itself, which is shown a stand-in
of the data: a known data set's shape, and no pixels.
"""

from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch

from atomlib.datasets.image_data import ImageData
from atomlib.datasets.known import Known
from atomlib.errors import SettingError
from atomlib.full_data import FULL_DATA_EPOCHS
from atomlib.methods import METHODS
from atomlib.runtime.provenance import flat
from atomlib.settings import Settings
from atomlib.training import EvalConfig


def defaults(record: dict[str, Any], recipe: str, data: Known) -> dict[str, dict[str, Any]]:
    """Of "distill" and "evaluate", each setting's default in the recipe; None where it depends on
    data whose shape is not known."""
    whole = {"epochs": FULL_DATA_EPOCHS} if record["method"] == "whole" else {}
    asked: dict[str, Settings] = {"evaluate": EvalConfig(recipe=recipe, **whole)}
    if record["method"] in METHODS:
        asked = {"distill": METHODS[record["method"]](recipe=recipe), **asked}
    shown = _stand_in(data)
    # What a default makes of IPC and of the length of a run is to be that of this run.
    run = {key: record["distill"][key] for key in ("ipc", "iterations") if key in record["distill"]}
    return {
        part: _filled_in(settings, shown, run if part == "distill" else {}, flat(record[part]))
        for part, settings in asked.items()
    }


def _filled_in(
    settings: Any, data: ImageData | None, run: dict[str, Any], ours: dict[str, Any]
) -> dict[str, Any]:
    """Settings by flat names; those that are None, and those of ``ours`` that are as much as
    ``data`` allow, as ``data`` would have them in such a run."""
    open_ones = flat(settings.model_dump(mode="json"))
    resolved: dict[str, Any] = {}
    if data is not None:
        with suppress(SettingError):  # an IPC, say, that these data have not
            resolved = flat(settings.but(**run).resolve(data).model_dump(mode="json"))

    def default(key: str, value: Any) -> Any:
        # A real batch of all images that there are is no choice; the run's own length is.
        most = key not in run and ours.get(key) == resolved.get(key)
        return resolved.get(key) if value is None or most else value

    return {key: default(key, value) for key, value in open_ones.items()}


@lru_cache
def _stand_in(found: Known) -> ImageData | None:
    """Data of a known data set's shape and fingerprint, which take no memory."""
    if not (found.shape and found.classes):
        return None
    train, test, channels, side = found.shape
    pixel = torch.zeros(1, channels, side, side, dtype=torch.uint8)
    images = [pixel.expand(n, -1, -1, -1) for n in (train, test)]
    labels = [torch.arange(n) % found.classes for n in (train, test)]
    if found.smallest_class and found.classes > 1:  # the first class; what it lacks, the last has
        labels[0][(labels[0] == 0).nonzero()[found.smallest_class :]] = found.classes - 1
    names = found.class_names or tuple(str(k) for k in range(found.classes))
    return ImageData(
        found.name, images[0], labels[0], images[1], labels[1], names,
        fingerprint=found.fingerprint, zca=found.zca, augmentations=found.augmentations,
    )  # fmt: skip
