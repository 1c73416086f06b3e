"""Pictures of a report: images as they are, distilled ones by class or method, and attention.

``figures`` draws what was measured, and writes both as files.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from atomlib import methods
from atomlib.datasets import known
from atomlib.datasets.image_data import ImageData
from atomlib.distilled_set import DistilledSet
from atomlib.errors import SettingError, shown
from atomlib.methods import Method
from atomlib.preprocess import fitted
from atomlib.report.glyphs import plain_text
from atomlib.report.records import by_recipe

CELL = 0.55
"""Inches: the side of an image."""


def image_grid(
    images: Any,
    rows: Sequence[str],
    columns: int,
    *,
    title: str = "",
    below: Sequence[str] = (),
) -> Figure:
    """Images [len(rows) * columns, c, h, w] in [0, 1], one row per class, its name at the left.

    ``below`` names the columns. A single column is laid across, names above. Pixels are shown as
    they are: no scaling, no smoothing.
    """
    pixels = np.asarray(images).transpose(0, 2, 3, 1)
    if columns == 1:
        return _image_row(pixels, rows, title)
    count, height, width, channels = pixels.shape
    gap = max(1, height // 16)
    canvas = np.ones((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, channels))
    for index in range(count):
        r, c = divmod(index, columns)
        top, left = r * (height + gap), c * (width + gap)
        canvas[top : top + height, left : left + width] = pixels[index]
    wide, high = max(2.6, columns * CELL + 1.1), len(rows) * CELL + (0.35 if title else 0.1)
    figure, axis = plt.subplots(figsize=(wide, high))
    axis.imshow(canvas.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    names = [plain_text(name, f"class {r}") for r, name in enumerate(rows)]
    axis.set_yticks([r * (height + gap) + height / 2 for r in range(len(rows))], names)
    below = [plain_text(name, f"class {c}") for c, name in enumerate(below)]
    axis.set_xticks([c * (width + gap) + width / 2 for c in range(len(below))], below, fontsize=6)
    axis.tick_params(length=0)
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)
    if title:
        axis.set_title(plain_text(title))
    return figure


def _image_row(pixels: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """One image per class, ten side by side, each under its name."""
    across = min(10, len(names))
    down = -(-len(names) // across)
    size = across * (CELL + 0.15), down * (CELL + 0.3) + (0.3 if title else 0)
    figure, axes = plt.subplots(down, across, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for k, (axis, image, name) in enumerate(zip(axes.flat, pixels, names, strict=False)):
        axis.imshow(image.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(plain_text(name, f"class {k}"), fontsize=7, pad=2)
    if title:
        figure.suptitle(plain_text(title), fontsize=9)
    return figure


def distilled_grid(
    distilled: DistilledSet, *, columns: int = 10, classes: int = 20, title: str | None = None
) -> Figure:
    """The distilled images after the inverse transform, the first ``columns`` of each class."""
    for name, most in (("columns", columns), ("classes", classes)):
        if type(most) is not int or most < 1:
            raise SettingError(f"{name} is {shown(most)}; allowed: 1 or more")
    columns = min(columns, distilled.ipc)
    names = distilled.class_names[:classes]
    images = distilled.images.unflatten(0, (-1, distilled.ipc))[: len(names), :columns]
    if title is None:
        name = known.of(distilled.data_name, distilled.data_fingerprint).label
        method = by_recipe(distilled.method.name, distilled.method.recipe)
        title = f"{method}, {name}, IPC {distilled.ipc}"
    return image_grid(images.flatten(0, 1), names, columns, title=title)


def methods_grids(sets: Iterable[DistilledSet], *, classes: int = 20) -> dict[str, Figure]:
    """Methods beside each other, by "<data set>-ipc<k>": a row per set, its first image of each
    class. Where there is but one set of a data set and IPC, there is no figure."""
    groups: dict[tuple[str, str, int], list[DistilledSet]] = {}
    for made in sorted(
        sets, key=lambda made: (methods.place(made.method.name), made.method.recipe != "text")
    ):
        groups.setdefault((made.data_name, made.data_fingerprint, made.ipc), []).append(made)
    figures = {}
    for (data, fingerprint, ipc), group in groups.items():
        if len(group) < 2:
            continue
        names = group[0].class_names[:classes]
        rows = [by_recipe(made.method.name, made.method.recipe) for made in group]
        images = np.concatenate([made.images[:: made.ipc][: len(names)] for made in group])
        title = f"{known.of(data, fingerprint).label}, IPC {ipc}"
        if ipc > 1:
            title += ", the first image of each class"
        figure = image_grid(images, rows, len(names), title=title, below=names)
        figures[f"{data}-ipc{ipc}"] = figure
    return figures


def attention_figure(
    data: ImageData, images: Tensor, spatial: Float[Tensor, "n h*w"], method: Method
) -> Figure:
    """Start images above the spatial attention that a network pays to them."""
    shown = min(10, len(images))
    pixels = fitted(data, method.zca, images.device).inverse(images[:shown]).clamp(0, 1)
    side = int(spatial.shape[1] ** 0.5)
    figure, axes = plt.subplots(2, shown, figsize=(0.75 * shown + 0.6, 1.8), squeeze=False)
    for column in range(shown):
        top, bottom = axes[:, column]
        top.imshow(pixels[column].permute(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=1)
        bottom.imshow(spatial[column].view(side, side), cmap="magma")
        top.set_title(plain_text(data.class_names[column], f"class {column}"), fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    axes[0][0].set_ylabel("image")
    axes[1][0].set_ylabel("attention")
    return figure
