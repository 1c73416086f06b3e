"""Settings that were chosen on held-out images, and what they give on the test images.

Records are named by ``named_by_recipe``: "code" is the recipe as it is, "code+image_lr.3" a
candidate.
"""

from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from atomlib.report import readable
from atomlib.report.findings import SIGNS, against_published, beside_published, compare
from atomlib.report.published import published_text
from atomlib.report.records import labels_of, points, tenths
from atomlib.report.tables import main_table
from atomlib.report.worth import worth_table


def ranked(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """``worth_table``, the highest accuracy first."""
    table = worth_table(records)
    return table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def chosen(table: pd.DataFrame) -> str:
    """The candidate of the highest mean in ``ranked``: "" is the recipe as it is."""
    first = table.iloc[0]
    return "" if first.variant == first.whole else first.variant.removeprefix(f"{first.whole}+")


def confirmed(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The columns of ``main_table``, a row for each of the ``settings`` over all its seeds."""
    records = list(records)
    names = dict.fromkeys(r["variant"] for r in records)
    parts = [
        main_table([r for r in records if r["variant"] == name]).assign(settings=name)
        for name in names
    ]
    table = pd.concat(parts, ignore_index=True)
    table.attrs["labels"] = labels_of(records)
    return table


def readable_confirmed(table: pd.DataFrame) -> pd.DataFrame:
    """The same for a reader."""
    return _by_settings(table, readable.main)


def readable_tests(table: pd.DataFrame) -> pd.DataFrame:
    """``findings.beside_published`` of each of the ``settings``."""
    if table.published.isna().all():
        return beside_published(table)
    return _by_settings(table, beside_published)


def _by_settings(table: pd.DataFrame, read: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    rows = []
    for name, part in table.groupby("settings", sort=False):
        part.attrs = table.attrs
        rows.append(read(part).rename(columns={"method": "settings"}))
        rows[-1]["settings"] = name
    return pd.concat(rows, ignore_index=True)


def sentences(table: pd.DataFrame, records: Iterable[dict[str, Any]], asked: int) -> list[str]:
    """What came first in ``ranked``, and how ``records`` of it on the test images stand to the
    recipe's and to the published figure. Of the candidates ``asked`` some may not be made yet."""
    records = list(records)
    first, count = table.iloc[0], (table.variant != table.whole).sum()
    if first.variant == first.whole:
        said = [f"On held-out images no candidate of {count} comes before {first.whole}."]
    else:
        compared = isinstance(first.verdict, str)
        worth = f"{points(first.worth)} {SIGNS[first.verdict]}" if compared else "not compared"
        said = [
            f"On held-out images {first.variant} comes first of {count} candidates: "
            f"{tenths(first['mean'])}, against {first.whole} {worth} (not corrected for having "
            "been chosen)."
        ]
    if missing := asked - count:
        said.append(f"Candidates not made yet: {missing}. The choice may change with them.")
    for row in confirmed(records).itertuples():
        text = f"On the test images {row.settings} reaches {tenths(row.mean)}"
        if pd.isna(row.published):
            said.append(f"{text}; no figure is published.")
            continue
        theirs = published_text(row.published, row.published_std, row.checked, row.note)
        word = against_published(row).word
        said.append(f"{text}; published {theirs}: {points(row.difference)} {SIGNS[word]}.")
    recipes = {r["seed"]: r for r in records if r["variant"] == first.whole}
    return said + [
        str(compare(r, recipes[r["seed"]], f"Test images, seed {r['seed']}"))
        for r in records
        if r["variant"] != first.whole and r["seed"] in recipes
    ]
