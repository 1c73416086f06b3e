"""The sentences below a table: what the iterations brought, the powers, the costs, the search."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from atomlib.methods import ATOM, DM
from atomlib.report.findings import p_of
from atomlib.report.records import (
    by,
    by_recipe,
    by_run,
    data_label,
    data_of,
    iterations_of,
    label,
    points,
    tenths,
)


def of_curves(records: Iterable[dict[str, Any]]) -> list[str]:
    """One sentence per distillation of several checkpoints: what the iterations brought, and best
    against last."""
    sentences = []
    for (_, ipc, method, seed, recipe, _), run in by_run(records).items():
        if len(run) == 1:
            continue
        first, last = min(run, key=iterations_of), max(run, key=iterations_of)
        # Of equals the earlier, as in the main table.
        best = max(run, key=lambda r: (float(np.mean(r["accuracies"])), -iterations_of(r)))
        gain, gap = (
            float(np.mean(a["accuracies"]) - np.mean(b["accuracies"]))
            for a, b in ((last, first), (best, last))
        )
        kept = "the last iterate is the best" if best is last else (
            f"the best, at {iterations_of(best)}, is {tenths(gap)} above the last "
            f"({p_of(best, last)}, not corrected for having been chosen)"
        )  # fmt: skip
        sentences.append(
            f"{by_recipe(method, recipe)}, {data_of(last).label}, IPC {ipc}, seed {seed}: "
            f"{iterations_of(last)} iterations bring {points(gain)} points over "
            f"{iterations_of(first)} (Welch's t-test over networks, {p_of(last, first)}); {kept}."
        )
    return sentences


def of_powers(table: pd.DataFrame) -> list[str]:
    """One per data set, IPC and recipe of a power grid: the highest pair, and the mean accuracy of
    the pairs by which power is the higher."""
    sentences = []
    for (dataset, ipc, recipe), part in table.groupby(["dataset", "ipc", "recipe"], sort=False):
        pairs = part.variant.str.extract(r"ps([\d.]+)\.pc([\d.]+)$").astype(float)
        higher = np.sign(pairs[1] - pairs[0])
        kinds = {1: "the higher channel power", -1: "the higher spatial power", 0: "equal powers"}
        groups = {kind: part["mean"][higher == sign] for sign, kind in kinds.items()}
        means = [
            f"{tenths(mean.mean())} with {kind} ({len(mean)} of {len(part)} pairs)"
            for kind, mean in groups.items()
            if len(mean)
        ]
        best = part.loc[part["mean"].idxmax()]
        sentences.append(
            f"{data_label(table, dataset)}, IPC {ipc}{by(recipe)}: the highest is {best.variant}, "
            f"{tenths(best['mean'])}; on average {', '.join(means)}."
        )
    return sentences


def of_costs(table: pd.DataFrame) -> list[str]:
    """One sentence per IPC and recipe: how the methods' iterations compare in time and memory."""
    sentences = []
    for (ipc, recipe), part in table.groupby(["ipc", "recipe"], sort=False):
        part = part.set_index("method")
        if not {DM.name, ATOM.name} <= set(part.index):
            continue
        dm, atom = part.loc[DM.name], part.loc[ATOM.name]
        sentences.append(
            f"IPC {ipc}{by(recipe)}: an iteration of ATOM takes "
            f"{atom.step_s / dm.step_s:.2f} times one of DM and "
            f"{atom.step_peak_mb / dm.step_peak_mb:.2f} times its memory; it stands at "
            f"{atom.times_bound:.2g} times the arithmetic bound, DM's at {dm.times_bound:.2g}."
        )
    return sentences


def of_search(table: pd.DataFrame) -> list[str]:
    """One sentence per proxy, the best correlated first, and the reference."""
    rivals = table[table["proxy"] != "whole"].sort_values("correlation", ascending=False)
    whole = table.set_index("proxy").loc["whole"]
    sentences = []
    for cell in rivals.itertuples():
        gap = points(cell.accuracy - cell.best_accuracy)
        found = f"{cell.correlation:.2f} ({cell.low:.2f} to {cell.high:.2f})"
        found = "no correlation" if pd.isna(cell.correlation) else f"Spearman {found}"
        sentences.append(
            f"{label(cell.proxy)}: {found} with training on all images, in "
            f"{100 * cell.seconds / whole.seconds:.0f} % of its time; it chose a network that "
            f"reaches {tenths(cell.accuracy)} %, {gap} points from the best there is."
        )
    rivals = rivals.dropna(subset=["correlation", "low", "high"])
    if len(rivals) < 2:
        few = "Fewer than two proxies have a correlation: too few candidates, or equal accuracies."
        return [*sentences, few]
    first, last = rivals.iloc[0], rivals.iloc[-1]
    if rivals.low.max() <= rivals.high.min():
        verdict = "All proxies' intervals overlap; their differences were not tested."
    elif first.low > last.high:
        pair = " and ".join(label(cell["proxy"]) for cell in (first, last))
        verdict = f"The intervals of {pair} do not overlap."
    else:
        verdict = "Some intervals overlap and some do not; the first and last proxy's do."
    return [*sentences, verdict]
