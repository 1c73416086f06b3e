"""The figures of a report, in one style, drawn from tables, records or distilled sets."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from atomlib import methods
from atomlib.datasets.known import HELD_OUT
from atomlib.distilled_set import DistilledSet
from atomlib.report.glyphs import fallback_fonts, plain_text
from atomlib.report.losses import by_loss, draw_losses, legend_beside
from atomlib.report.records import by, by_recipe, data_label, data_of, label, lasts, recipe_of
from atomlib.runtime.files import atomic_write
from atomlib.runtime.layout import FIGURE_KINDS, Layout


def write_figure(figure: Figure, folder: str | Path, name: str) -> Path:
    """Write <folder>/figures/<name>.png, and as vectors .svg (for a page) and .pdf (for a paper).

    Equal figures give equal bytes; text in an SVG is text. Returns the PNG's path.
    """
    places = {kind: Layout(folder).figure(name, kind) for kind in FIGURE_KINDS}
    for kind, path in places.items():
        # The dates and versions that matplotlib adds would change the bytes of equal pictures,
        # and so would the random names that it gives to the parts of an SVG.
        own = {"svg.hashsalt": "atomlib", "svg.fonttype": "none"}
        with atomic_write(path) as partial, plt.rc_context(own):
            figure.savefig(partial, format=kind, dpi=150, metadata=dict.fromkeys(_STAMPS[kind]))
    return places["png"]


_STAMPS = {"png": ["Software"], "svg": ["Date", "Creator"], "pdf": ["CreationDate", "Producer"]}
"""What a format's writer says of itself and the day."""


def style() -> None:
    """One look for all figures: seaborn's colour-blind palette, small type, thin lines."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.0)
    plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100})
    plt.rcParams["font.family"] = ["sans-serif", *fallback_fonts()]
    plt.rcParams["pdf.fonttype"] = 42  # TrueType: publishers take no Type 3


WIDEST = 7.0
"""Inches: both columns of a paper."""


ACROSS = 3
"""Panels in a row, at most."""


def _panels(
    count: int, width: float, height: float, within: SubFigure | None = None, **shared: bool
) -> tuple[Figure | SubFigure, list[Axes]]:
    """``count`` panels of ``width`` by ``height`` inches: a figure, or a part of one."""
    columns, rows = min(ACROSS, count), -(-count // ACROSS)
    size = min(WIDEST, 0.6 + width * columns), height * rows
    figure = within or plt.figure(figsize=size)
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def accuracy_figure(records: Iterable[dict[str, Any]], table: pd.DataFrame) -> Figure:
    """A line per method: every network's accuracy as a dot, the published mean with its ±.

    With two recipes, the first's dots stand above the published bar, the second's, hollow, below.
    All panels have the same methods and one x axis.
    """
    dots = pd.DataFrame(
        [
            {"dataset": r["dataset"], "ipc": r["ipc"], "method": r["method"]}
            | {"recipe": recipe_of(r), "accuracy": accuracy}
            for r in lasts(records)
            if r["method"] != "whole"
            for accuracy in r["accuracies"]
        ]
    )
    recipes = sorted(set(dots.recipe), reverse=True)
    order = sorted(set(dots.method), key=methods.place)
    panels = list(dots.groupby(["dataset", "ipc"]))
    height = 1.2 + 0.2 * len(order) * len(recipes)
    figure, axes = _panels(len(panels), 2.8, height, sharex=True, sharey=True)
    for axis, ((dataset, ipc), part) in zip(axes, panels, strict=True):
        for (method, recipe), mine in part.groupby(["method", "recipe"]):
            side = recipes.index(recipe)
            middle = order.index(method) + 0.4 * (side - (len(recipes) - 1) / 2)
            # Side by side rather than jittered at random: the same picture every time.
            down = middle + np.linspace(-0.15, 0.15, len(mine)) * (len(mine) > 1) / len(recipes)
            colour = methods.colour(method)
            fill = {"color": colour} if side == 0 else {"edgecolor": colour, "facecolor": "none"}
            axis.scatter(mine.accuracy, down, s=26 / len(recipes), zorder=3, **fill)
        cell = table[(table.dataset == dataset) & (table.ipc == ipc) & table.published.notna()]
        for row in cell[cell.method.isin(order)].drop_duplicates("method").itertuples():
            y, look = order.index(row.method), {"color": "0.25", "zorder": 4}  # seen upon dots
            axis.plot([row.published] * 2, [y - 0.32, y + 0.32], lw=1.5, **look)
            axis.errorbar(row.published, y, xerr=row.published_std, lw=1, capsize=3, **look)
        axis.set_yticks(range(len(order)), [label(m) for m in order])
        axis.set(title=f"{plain_text(data_label(table, dataset))}, IPC {ipc}", xlabel="", ylabel="")
    axes[0].set_ylim(len(order) - 0.5, -0.5)
    for last in axes[-ACROSS:]:
        last.set_xlabel("test accuracy, %")
    if table.published.notna().any():
        axes[-1].plot([], [], color="0.25", lw=1.5, label="published, ±")
    for side, recipe in enumerate(recipes if len(recipes) > 1 else ()):
        fill = {"color": "0.5"} if side == 0 else {"edgecolor": "0.5", "facecolor": "none"}
        axes[-1].scatter([], [], s=16, label=f"by the {recipe}", **fill)
    handles, labels = axes[-1].get_legend_handles_labels()
    if labels:  # below all panels: in one of them it would hide dots
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def loss_figure(sets: Iterable[DistilledSet]) -> Figure:
    """Matching loss over iterations: a panel per method and data set, a line per distilled set.

    Methods' losses are of different terms, so each panel has a y axis of its own.
    """
    groups = by_loss(sets)
    figure, axes = _panels(max(1, len(groups)), 2.5, 2.2)
    draw_losses(axes, groups)
    return figure


def curve_figure(sets: Sequence[DistilledSet], table: pd.DataFrame) -> Figure:
    """Accuracy over iterations, one panel per data set, IPC and recipe; below, the losses.

    ``table`` is tables.curve_table's; bands are 95 % t-intervals over the networks of one
    seed. A star marks the best checkpoint, a dot the last iterate. The accuracies have one y axis.
    """
    panels = list(table.groupby(["dataset", "ipc", "recipe"], sort=False))
    groups = by_loss(sets)
    heights = [2.6 * -(-len(panels) // ACROSS), 2.2 * -(-len(groups) // ACROSS)][: 1 + bool(groups)]
    columns = min(ACROSS, max(len(panels), len(groups)))
    figure = plt.figure(figsize=(min(WIDEST, 1.6 + 2.5 * columns), sum(heights)))
    above, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False).flat
    _, axes = _panels(len(panels), 0, 0, above, sharey=True)
    for axis, (about, part) in zip(axes, panels, strict=True):
        for (method, _), line in part.groupby(["method", "seed"], sort=False):
            colour = methods.colour(method)
            axis.plot(line.iterations, line["mean"], color=colour, lw=1.2, label=label(method))
            axis.fill_between(line.iterations, line.low, line.high, color=colour, alpha=0.15, lw=0)
            best, last = line.loc[line["mean"].idxmax()], line.iloc[-1]
            axis.plot(last.iterations, last["mean"], "o", color=colour, ms=4)
            axis.plot(best.iterations, best["mean"], "*", color=colour, ms=10)
        axis.set_title(_title(table, *about))
        axis.set_xlabel("iteration")
    for first in axes[::ACROSS]:
        first.set_ylabel("test accuracy, %\n(mean, 95 % t-interval)")
    legend_beside(axes[min(ACROSS, len(axes)) - 1])
    if below:
        draw_losses(_panels(len(groups), 0, 0, below[0])[1], groups)
    return figure


def transfer_figure(records: Iterable[dict[str, Any]]) -> Figure:
    """Accuracy by architecture and method: every network trained is a dot, a bar their mean.

    Another recipe than the text's has hollow dots and dotted bars. A dashed line is what guessing
    reaches, where the number of classes is known.
    """
    records = list(records)
    models = list(dict.fromkeys(r["evaluate"]["model"] for r in records))
    names = _by_method_and_recipe((r["method"], recipe_of(r)) for r in records)
    figure, axis = plt.subplots(figsize=(min(WIDEST, 1.6 + 1.2 * len(models)), 3.0))
    for r in records:
        name = r["method"], recipe_of(r)
        place = names.index(name) - (len(names) - 1) / 2
        x = models.index(r["evaluate"]["model"]) + 0.8 * place / len(names)
        heights, colour = r["accuracies"], methods.colour(r["method"])
        fill = {"color": colour} if name[1] == "text" else {"fc": "white", "ec": colour}
        axis.scatter([x] * len(heights), heights, s=16, alpha=0.8, zorder=3, **fill)
        half = 0.3 / len(names)
        mean = float(np.mean(heights))
        line = "-" if name[1] == "text" else ":"
        about = {"color": colour, "label": by_recipe(*name)}
        axis.plot([x - half, x + half], [mean] * 2, line, lw=2, **about)
    for classes in {data_of(r).classes for r in records} - {0}:
        axis.axhline(100 / classes, color="0.5", lw=1, ls="--", label="chance")
    axis.set_xticks(range(len(models)), [label(name) for name in models])
    cells = dict.fromkeys(f"{data_of(r).label}, IPC {r['ipc']}" for r in records)
    axis.set(ylabel="test accuracy, %", title=plain_text("; ".join(cells)))
    axis.grid(axis="x", visible=False)
    legend_beside(axis)
    return figure


def nas_figure(results: Mapping[str, pd.DataFrame]) -> Figure:
    """Rank by each proxy's validation accuracy against rank by the full data's test accuracy.

    One dot per candidate, 1 the best, equal accuracies sharing their mean rank; the star is the one
    that the proxy chose.
    """
    proxies = [name for name in results if name != "whole"]
    truth = results["whole"].set_index("name")["test"].rank(ascending=False)
    figure, axes = _panels(len(proxies), 2.1, 2.5, sharey=True)
    for axis, name in zip(axes, proxies, strict=True):
        validation = results[name].set_index("name")["validation"]
        rank, chosen = validation.rank(ascending=False), validation.idxmax()
        axis.plot([1, len(rank)], [1, len(rank)], color="0.8", lw=1, zorder=1)
        axis.scatter(rank, truth[rank.index], s=14, alpha=0.7, zorder=2)
        axis.scatter(rank[chosen], truth[chosen], s=60, marker="*", color="C3", zorder=3)
        axis.set(title=label(name), xlabel="rank by proxy")
        axis.invert_xaxis()
    for first in axes[::ACROSS]:
        first.set_ylabel("rank, trained on all")
    axes[0].invert_yaxis()
    return figure


def _by_method_and_recipe(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each pair once, in the order of methods, the text's recipe first."""
    return sorted(set(pairs), key=lambda pair: (methods.place(pair[0]), pair[1] != "text", pair[1]))


def _title(table: pd.DataFrame, dataset: str, ipc: int, recipe: str) -> str:
    """Of a panel."""
    return f"{plain_text(data_label(table, dataset))}, IPC {ipc}{by(recipe)}"


def cost_figure(table: pd.DataFrame) -> Figure:
    """Seconds per iteration, from the fastest to the slowest of the repeats, with the arithmetic
    bound across each bar; and peak memory, measured once."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDEST, 2.8))
    ipcs = sorted(set(table.ipc))
    names = _by_method_and_recipe(zip(table.method, table.recipe, strict=True))
    wide = 0.8 / len(names)
    for row in table.itertuples():
        name = row.method, row.recipe
        x = ipcs.index(row.ipc) + wide * (names.index(name) - (len(names) - 1) / 2)
        look = {"color": methods.colour(row.method), "label": by_recipe(*name)}
        look |= {} if row.recipe == "text" else {"hatch": "//", "ec": "white"}
        spread = [[row.step_s - row.step_low_s], [row.step_high_s - row.step_s]]
        left.bar(x, row.step_s, wide, yerr=spread, error_kw={"lw": 1, "capsize": 2}, **look)
        left.plot([x - wide / 2, x + wide / 2], [row.bound_s] * 2, color="0.2", lw=1.5)
        right.bar(x, row.step_peak_mb / 1e3, wide, **look)
    bound = left.plot([], [], color="0.2", lw=1.5, label="arithmetic bound")
    left.legend(handles=bound, frameon=False)
    left.set_ylabel("seconds per iteration\n(median, fastest, slowest)")
    right.set_ylabel("peak memory, GB")
    for axis in (left, right):
        axis.set_xticks(range(len(ipcs)), ipcs)
        axis.set_xlabel("images per class (IPC)")
        axis.grid(axis="x", visible=False)
    legend_beside(right)
    return figure


def forest_figure(table: pd.DataFrame, base: str) -> Figure:
    """Variants as points with their 95 % t-intervals; a line marks the variant ``base``."""
    panels = list(table.groupby(["dataset", "ipc", "recipe"], sort=False))
    high = 0.26 * max(len(part) for _, part in panels) + 1.0
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(min(WIDEST, 1.6 + 3.2 * len(panels)), high),
        squeeze=False,
        sharey=True,
    )
    for axis, (about, part) in zip(axes[0], panels, strict=True):
        rows = range(len(part))
        errors = [part["mean"] - part.low, part.high - part["mean"]]
        axis.errorbar(part["mean"], rows, xerr=errors, fmt="o", capsize=2, lw=1.2, ms=4)
        reference = part.loc[part.variant == base, "mean"]
        if len(reference):
            axis.axvline(reference.iloc[0], color="0.6", lw=1, ls="--", zorder=1)
        axis.set_yticks(rows, part.variant)
        bars = "" if part.low.isna().all() else "\n(mean, 95 % t-interval)"
        bars += "\neach panel its own range" if len(panels) > 1 else ""
        axis.set(title=_title(table, *about))
        axis.set_xlabel(f"test accuracy, %{bars}")
    axes[0][0].invert_yaxis()
    return figure


def worth_figure(table: pd.DataFrame) -> Figure:
    """What each change is worth, in points, with its 95 % interval: a panel per data set and IPC,
    a colour per whole, the largest of each first."""
    changes = table.dropna(subset="worth")
    if changes.empty:
        figure, axis = plt.subplots(figsize=(3.2, 1.0))
        axis.text(0.5, 0.5, "nothing to compare yet", ha="center", va="center")
        axis.set_axis_off()
        return figure
    panels = list(changes.groupby(["dataset", "ipc"], sort=False))
    colours = dict(zip(changes.whole.unique(), sns.color_palette(), strict=False))
    high = 0.22 * max(len(part) for _, part in panels) + 1.0
    figure, axes = plt.subplots(
        1, len(panels), figsize=(min(WIDEST, 1.6 + 3.2 * len(panels)), high), squeeze=False
    )
    for axis, ((dataset, ipc), part) in zip(axes[0], panels, strict=True):
        rows = np.arange(len(part))
        for whole, colour in colours.items():
            own = (part.whole == whole).to_numpy()
            errors = [(part.worth - part.worth_low)[own], (part.worth_high - part.worth)[own]]
            axis.errorbar(
                part.worth[own], rows[own], xerr=np.nan_to_num(errors), fmt="o", capsize=2, lw=1.2,
                ms=4, color=colour,
            )  # fmt: skip
        axis.axvline(0, color="0.6", lw=1, ls="--", zorder=1)
        axis.set_yticks(rows, part.variant)
        axis.set_ylim(len(part) - 0.5, -0.5)
        axis.set(title=f"{plain_text(data_label(table, dataset))}, IPC {ipc}")
        seen = "held-out" if dataset.endswith(HELD_OUT) else "test"
        bars = "\n(difference of means, 95 % interval)"
        bars += "\neach panel its own range" if len(panels) > 1 else ""
        axis.set_xlabel(f"worth, points of {seen} accuracy{bars}")
    return figure


def power_figure(table: pd.DataFrame) -> Figure:
    """Accuracy over spatial and channel power as a heat map, one panel per data set, IPC and
    recipe."""
    named = table.variant.str.extract(r"ps(?P<spatial>[\d.]+)\.pc(?P<channel>[\d.]+)").astype(float)
    panels = list(table.join(named).groupby(["dataset", "ipc", "recipe"], sort=False))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(min(WIDEST, 3.6 * len(panels)), 3.0), squeeze=False
    )
    for axis, (about, part) in zip(axes[0], panels, strict=True):
        grid = part.pivot(index="spatial", columns="channel", values="mean")
        grid.index, grid.columns = ([f"{p:g}" for p in side] for side in (grid.index, grid.columns))
        sns.heatmap(
            grid, annot=True, fmt=".1f", cmap="viridis", ax=axis, square=True,
            cbar_kws={"label": "test accuracy, %"},
        )  # fmt: skip
        axis.set(
            title=_title(table, *about),
            xlabel="channel power $p_c$",
            ylabel="spatial power $p_s$",
        )
    return figure
