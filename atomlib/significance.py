"""A measured accuracy against a published one, of which only mean and spread are known."""

import math
from typing import Any, NamedTuple

import pandas as pd
import scipy  # its stats load where they are first used: half a second

from atomlib.config import EvalConfig

LEVEL = 0.05
PUBLISHED_NETWORKS = EvalConfig().networks
"""Taken for a published mean ± spread, which tells no number: as many as the paper's protocol."""

HOW = (
    "Difference: measured − published, in points; ▲ above, ▼ below, ≈ not told apart at p < 0.05 "
    "(Welch's t-test from means and spreads, over networks, or over distillation seeds where there "
    "are several). How many networks a published spread is of is not on record: "
    f"{PUBLISHED_NETWORKS} are taken, as in the paper's protocol; where no spread was published, "
    "the test is of the measured mean against the figure alone. One network is not tested. "
    "Nothing is corrected for the number of comparisons."
)
"""What a reader must know below a table with such differences."""


class Verdict(NamedTuple):
    """How a measured accuracy stands to the published one."""

    word: str
    """above, below, not told apart, or not tested."""
    p: float | None


SIGNS = {"above": "▲", "below": "▼", "not told apart": "≈", "not tested": "?"}
"""A word's sign, so that nothing hangs on colour alone."""


def against_published(cell: Any) -> Verdict:
    """A row of report.main_table, whose spreads are population standard deviations, in points.

    Networks of one distillation seed share its outcome; so with several seeds the test is over
    the seeds' means.
    """
    n, spread = (cell.seeds, cell.seed_std) if cell.seeds > 1 else (cell.networks, cell.std)
    theirs = 0.0 if pd.isna(cell.published_std) else _sample(cell.published_std, PUBLISHED_NETWORKS)
    if n < 2 or not (spread > 0 or theirs > 0):
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
