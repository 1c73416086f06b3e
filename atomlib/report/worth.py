"""What the change of one setting is worth: its accuracy minus that of the whole it was made in.

A *whole* is a recipe, or a method with disagreements of its own; records are named after it by
``named_by_recipe``: "text" is one, and "text+norm" a change of it.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from atomlib.report.findings import SIGNS, compare, welch
from atomlib.report.records import data_label, labels_of, points, tenths
from atomlib.report.tables import variant_table

SAME = ["dataset", "recipe", "method", "ipc", "seed"]
"""What a change has in common with its whole."""


def worth_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The columns of ``variant_table`` and what each variant is worth in points: wholes in the
    order of ``records``, each followed by its changes, the one that is worth most first.

    ``whole`` is what it is held against, of the same data, IPC and seed; ``worth_low`` and
    ``worth_high`` bound the 95 % interval of the difference of means (Welch); ``p`` and ``verdict``
    are of its test. Empty for a whole, for one that was not run, and where no test is made.
    """
    records = list(records)
    table = variant_table(records)
    table["whole"] = table.variant.str.split("+").str[0]
    keys = [(*row, variant) for *row, variant in table[[*SAME, "variant"]].itertuples(index=False)]
    at = dict(zip(keys, records, strict=True))
    found = [
        _worth(at[key], at[*key[:-1], whole])
        if key[-1] != whole and (*key[:-1], whole) in at
        else {}
        for key, whole in zip(keys, table.whole, strict=True)
    ]
    table[WORTH] = pd.DataFrame(found, columns=WORTH)
    order = table.groupby(["dataset", "ipc", "whole"], sort=False).ngroup()
    size = table.worth.abs().where(table.variant != table.whole, np.inf)
    table = table.iloc[np.lexsort((-size, order))].reset_index(drop=True)
    table.attrs["labels"] = labels_of(records)
    return table


WORTH = ["worth", "worth_low", "worth_high", "p", "verdict"]


def _worth(changed: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    found = compare(changed, whole)
    low = high = np.nan
    if found.verdict.p is not None:
        low, high = welch(changed["accuracies"], whole["accuracies"]).confidence_interval(0.95)
    return dict(
        zip(WORTH, (found.gap, low, high, found.verdict.p, found.verdict.word), strict=True)
    )


def readable_worth(table: pd.DataFrame) -> pd.DataFrame:
    """The same for a reader."""
    rows = []
    for cell in table.itertuples():
        told, tested = not pd.isna(cell.worth), not pd.isna(cell.worth_low)
        interval = f"{points(cell.worth_low)} to {points(cell.worth_high)}" if tested else "–"
        rows.append(
            {
                "data": data_label(table, cell.dataset) + (", reduced" if cell.reduced else ""),
                "IPC": cell.ipc,
                "variant": cell.variant,
                "accuracy, %": tenths(cell.mean),
                "worth, points": f"{points(cell.worth)} {SIGNS[cell.verdict]}" if told else "–",
                "95 % interval": interval,
                "networks": cell.networks,
            }
        )
    return pd.DataFrame(rows)


HOW = (
    "Worth: the accuracy minus that of the recipe, or the method, with nothing changed, in points; "
    "▲ above it, ▼ below, ≈ not told apart at p < 0.05, ? not tested (Welch's t-test over networks "
    "of one distillation, fewer than three, or networks at chance, not being tested). Nothing is "
    "corrected for the number of comparisons."
)
"""What a reader must know below such a table."""


def worth_sentences(table: pd.DataFrame) -> list[str]:
    """One sentence per whole: which changes are told apart from it, the largest first, and which
    are not."""
    sentences = []
    for (dataset, ipc, whole), part in table.groupby(["dataset", "ipc", "whole"], sort=False):
        told: dict[str, list[str]] = {"worth": [], "not told apart": [], "not tested": []}
        for row in part.dropna(subset="worth").itertuples():
            name = row.variant.removeprefix(f"{whole}+")
            if row.verdict in told:
                told[row.verdict].append(name)
            else:
                told["worth"].append(f"{name} {points(row.worth)}")
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in told.items() if names)
        if said:
            sentences.append(f"{data_label(table, dataset)}, IPC {ipc}, from {whole}: {said}.")
    return sentences
