"""The published figures, each with its source, and how they are written for a reader.

One CSV file per table: the main table's accuracies, and the cross-architecture, cost and search
tables of ATOM's predecessors, since ATOM's own could not be read. docs/facts.md, 'Published
figures', says what was compared with which text, and what is doubtful.
"""

from importlib.resources import files
from typing import Any

import pandas as pd

from atomlib.errors import check_choice
from atomlib.report.records import label, tenths

TABLES = ("main_table", "cross_architecture", "cost", "nas")

NOT_OURS = ("ftd", "ncfm")
"""Methods of these tables that the package does not have."""

RECALLED = "†"
DOUBTFUL = "‡"
SIGNS = {
    RECALLED: "† Published figure recalled, not found in a source that could be read.",
    DOUBTFUL: "‡ Published figure that can hardly be right as printed: see the CSV's column note.",
}
"""Signs of published figures, explained below each table that has them."""


def published(table: str = "main_table") -> pd.DataFrame:
    """The published figures of one of TABLES, one per row.

    Each names its ``source``; ``checked`` says whether it was seen there, ``note`` what is to be
    said of it. The main table's columns are dataset, ipc, method, accuracy and std, in percent.
    Raises SettingError for a table that there is none of.
    """
    check_choice("table", table, TABLES)
    with (files("atomlib.report") / "published" / f"{table}.csv").open() as file:
        found = pd.read_csv(file, dtype={"ipc": str, "note": str})
    return found.assign(checked=found.checked == "yes")


def published_text(value: float, std: float, checked: bool, note: object = "") -> str:
    """A published figure in percent with its spread, where there is one, and its sign."""
    if pd.isna(value):
        return "–"
    spread = "" if pd.isna(std) else f" ± {tenths(std)}"
    sign = "" if checked else RECALLED
    if str(note).startswith("doubtful"):
        sign += DOUBTFUL
    return f"{tenths(value)}{spread}{sign}"


def explained(text: str) -> str:
    """What the signs in a text mean, each in one sentence."""
    return " ".join(meaning for sign, meaning in SIGNS.items() if sign in text)


def readable_published(name: str) -> pd.DataFrame:
    """The published cross-architecture, cost or search table for a reader.

    Raises SettingError for another.
    """
    check_choice("table", name, TABLES[1:])
    write = {"cross_architecture": _transfer, "cost": _cost, "nas": _nas}[name]
    table = published(name)
    first = "trained on" if name == "nas" else "method"
    rows = []
    for (method, source), part in table.groupby(["method", "source"], sort=False):
        row = {first: label(method.upper() if method in NOT_OURS else method)}
        for cell in part.itertuples():
            row |= write(cell)
        rows.append(row | {"source": source})
    shown = pd.DataFrame(rows).fillna("–")
    return shown[[*shown.columns.drop("source"), "source"]]


def _transfer(cell: Any) -> dict[str, str]:
    return {label(cell.network): published_text(cell.accuracy, cell.std, cell.checked, cell.note)}


def _cost(cell: Any) -> dict[str, str]:
    missing = pd.isna(cell.seconds)
    return {
        f"IPC {cell.ipc}, s / iteration": cell.note if missing else f"{cell.seconds:.2f}",
        f"IPC {cell.ipc}, GB": "–" if missing else f"{cell.megabytes / 1e3:.2f}",
    }


def _nas(cell: Any) -> dict[str, str]:
    row = {f"Spearman, {cell.space}": f"{cell.correlation:.2f}"}
    row[f"search, {cell.space}, min"] = f"{cell.minutes:,.0f}"
    if not pd.isna(cell.accuracy):
        row["trained on all, %"] = tenths(cell.accuracy)
    return row
