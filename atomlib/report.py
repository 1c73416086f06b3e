"""From records to the tables and figures of a report. Draws and writes; computes no result."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from atomlib.config import METHODS
from atomlib.distilled import DistilledSet
from atomlib.files import atomic_write

LABELS = {
    "random": "Random",
    "dm": "DM",
    "datadam": "DataDAM",
    "atom": "ATOM",
    "digits": "digits (8 x 8)",
    "cifar10": "CIFAR-10",
    "cifar10-jpeg": "CIFAR-10 (JPEG)",
    "cifar100": "CIFAR-100",
    "tinyimagenet": "TinyImageNet",
}
"""How methods and data sets are written for a reader."""

PUBLISHED_AS = {"cifar10-jpeg": "cifar10"}
"""Data sets that stand beside another one's published figures, under their own label."""

DAGGER = "†"
"""Marks a published figure that has not been checked against the PDF."""


def published() -> pd.DataFrame:
    """The published figures: dataset, ipc, method, accuracy, std, source, checked."""
    with (files("atomlib") / "published.csv").open() as file:
        return pd.read_csv(file, dtype={"ipc": str}).assign(checked=lambda t: t.checked == "yes")


def main_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a dataset, IPC and method, published beside measured.

    ``mean`` and ``std`` (population, as the DC family gives it) are over all networks of
    all distillation seeds, in percent; ``networks`` and ``seeds`` count them;
    ``difference`` is mean - published; ``checked`` says whether the published figure was.
    """
    table = pd.DataFrame(
        [
            {**{key: r[key] for key in ("dataset", "method", "ipc", "seed")}, "accuracy": accuracy}
            for r in records
            for accuracy in r["accuracies"]
        ]
    )
    table = (
        table.groupby(["dataset", "ipc", "method"])
        .agg(
            mean=("accuracy", "mean"),
            std=("accuracy", lambda a: a.std(ddof=0)),
            networks=("accuracy", "size"),
            seeds=("seed", "nunique"),
        )
        .reset_index()
    )
    known = published().rename(columns={"accuracy": "published", "std": "published_std"})
    table = table.assign(
        known_as=table.dataset.replace(PUBLISHED_AS), ipc_text=table.ipc.astype(str)
    ).merge(
        known,
        how="left",
        left_on=["known_as", "ipc_text", "method"],
        right_on=["dataset", "ipc", "method"],
        suffixes=("", "_known"),
    )
    table["difference"] = table["mean"] - table.published
    columns = ["dataset", "method", "ipc", "mean", "std", "networks", "seeds"]
    columns += ["published", "published_std", "difference", "checked", "source"]
    order = table.method.map(METHODS.index)
    table = table.assign(order=order).sort_values(["dataset", "ipc", "order"])
    return table[columns].round(2).reset_index(drop=True)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The main table for a reader: methods down, IPC across, measured and published."""
    rows = []
    for (dataset, method), part in table.groupby(["dataset", "method"], sort=False):
        row = {"data": LABELS.get(dataset, dataset), "method": LABELS[method]}
        for cell in part.itertuples():
            row[f"IPC {cell.ipc}"] = f"{cell.mean:.1f} ± {cell.std:.1f}"
            row[f"IPC {cell.ipc}, published"] = _published_text(cell)
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def _published_text(cell: Any) -> str:
    if pd.isna(cell.published):
        return "–"
    spread = "" if pd.isna(cell.published_std) else f" ± {cell.published_std:.1f}"
    return f"{cell.published:.1f}{spread}{'' if cell.checked else DAGGER}"


def write_table(table: pd.DataFrame, folder: str | Path, name: str, note: str) -> list[Path]:
    """Write <name>.csv (every column) and <name>.md (for a reader, with ``note`` below it)."""
    folder = Path(folder)
    csv, markdown = folder / f"{name}.csv", folder / f"{name}.md"
    with atomic_write(csv) as partial:
        table.to_csv(partial, index=False)
    with atomic_write(markdown) as partial:
        text = readable(table).to_markdown(index=False, disable_numparse=True)
        partial.write_text(f"{text}\n\n{note}\n")
    return [csv, markdown]


def write_figure(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write <folder>/figures/<name>.png."""
    path = Path(folder) / "figures" / f"{name}.png"
    with atomic_write(path) as partial:
        # The date and version that matplotlib adds would change the bytes of equal pictures.
        figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})
    return path


def style() -> None:
    """One look for all figures: seaborn's colour-blind palette, small type, thin lines."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.0)
    plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100})


def accuracy_figure(records: Iterable[dict[str, Any]], table: pd.DataFrame) -> Figure:
    """Every network's accuracy as a dot, and the published figure as a bar across."""
    records = list(records)
    dots = pd.DataFrame(
        [
            {"dataset": r["dataset"], "ipc": r["ipc"], "method": r["method"], "accuracy": a}
            for r in records
            for a in r["accuracies"]
        ]
    )
    panels = list(dots.groupby(["dataset", "ipc"]))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(1 + 2.6 * len(panels), 3.2), squeeze=False, sharey=False
    )
    for axis, ((dataset, ipc), part) in zip(axes[0], panels, strict=True):
        order = [m for m in METHODS if m in set(part.method)]
        sns.stripplot(
            part, x="method", y="accuracy", hue="method", order=order, hue_order=METHODS,
            ax=axis, size=6, jitter=0.12, alpha=0.85, legend=False,
        )  # fmt: skip
        known = table[(table.dataset == dataset) & (table.ipc == ipc)].set_index("method")
        for x, method in enumerate(order):
            if not pd.isna(known.published[method]):
                axis.plot([x - 0.32, x + 0.32], [known.published[method]] * 2, color="0.25", lw=1.5)
        axis.set_xticks(range(len(order)), [LABELS[m] for m in order])
        axis.set(title=f"{LABELS.get(dataset, dataset)}, IPC {ipc}", xlabel="", ylabel="")
    axes[0][0].set_ylabel("test accuracy, %")
    if table.published.notna().any():
        axes[0][-1].plot([], [], color="0.25", lw=1.5, label="published")
        axes[0][-1].legend(loc="lower right", frameon=True)
    return figure


def image_grid(
    images: Any, rows: Sequence[str], columns: int, *, title: str = "", cell: float = 0.55
) -> Figure:
    """Images [len(rows) * columns, c, h, w] in [0, 1], one row a class, its name at the left.

    Pixels are shown as they are: no scaling, no smoothing.
    """
    pixels = np.asarray(images).transpose(0, 2, 3, 1)
    count, height, width, channels = pixels.shape
    gap = max(1, height // 16)
    canvas = np.ones((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, channels))
    for index in range(count):
        r, c = divmod(index, columns)
        top, left = r * (height + gap), c * (width + gap)
        canvas[top : top + height, left : left + width] = pixels[index]
    wide, high = max(2.6, columns * cell + 1.1), len(rows) * cell + (0.35 if title else 0.1)
    figure, axis = plt.subplots(figsize=(wide, high))
    axis.imshow(canvas.squeeze(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_yticks([r * (height + gap) + height / 2 for r in range(len(rows))], rows)
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)
    if title:
        axis.set_title(title)
    return figure


def distilled_grid(
    distilled: DistilledSet, *, columns: int = 10, classes: int = 20, title: str | None = None
) -> Figure:
    """The distilled images after the inverse transform, the first ``columns`` of each class."""
    columns = min(columns, distilled.ipc)
    names = distilled.class_names[:classes]
    images = distilled.images.unflatten(0, (-1, distilled.ipc))[: len(names), :columns]
    if title is None:
        name = LABELS.get(distilled.data_name, distilled.data_name)
        title = f"{LABELS[distilled.config.method]}, {name}, IPC {distilled.ipc}"
    return image_grid(images.flatten(0, 1), names, columns, title=title)


def loss_figure(sets: Iterable[DistilledSet]) -> Figure:
    """Matching loss over iterations, one line a distilled set."""
    figure, axis = plt.subplots(figsize=(4.2, 2.8))
    for distilled in sets:
        if distilled.history:
            steps, losses = zip(*distilled.history, strict=True)
            axis.plot(
                steps, losses, label=f"{LABELS[distilled.config.method]}, IPC {distilled.ipc}"
            )
    axis.set(xlabel="iteration", ylabel="matching loss", yscale="log")
    axis.legend(frameon=False)
    return figure
