"""The figures of a report, in one style, drawn from tables, records or distilled sets."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from atomlib import methods
from atomlib.datasets import known
from atomlib.datasets.image_data import ImageData
from atomlib.distilled_set import DistilledSet
from atomlib.methods import Method
from atomlib.preprocess import fitted
from atomlib.report.records import data_label, label, lasts
from atomlib.runtime.files import atomic_write
from atomlib.runtime.layout import FIGURE_KINDS, Layout

_PALETTE = sns.color_palette("colorblind")


def write_figure(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write <folder>/figures/<name>.png, and as vectors .svg (for a page) and .pdf (for a paper).

    Equal figures give equal bytes. Returns the PNG's path.
    """
    places = {kind: Layout(folder).figure(name, kind) for kind in FIGURE_KINDS}
    for kind, path in places.items():
        # The dates and versions that matplotlib adds would change the bytes of equal pictures,
        # and so would the random names that it gives to the parts of an SVG.
        with atomic_write(path) as partial, plt.rc_context({"svg.hashsalt": "atomlib"}):
            figure.savefig(partial, format=kind, dpi=150, metadata=dict.fromkeys(_STAMPS[kind]))
    return places["png"]


_STAMPS = {"png": ["Software"], "svg": ["Date", "Creator"], "pdf": ["CreationDate", "Producer"]}
"""What a format's writer says of itself and the day."""


def style() -> None:
    """One look for all figures: seaborn's colour-blind palette, small type, thin lines."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.0)
    plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100})
    plt.rcParams["pdf.fonttype"] = 42  # TrueType: publishers take no Type 3


def _plain(text: str) -> str:
    """A name that others gave, whose dollars are no mathematics."""
    return text.replace("$", r"\$")


WIDEST = 7.0
"""Inches: both columns of a paper."""


def _panels(count: int, width: float, height: float, **shared: bool) -> tuple[Figure, list[Axes]]:
    """``count`` panels of ``width`` by ``height`` inches, three in a row at most."""
    columns = min(3, count)
    rows = -(-count // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(min(WIDEST, 0.6 + width * columns), height * rows),
        squeeze=False,
        **shared,
    )
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def accuracy_figure(records: Iterable[dict[str, Any]], table: pd.DataFrame) -> Figure:
    """Every network's accuracy as a dot, and the published figure as a bar across."""
    records = [r for r in lasts(records) if r["method"] != "whole"]
    dots = pd.DataFrame(
        [
            {"dataset": r["dataset"], "ipc": r["ipc"], "method": r["method"], "accuracy": a}
            for r in records
            for a in r["accuracies"]
        ]
    )
    panels = list(dots.groupby(["dataset", "ipc"]))
    figure, axes = _panels(len(panels), 2.8, 3.0)
    for axis, ((dataset, ipc), part) in zip(axes, panels, strict=True):
        order = sorted(set(part.method), key=methods.place)
        for x, method in enumerate(order):
            heights = part.accuracy[part.method == method]
            # Side by side rather than jittered at random: the same picture every time.
            across = x + np.linspace(-0.15, 0.15, len(heights)) * (len(heights) > 1)
            axis.scatter(across, heights, s=26, color=methods.colour(method), alpha=0.85, zorder=3)
        figures = (
            table[(table.dataset == dataset) & (table.ipc == ipc)].set_index("method").published
        )
        for x, method in enumerate(order):
            if not pd.isna(figures[method]):
                axis.plot([x - 0.32, x + 0.32], [figures[method]] * 2, color="0.25", lw=1.5)
        axis.set_xticks(range(len(order)), [label(m) for m in order], rotation=30, ha="right")
        axis.set(title=f"{_plain(data_label(table, dataset))}, IPC {ipc}", xlabel="", ylabel="")
    for first in axes[::3]:
        first.set_ylabel("test accuracy, %")
    if table.published.notna().any():
        axes[-1].plot([], [], color="0.25", lw=1.5, label="published")
        axes[-1].legend(loc="lower right", frameon=True)
    return figure


def image_grid(
    images: Any, rows: Sequence[str], columns: int, *, title: str = "", cell: float = 0.55
) -> Figure:
    """Images [len(rows) * columns, c, h, w] in [0, 1], one row per class, its name at the left.

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
    axis.set_yticks([r * (height + gap) + height / 2 for r in range(len(rows))], map(_plain, rows))
    axis.set_xticks([])
    axis.tick_params(length=0)
    axis.grid(False)
    sns.despine(ax=axis, left=True, bottom=True)
    if title:
        axis.set_title(_plain(title))
    return figure


def distilled_grid(
    distilled: DistilledSet, *, columns: int = 10, classes: int = 20, title: str | None = None
) -> Figure:
    """The distilled images after the inverse transform, the first ``columns`` of each class."""
    columns = min(columns, distilled.ipc)
    names = distilled.class_names[:classes]
    images = distilled.images.unflatten(0, (-1, distilled.ipc))[: len(names), :columns]
    if title is None:
        name = known.of(distilled.data_name, distilled.data_fingerprint).label
        title = f"{distilled.method.label}, {name}, IPC {distilled.ipc}"
    return image_grid(images.flatten(0, 1), names, columns, title=title)


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
        top.set_title(_plain(data.class_names[column]), fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
    axes[0][0].set_ylabel("image")
    axes[1][0].set_ylabel("attention")
    return figure


def loss_figure(sets: Iterable[DistilledSet]) -> Figure:
    """Matching loss over iterations, one line per distilled set: colours methods, dashes IPC."""
    figure, axis = plt.subplots(figsize=(5.4, 2.8))
    sets = [made for made in sets if made.history]
    ipcs = sorted({made.ipc for made in sets})
    for made in sets:
        steps, losses = zip(*made.history, strict=True)
        method, style = made.method.name, ("-", "--", ":", "-.")[ipcs.index(made.ipc) % 4]
        name = f"{label(method)}, IPC {made.ipc}"
        axis.plot(steps, losses, color=methods.colour(method), ls=style, lw=1.2, label=name)
    axis.set(xlabel="iteration", ylabel="matching loss", yscale="log")
    _legend_beside(axis)
    return figure


def _legend_beside(axis: Axes) -> None:
    """At the right of the lines, each label once."""
    handles, labels = axis.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    axis.legend(
        once.values(), once.keys(), frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )


def curve_figure(sets: Sequence[DistilledSet], table: pd.DataFrame) -> Figure:
    """Accuracy over iterations above the loss, one column per data set and IPC.

    ``table`` is report.curve_table's; bands are 95 % t-intervals over the networks of one
    seed. A star marks the best checkpoint, a dot the last iterate.
    """
    panels = list(table.groupby(["dataset", "ipc", "recipe"], sort=False))
    figure, axes = plt.subplots(
        2,
        len(panels),
        figsize=(min(WIDEST, 1.4 + 3.6 * len(panels)), 4.8),
        squeeze=False,
        sharex="col",
    )
    for (top, bottom), ((dataset, ipc, recipe), part) in zip(axes.T, panels, strict=True):
        for (method, _), line in part.groupby(["method", "seed"], sort=False):
            colour = methods.colour(method)
            top.plot(line.iterations, line["mean"], color=colour, lw=1.2, label=label(method))
            top.fill_between(line.iterations, line.low, line.high, color=colour, alpha=0.15, lw=0)
            best, last = line.loc[line["mean"].idxmax()], line.iloc[-1]
            top.plot(last.iterations, last["mean"], "o", color=colour, ms=4)
            top.plot(best.iterations, best["mean"], "*", color=colour, ms=10)
        for made in sets:
            of_panel = (made.data_name, made.ipc, made.method.recipe) == (dataset, ipc, recipe)
            if of_panel and made.history:
                bottom.plot(
                    *zip(*made.history, strict=True), color=methods.colour(made.method.name)
                )
        by = "" if recipe == "text" else f", by the {recipe}"
        top.set_title(f"{_plain(data_label(table, dataset))}, IPC {ipc}{by}")
        bottom.set(xlabel="iteration", yscale="log")
    axes[0][0].set_ylabel("test accuracy, %\n(mean, 95 % t-interval)")
    axes[1][0].set_ylabel("matching loss")
    _legend_beside(axes[0][-1])
    return figure


def transfer_figure(records: Iterable[dict[str, Any]]) -> Figure:
    """Accuracy by architecture and method: every network trained is a dot, a bar their mean."""
    records = list(records)
    models = list(dict.fromkeys(r["evaluate"]["model"] for r in records))
    names = sorted({r["method"] for r in records}, key=methods.place)
    figure, axis = plt.subplots(figsize=(min(WIDEST, 1.6 + 1.2 * len(models)), 3.0))
    for r in records:
        place = names.index(r["method"]) - (len(names) - 1) / 2
        x = models.index(r["evaluate"]["model"]) + 0.8 * place / len(names)
        heights, colour = r["accuracies"], methods.colour(r["method"])
        axis.scatter([x] * len(heights), heights, s=16, color=colour, alpha=0.8, zorder=3)
        half = 0.3 / len(names)
        mean = float(np.mean(heights))
        axis.plot([x - half, x + half], [mean] * 2, color=colour, lw=2, label=label(r["method"]))
    axis.set_xticks(range(len(models)), [label(name) for name in models])
    axis.set(ylabel="test accuracy, %")
    axis.grid(axis="x", visible=False)
    _legend_beside(axis)
    return figure


def nas_figure(results: Mapping[str, pd.DataFrame], reference: str = "whole") -> Figure:
    """Rank by each proxy's validation accuracy against rank by the reference's test accuracy.

    One dot per candidate, 1 the best, equal accuracies sharing their mean rank; the star is the one
    that the proxy chose.
    """
    proxies = [name for name in results if name != reference]
    truth = results[reference].set_index("name")["test"].rank(ascending=False)
    figure, axes = _panels(len(proxies), 2.1, 2.5, sharey=True)
    for axis, name in zip(axes, proxies, strict=True):
        validation = results[name].set_index("name")["validation"]
        rank, chosen = validation.rank(ascending=False), validation.idxmax()
        axis.plot([1, len(rank)], [1, len(rank)], color="0.8", lw=1, zorder=1)
        axis.scatter(rank, truth[rank.index], s=14, alpha=0.7, zorder=2)
        axis.scatter(rank[chosen], truth[chosen], s=60, marker="*", color="C3", zorder=3)
        axis.set(title=label(name), xlabel="rank by proxy")
        axis.invert_xaxis()
    for first in axes[::3]:
        first.set_ylabel("rank, trained on all")
    axes[0].invert_yaxis()
    return figure


def cost_figure(table: pd.DataFrame) -> Figure:
    """Seconds per iteration, with the arithmetic bound across each bar, and peak memory."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDEST, 2.8))
    shown = table.assign(method=table.method.map(label), gb=table.step_peak_mb / 1e3)
    for axis, column in ((left, "step_s"), (right, "gb")):
        sns.barplot(
            shown, x="ipc", y=column, hue="method", ax=axis, errorbar=None, legend=False,
            palette={label(m): methods.colour(m) for m in set(table.method)},
        )  # fmt: skip
    for container, method in zip(left.containers, shown.method.unique(), strict=True):
        bounds = shown[shown.method == method].sort_values("ipc").bound_s
        for bar, bound in zip(container, bounds, strict=True):
            left.plot(
                [bar.get_x(), bar.get_x() + bar.get_width()], [bound] * 2, color="0.2", lw=1.5
            )
    left.plot([], [], color="0.2", lw=1.5, label="arithmetic bound")
    left.set(xlabel="images per class (IPC)", ylabel="seconds per iteration")
    left.legend(frameon=False, fontsize=8)
    right.set(xlabel="images per class (IPC)", ylabel="peak memory, GB")
    right.legend(
        right.containers, shown.method.unique(), frameon=False, loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )  # fmt: skip
    return figure


def forest_figure(table: pd.DataFrame, *bases: str) -> Figure:
    """Variants as points with their 95 % t-intervals; a line marks what each is held against.

    With one base that is all of them; with several, such as "text" and "code", each base's
    line spans the variants named after it, "text+norm" and so on.
    """
    panels = list(table.groupby(["dataset", "ipc"], sort=False))
    high = 0.26 * max(len(part) for _, part in panels) + 1.0
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(min(WIDEST, 1.6 + 3.2 * len(panels)), high),
        squeeze=False,
        sharey=True,
    )
    for axis, ((dataset, ipc), part) in zip(axes[0], panels, strict=True):
        rows = range(len(part))
        errors = [part["mean"] - part.low, part.high - part["mean"]]
        axis.errorbar(part["mean"], rows, xerr=errors, fmt="o", capsize=2, lw=1.2, ms=4)
        part = part.reset_index(drop=True)
        for base in bases:
            reference = part.loc[part.variant == base, "mean"]
            own = part.index[[len(bases) == 1 or v.split("+")[0] == base for v in part.variant]]
            if len(reference):
                ends = own.min() - 0.4, own.max() + 0.4
                axis.plot([reference.iloc[0]] * 2, ends, color="0.6", lw=1, ls="--", zorder=1)
        axis.set_yticks(rows, part.variant)
        bars = "" if part.low.isna().all() else "\n(mean, 95 % t-interval)"
        axis.set(title=f"{_plain(data_label(table, dataset))}, IPC {ipc}")
        axis.set_xlabel(f"test accuracy, %{bars}")
    axes[0][0].invert_yaxis()
    return figure


def power_figure(table: pd.DataFrame) -> Figure:
    """Accuracy over spatial and channel power as a heat map, one panel per data set and IPC."""
    named = table.variant.str.extract(r"ps(?P<spatial>[\d.]+)\.pc(?P<channel>[\d.]+)").astype(float)
    panels = list(table.join(named).groupby(["dataset", "ipc"], sort=False))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(min(WIDEST, 3.6 * len(panels)), 3.0), squeeze=False
    )
    for axis, ((dataset, ipc), part) in zip(axes[0], panels, strict=True):
        grid = part.pivot(index="spatial", columns="channel", values="mean")
        grid.index, grid.columns = ([f"{p:g}" for p in side] for side in (grid.index, grid.columns))
        sns.heatmap(
            grid, annot=True, fmt=".1f", cmap="viridis", ax=axis, square=True,
            cbar_kws={"label": "test accuracy, %"},
        )  # fmt: skip
        axis.set(
            title=f"{_plain(data_label(table, dataset))}, IPC {ipc}",
            xlabel="channel power $p_c$",
            ylabel="spatial power $p_s$",
        )
    return figure
