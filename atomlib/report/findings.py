"""Tests of significance and the sentences below a table: Welch's t-test, measured against measured
and measured against published.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy  # its stats load where they are first used: half a second

from atomlib.methods import ATOM, DM, place
from atomlib.report.records import (
    by_recipe,
    by_run,
    data_of,
    iterations_of,
    label,
    lasts,
    points,
    recipe_of,
    tenths,
)
from atomlib.training import EvalConfig

LEVEL = 0.05

PUBLISHED_NETWORKS = EvalConfig().networks
"""Taken for a published mean ± spread, which tells no number: as many as the paper's protocol."""

HOW = (
    "Difference: measured − published, in points; ▲ above, ▼ below, ≈ not told apart at p < 0.05 "
    "(Welch's t-test from means and spreads, over networks, or over distillation seeds where there "
    "are several). How many networks a published spread is of is not on record: "
    f"{PUBLISHED_NETWORKS} are taken, as in the paper's protocol; where no spread was published, "
    "the test is of the measured mean against the published mean only. One network is not tested. "
    "Nothing is corrected for the number of comparisons."
)
"""What a reader must know below a table with such differences."""


class Verdict(NamedTuple):
    """How a measured accuracy stands to the published one."""

    word: str
    """above, below, not told apart, or not tested."""
    p: float | None


SIGNS = {"above": "▲", "below": "▼", "not told apart": "≈", "not tested": "?"}
"""The sign of each word, so that nothing depends on colour only."""


def against_published(cell: Any) -> Verdict:
    """A row of report.main_table, whose spreads are population standard deviations, in points.

    Networks of one distillation seed share its outcome; so with several seeds the test is over
    the seeds' means.
    """
    n, spread = (cell.seeds, cell.seed_std) if cell.seeds > 1 else (cell.networks, cell.std)
    theirs = 0.0 if pd.isna(cell.published_std) else _sample(cell.published_std, PUBLISHED_NETWORKS)
    if n < 2 or not (spread > ROUNDING or theirs > 0):
        return Verdict("not tested", None)
    ours = _sample(spread, n)
    if theirs:
        test = scipy.stats.ttest_ind_from_stats(
            cell.mean, ours, n, cell.published, theirs, PUBLISHED_NETWORKS, equal_var=False
        )
        p = float(test.pvalue)
    else:
        t = (cell.mean - cell.published) / (ours / math.sqrt(n))
        p = float(2 * scipy.stats.t.sf(abs(t), n - 1))
    if p >= LEVEL:
        return Verdict("not told apart", p)
    return Verdict("above" if cell.mean > cell.published else "below", p)


def _sample(population: float, n: int) -> float:
    """The sample's standard deviation from the population's, n - 1 in place of n."""
    return population * math.sqrt(n / (n - 1))


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """One sentence on whether two records differ: Welch's t-test over their networks."""
    first, second = (r.get("variant") or label(r["method"]) for r in (ours, theirs))
    a, b = ours["accuracies"], theirs["accuracies"]
    gap = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return f"{first} and {second} are {points(gap)} points apart; one network is not tested."
    p = _welch(ours, theirs)
    test = f"Welch's t-test over {len(a)} and {len(b)} networks of one seed"
    if p is None:
        return (
            f"{first} and {second} are {points(gap)} points apart; not tested, since neither's "
            f"{len(a)} and {len(b)} networks differ from each other."
        )
    return _verdict(first, second, gap, p, test)


def has_spread(values: Sequence[float]) -> bool:
    """Whether accuracies differ by more than rounding: without, no test says anything."""
    return len(values) > 1 and float(np.ptp(values)) > ROUNDING


ROUNDING = 1e-3
"""Points of accuracy: less than one image of a test set of 10,000 by ten times."""


def _welch(ours: dict[str, Any], theirs: dict[str, Any]) -> float | None:
    """p of Welch's t-test over networks, two at the least on each side; None without spread."""
    a, b = ours["accuracies"], theirs["accuracies"]
    if not (has_spread(a) or has_spread(b)):
        return None
    return float(scipy.stats.ttest_ind(a, b, equal_var=False).pvalue)


def _p(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    if min(len(ours["accuracies"]), len(theirs["accuracies"])) < 2:
        return "no p with one network"
    p = _welch(ours, theirs)
    return "no p without spread" if p is None else f"p = {p:.2g}"


def findings(records: Iterable[dict[str, Any]], method: str = ATOM.name) -> list[str]:
    """One sentence per data set, IPC and rival: how ``method`` stands to it, tested.

    Networks trained on one set are draws of one seed's outcome; so with one distillation
    seed the test is over its networks, and with several over the seeds' means, in pairs:
    methods of one seed start from the same images.
    """
    cells: dict[tuple, dict[str, list[dict[str, Any]]]] = {}
    for r in lasts(records):
        if r["method"] != "whole":
            cell = cells.setdefault((r["dataset"], r["ipc"], recipe_of(r)), {})
            cell.setdefault(r["method"], []).append(r)
    sentences = []
    for (_, ipc, recipe), by_method in cells.items():
        where = f"{data_of(next(iter(by_method.values()))[0]).label}, IPC {ipc}"
        where += "" if recipe == "text" else f", by the {recipe}"
        ours = by_method.get(method, [])
        rivals = [by_method[m] for m in sorted(by_method, key=place) if m != method] if ours else []
        sentences += [f"{where}: {_compare_seeds(ours, rival)}" for rival in rivals]
    return sentences


def _compare_seeds(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    means = [
        {r["seed"]: float(np.mean(r["accuracies"])) for r in records} for records in (ours, theirs)
    ]
    seeds = sorted(set(means[0]) & set(means[1]))
    if len(seeds) < 2:
        return compare(ours[0], theirs[0])
    a, b = ([mean[seed] for seed in seeds] for mean in means)
    if not has_spread(np.subtract(a, b)):
        first, second = (label(records[0]["method"]) for records in (ours, theirs))
        return (
            f"{first} and {second} are {points(float(np.mean(a) - np.mean(b)))} points apart at "
            f"each of {len(seeds)} distillation seeds; not tested, since that has no spread."
        )
    p = float(scipy.stats.ttest_rel(a, b).pvalue)
    return _verdict(
        label(ours[0]["method"]), label(theirs[0]["method"]), float(np.mean(a) - np.mean(b)),
        p, f"paired t-test over {len(seeds)} distillation seeds",
    )  # fmt: skip


def _verdict(first: str, second: str, gap: float, p: float, test: str) -> str:
    verdict = f"{'above' if gap > 0 else 'below'}" if p < 0.05 else "not told apart from"
    return f"{first} is {verdict} {second}: {points(gap)} points ({test}, p = {p:.2g})."


def transfer_findings(records: Iterable[dict[str, Any]], method: str = ATOM.name) -> list[str]:
    """One sentence per network and rival: how ``method`` stands to it there, tested."""
    by_network: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        by_network.setdefault(r["evaluate"]["model"], []).append(r)
    return [
        f"{label(network)}: {sentence}"
        for network, part in by_network.items()
        for sentence in findings(part, method)
    ]


def against(records: Iterable[dict[str, Any]], base: str) -> list[str]:
    """One sentence per variant: how it stands to the variant ``base`` of its recipe, tested."""
    records = list(records)
    return [
        compare(r, rival)
        for rival in records
        if rival["variant"] == base
        for r in records
        if r is not rival and _cell(r) == _cell(rival)
    ]


def _cell(record: dict[str, Any]) -> tuple:
    return (*(record[key] for key in ("dataset", "ipc", "seed")), recipe_of(record))


def curve_findings(records: Iterable[dict[str, Any]]) -> list[str]:
    """One sentence per distillation: what the iterations brought, and best against last."""
    sentences = []
    for (_, ipc, method, seed, recipe, _), run in by_run(records).items():
        first, last = min(run, key=iterations_of), max(run, key=iterations_of)
        best = max(run, key=lambda r: float(np.mean(r["accuracies"])))
        gain, gap = (
            float(np.mean(a["accuracies"]) - np.mean(b["accuracies"]))
            for a, b in ((last, first), (best, last))
        )
        kept = "the last iterate is the best" if best is last else (
            f"the best, at {iterations_of(best)}, is {tenths(gap)} above the last "
            f"({_p(best, last)}, not corrected for having been chosen)"
        )  # fmt: skip
        sentences.append(
            f"{by_recipe(method, recipe)}, {data_of(last).label}, IPC {ipc}, seed {seed}: "
            f"{iterations_of(last)} iterations bring {points(gain)} points over "
            f"{iterations_of(first)} (Welch's t-test over networks, {_p(last, first)}); {kept}."
        )
    return sentences


def cost_findings(table: pd.DataFrame) -> list[str]:
    """One sentence per IPC: how the methods' iterations compare in time and memory."""
    sentences = []
    for ipc, part in table.groupby("ipc"):
        part = part.set_index("method")
        if not {DM.name, ATOM.name} <= set(part.index):
            continue
        dm, atom = part.loc[DM.name], part.loc[ATOM.name]
        sentences.append(
            f"IPC {ipc}: an iteration of ATOM takes {atom.step_s / dm.step_s:.2f} times one of DM "
            f"and {atom.step_peak_mb / dm.step_peak_mb:.2f} times its memory; it stands at "
            f"{atom.times_bound:.2g} times the arithmetic bound, DM's at {dm.times_bound:.2g}."
        )
    return sentences


def nas_findings(table: pd.DataFrame) -> list[str]:
    """One sentence per proxy, the best correlated first, and the reference."""
    rivals = table[table["proxy"] != "whole"].sort_values("correlation", ascending=False)
    whole = table.set_index("proxy").loc["whole"]
    sentences = []
    for cell in rivals.itertuples():
        gap = points(cell.accuracy - cell.best_accuracy)
        sentences.append(
            f"{label(cell.proxy)}: Spearman {cell.correlation:.2f} "
            f"({cell.low:.2f} to {cell.high:.2f}) with training on all images, in "
            f"{100 * cell.seconds / whole.seconds:.0f} % of its time; it chose a network that "
            f"reaches {tenths(cell.accuracy)} %, {gap} points from the best there is."
        )
    first, last = rivals.iloc[0], rivals.iloc[-1]
    if rivals.low.max() <= rivals.high.min():
        verdict = "All proxies' intervals overlap: this sample does not tell them apart."
    elif first.low > last.high:
        pair = " and ".join(label(cell["proxy"]) for cell in (first, last))
        verdict = f"The intervals of {pair} do not overlap."
    else:
        verdict = "Some intervals overlap and some do not; the first and last proxy's do."
    return [*sentences, verdict]
