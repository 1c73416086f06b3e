"""Tests of significance: Welch's t-test, measured against measured and against published."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy  # its stats load where they are first used: half a second

from atomlib.methods import ATOM, RandomImages, place
from atomlib.report.published import published_text
from atomlib.report.records import (
    by,
    by_recipe,
    data_label,
    data_of,
    label,
    lasts,
    points,
    recipe_of,
    tenths,
)

LEVEL = 0.05

PUBLISHED_NETWORKS = 5
"""Taken for a published mean ± spread, since few papers tell the number: the fewest that a code of
the field trains (docs/facts.md, 'Evaluation protocol')."""

HOW = (
    "Difference: measured − published, in points; ▲ above, ▼ below, ≈ not told apart at p < 0.05, "
    "? not tested (Welch's t-test from means and spreads, over networks, or over distillation "
    "seeds where there are several). Few papers say how many networks a published spread is of "
    f"(their codes train 5 to 100): {PUBLISHED_NETWORKS} are taken; another number may turn ≈ into "
    "▲ or ▼, or back. Where no spread was published, the test is of the measured mean against the "
    "published mean only. Fewer than three networks or seeds are not tested. With one seed, how "
    "far another seed's images would lie from these is not in the test; with several, all are "
    "evaluated from the same networks' starts, whose luck is not in it. Nothing is corrected for "
    "the number of comparisons."
)
"""What a reader must know below a table with such differences."""


class Verdict(NamedTuple):
    """How a measured accuracy stands to the published one."""

    word: str
    """above, below, not told apart, or not tested."""
    p: float | None


SIGNS = {"above": "▲", "below": "▼", "not told apart": "≈", "not tested": "?"}
"""The sign of each word, so that nothing depends on colour only."""


def against_published(cell: Any, networks: int = PUBLISHED_NETWORKS) -> Verdict:
    """A row of tables.main_table, whose spreads are population standard deviations, in points; the
    published one is taken to be of so many ``networks``.

    Networks of one distillation seed share its outcome; so with several seeds the test is over
    the seeds' means.
    """
    n, spread = (cell.seeds, cell.seed_std) if cell.seeds > 1 else (cell.networks, cell.std)
    theirs = 0.0 if pd.isna(cell.published_std) else _sample(cell.published_std, networks)
    if n < FEWEST or not (spread > ROUNDING or theirs > 0):
        return Verdict("not tested", None)
    ours = _sample(spread, n)
    if theirs:
        test = scipy.stats.ttest_ind_from_stats(
            cell.mean, ours, n, cell.published, theirs, networks, equal_var=False
        )
        p = float(test.pvalue)
    else:
        t = (cell.mean - cell.published) / (ours / math.sqrt(n))
        p = float(2 * scipy.stats.t.sf(abs(t), n - 1))
    return _verdict(cell.mean - cell.published, p)


def beside_published(table: pd.DataFrame) -> pd.DataFrame:
    """The tests of ``tables.main_table`` against the published figures for a reader: p for
    published spreads of 5, 10 and 20 networks, since the number is not known."""
    rows = []
    for cell in table[table.published.notna()].itertuples():
        found = {f"p, of {n} networks": against_published(cell, n).p for n in (5, 10, 20)}
        theirs = published_text(cell.published, cell.published_std, cell.checked, cell.note)
        rows.append(
            {
                "where": f"{data_label(table, cell.dataset)}, IPC {cell.ipc}",
                "method": by_recipe(cell.method, cell.recipe),
                "measured": tenths(cell.mean),
                "published": theirs,
                "points": points(cell.difference),
            }
            | {name: "–" if p is None else f"{p:.2g}" for name, p in found.items()}
        )
    return pd.DataFrame(rows or [{"measured": "no figure is published for these data"}])


def _sample(population: float, n: int) -> float:
    """The sample's standard deviation from the population's, n - 1 in place of n."""
    return population * math.sqrt(n / (n - 1))


@dataclass(frozen=True)
class Finding:
    """How one measured accuracy stands to another: a sentence as a string, a row of ``table``."""

    where: str
    """Network, data set and IPC; empty where the reader knows."""
    first: str
    second: str
    gap: float
    """The first's mean minus the second's, in points."""
    verdict: Verdict
    how: str
    """The test, or why there is none."""

    def __str__(self) -> str:
        start = f"{self.where}: " if self.where else ""
        word, p = self.verdict
        if p is None:
            apart = f"{self.first} and {self.second} are {points(self.gap)} points apart"
            return f"{start}{apart}; {word}: {self.how}."
        word += " from" if word == "not told apart" else ""
        gap = f"{points(self.gap)} points ({self.how}, p = {p:.2g})"
        return f"{start}{self.first} is {word} {self.second}: {gap}."


def compare(ours: dict[str, Any], theirs: dict[str, Any], where: str = "") -> Finding:
    """Whether two records differ: Welch's t-test over their networks, FEWEST at the least."""
    first, second = (r.get("variant") or label(r["method"]) for r in (ours, theirs))
    gap = float(np.mean(ours["accuracies"]) - np.mean(theirs["accuracies"]))
    p, why = _welch(ours, theirs)
    if p is None:
        return Finding(where, first, second, gap, Verdict("not tested", None), why)
    counts = " and ".join(str(len(r["accuracies"])) for r in (ours, theirs))
    test = f"Welch's t-test over {counts} networks of one seed"
    return Finding(where, first, second, gap, _verdict(gap, p), test)


def as_table(found: Iterable[Finding]) -> pd.DataFrame:
    """The tests as a table for a reader, one per row."""
    rows = [
        {
            "where": f.where,
            "measured": f.first,
            "against": f.second,
            "points": points(f.gap),
            "verdict": f"{SIGNS[f.verdict.word]} {f.verdict.word}",
            "p": "–" if f.verdict.p is None else f"{f.verdict.p:.2g}",
            "test": f.how,
        }
        for f in found
    ]
    return pd.DataFrame(rows or [{"measured": "no rival was run"}])


def in_words(found: Sequence[Finding]) -> str:
    """What tests say together: how many of each verdict."""
    if not found:
        return ""
    firsts = {f.first for f in found}
    who = firsts.pop() if len(firsts) == 1 else "the first named"
    words = [f.verdict.word for f in found]
    said = ", ".join(f"{word} in {words.count(word)}" for word in SIGNS)
    return f"Of {len(found)} comparisons {who} is {said}; p is not corrected for their number."


def has_spread(values: Sequence[float]) -> bool:
    """Whether accuracies differ by more than rounding: without, no test says anything."""
    return len(values) > 1 and float(np.ptp(values)) > ROUNDING


ROUNDING = 1e-3
"""Points of accuracy: less than one image of a test set of 10,000 by ten times."""

FEWEST = 3
"""Networks, or seeds, of each side of a test."""


def _welch(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float | None, str]:
    """p of Welch's t-test over networks; or None, and why there is none."""
    a, b = ours["accuracies"], theirs["accuracies"]
    if min(len(a), len(b)) < FEWEST:
        return None, f"{len(a)} and {len(b)} networks are too few"
    idle = dict.fromkeys(
        r.get("variant") or label(r["method"]) for r in (ours, theirs) if at_chance(r)
    )
    if idle:
        return None, f"networks on {' and '.join(idle)} are at chance"
    if not (has_spread(a) or has_spread(b)):
        return None, f"neither's {len(a)} and {len(b)} networks differ from each other"
    return float(welch(a, b).pvalue), ""


def welch(ours: Sequence[float], theirs: Sequence[float]) -> Any:
    """SciPy's result of Welch's t-test. That all of one side are equal is no loss of precision:
    then the test asks how far that value lies from the other side's mean."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return scipy.stats.ttest_ind(ours, theirs, equal_var=False)


def at_chance(record: dict[str, Any]) -> bool:
    """Whether a network of a record has learned nothing: its accuracy is above that of guessing
    by no more than three standard errors of the test set. False for data that are not known."""
    known = data_of(record) if "dataset" in record else None
    if not (known and known.classes and known.shape):
        return False
    guessed, tested = 1 / known.classes, known.shape[1]
    limit = guessed + 3 * math.sqrt(guessed * (1 - guessed) / tested)
    return min(record["accuracies"]) <= 100 * limit


def p_of(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    p, why = _welch(ours, theirs)
    return f"not tested: {why}" if p is None else f"p = {p:.2g}"


def findings(records: Iterable[dict[str, Any]], method: str = ATOM.name) -> list[Finding]:
    """One per data set, IPC and rival: how ``method`` stands to it, tested.

    Networks trained on one set are draws of one seed's outcome; so with one distillation
    seed the test is over its networks, and with several over the seeds' means, in pairs:
    methods of one seed start from the same images.
    """
    return [
        _compare_seeds(by_method[method], by_method[rival], where)
        for where, by_method in _by_method(records)
        for rival in sorted(by_method, key=place)
        if rival != method and method in by_method
    ]


def beside_random(records: Iterable[dict[str, Any]]) -> list[Finding]:
    """One per data set, IPC and method but ATOM, of which ``findings`` tells: how it stands to
    Random, tested likewise."""
    rival = RandomImages.name
    return [
        _compare_seeds(by_method[method], by_method[rival], where)
        for where, by_method in _by_method(records)
        for method in sorted(by_method, key=place)
        if method not in (rival, ATOM.name) and rival in by_method
    ]


def _by_method(
    records: Iterable[dict[str, Any]],
) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    """Where, and the last records of each method there: one per data set, IPC and recipe."""
    cells: dict[tuple, dict[str, list[dict[str, Any]]]] = {}
    for r in lasts(records):
        if r["method"] != "whole":
            cell = cells.setdefault((r["dataset"], r["ipc"], recipe_of(r)), {})
            cell.setdefault(r["method"], []).append(r)
    for (_, ipc, recipe), by_method in cells.items():
        where = f"{data_of(next(iter(by_method.values()))[0]).label}, IPC {ipc}"
        yield where + by(recipe), by_method


def _compare_seeds(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], where: str) -> Finding:
    means = [
        {r["seed"]: float(np.mean(r["accuracies"])) for r in records} for records in (ours, theirs)
    ]
    seeds = sorted(set(means[0]) & set(means[1]))
    names = label(ours[0]["method"]), label(theirs[0]["method"])
    if not seeds:
        gap = float(np.mean([*means[0].values()]) - np.mean([*means[1].values()]))
        why = "they have no distillation seed in common"
        return Finding(where, *names, gap, Verdict("not tested", None), why)
    if len(seeds) == 1:
        of_seed = (next(r for r in side if r["seed"] == seeds[0]) for side in (ours, theirs))
        return compare(*of_seed, where)
    a, b = ([mean[seed] for seed in seeds] for mean in means)
    gap = float(np.mean(a) - np.mean(b))
    why = ""
    if len(seeds) < FEWEST:
        why = f"{len(seeds)} distillation seeds are too few"
    elif any(at_chance(r) for r in (*ours, *theirs) if r["seed"] in seeds):
        why = "some networks are at chance"
    elif not has_spread(np.subtract(a, b)):
        why = f"the same at each of {len(seeds)} distillation seeds"
    if why:
        return Finding(where, *names, gap, Verdict("not tested", None), why)
    p = float(scipy.stats.ttest_rel(a, b).pvalue)
    test = f"paired t-test over {len(seeds)} distillation seeds"
    return Finding(where, *names, gap, _verdict(gap, p), test)


def _verdict(gap: float, p: float) -> Verdict:
    word = ("above" if gap > 0 else "below") if p < LEVEL else "not told apart"
    return Verdict(word, p)


def transfer_findings(records: Iterable[dict[str, Any]], method: str = ATOM.name) -> list[Finding]:
    """One per network and rival: how ``method`` stands to it there, tested."""
    by_network: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        by_network.setdefault(r["evaluate"]["model"], []).append(r)
    return [
        replace(found, where=f"{label(network)}, {found.where}")
        for network, part in by_network.items()
        for found in findings(part, method)
    ]


def against(records: Iterable[dict[str, Any]], base: str) -> list[Finding]:
    """One per variant: how it stands to the variant ``base`` of its recipe or method, tested."""
    records = list(records)
    return [
        compare(r, rival, f"{data_of(rival).label}, IPC {rival['ipc']}")
        for rival in records
        if rival["variant"] == base
        for r in records
        if r is not rival and _cell(r) == _cell(rival)
    ]


def _cell(record: dict[str, Any]) -> tuple:
    return (*(record[key] for key in ("dataset", "ipc", "method", "seed")), recipe_of(record))
