"""How well a proxy set ranks candidates: Spearman's correlation with training on the full data.

Source: supplement, 1.4; docs/facts.md, 'NAS protocol'.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

from atomlib.errors import SettingError, check_choice, shown
from atomlib.nas.space import search_space


def check_tops(tops: Sequence[int]) -> None:
    """Raise SettingError unless each is a number of candidates that a correlation can be of."""
    for top in tops:
        if type(top) is not int or top < 2:
            raise SettingError(f"tops is {shown(tops)}; allowed: numbers of candidates, 2 or more")


def rank_table(
    results: Mapping[str, pd.DataFrame],
    storage: Mapping[str, int],
    reference: str = "whole",
    tops: Sequence[int] = (5, 10, 20),
) -> pd.DataFrame:
    """How well each proxy ranks, one row each, from the frames of ``evaluate_candidates``.

    correlation: Spearman's, between validation accuracies under the proxy and test accuracies
    under the reference, over all candidates. top5, top10, ...: the same over the proxy's own 5,
    10, ... best by validation. It is NaN where there are fewer candidates, or where one side is
    constant; equal accuracies share their mean rank. low and high: the 95 % interval of the first,
    bootstrapped over candidates. The reference's own row is of one training: validation against
    test.

    seconds: those of all candidates together: machine time, not time waited. images: what has
    to be stored. chosen: the candidate of the highest validation accuracy, the first in the
    search space of several. accuracy: its test accuracy when trained on the reference. best and
    best_accuracy: the highest that there is on the reference.
    """
    check_tops(tops)
    check_choice("reference", reference, results)
    for name in results:
        check_choice("proxy in results", name, storage)
    place = {candidate.name: index for index, candidate in enumerate(search_space())}
    frames = {
        name: frame.sort_values("name", key=lambda names: names.map(place)).reset_index(drop=True)
        for name, frame in results.items()
    }
    truth = frames[reference]
    for name, frame in frames.items():
        if list(frame["name"]) != list(truth["name"]):
            raise SettingError(
                f"results of {name!r} are of other candidates than those of {reference!r}; "
                "allowed: the same candidates in all of them"
            )
    best = truth["test"].idxmax()
    rows = []
    for name, frame in frames.items():
        ranked = frame["validation"].sort_values(ascending=False, kind="stable")
        chosen = ranked.index[0]
        rows.append(
            {
                "proxy": name,
                "correlation": _spearman(ranked, truth["test"]),
                **dict(zip(("low", "high"), _interval(ranked, truth["test"]), strict=True)),
                **{f"top{k}": _spearman(ranked.head(k), truth["test"], least=k) for k in tops},
                "seconds": frame["seconds"].sum(),
                "images": storage[name],
                "chosen": frame["name"][chosen],
                "accuracy": truth["test"][chosen],
                "best": truth["name"][best],
                "best_accuracy": truth["test"][best],
            }
        )
    return pd.DataFrame(rows)


def _spearman(ranked: pd.Series, truth: pd.Series, least: int = 2) -> float:
    truth = truth[ranked.index]
    if len(ranked) < least or ranked.nunique() < 2 or truth.nunique() < 2:
        return float("nan")
    return float(spearmanr(ranked, truth).statistic)


def _interval(ranked: pd.Series, truth: pd.Series, draws: int = 1000) -> np.ndarray:
    """2.5 and 97.5 percent of Spearman's correlation over candidates drawn with replacement."""
    rows = np.random.default_rng(0).integers(len(ranked), size=(draws, len(ranked)))
    ranks = [
        rankdata(values[rows], axis=1)
        for values in (ranked.to_numpy(), truth[ranked.index].to_numpy())
    ]
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    whole = spread > 0  # a draw of equal values has no correlation
    if not whole.any():
        return np.full(2, np.nan)
    return np.percentile((a * b).sum(axis=1)[whole] / spread[whole], [2.5, 97.5])
