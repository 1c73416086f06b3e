"""Reads a report's folder, reports/<profile>/: its tables, figures, records and distilled sets."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from atomlib.distilled_set import DistilledSet
from atomlib.errors import SettingError
from atomlib.report.records import by_recipe, data_label, is_whole, labels_of, lasts
from atomlib.runtime.files import DamagedError, read_record
from atomlib.runtime.layout import Layout

_AS_READ = {
    "data": lambda row: row["label"] + (", reduced" if row.get("reduced") is True else ""),
    "method": lambda row: by_recipe(row["method"], row.get("recipe", "text")),
    "IPC": lambda row: str(row["ipc"]),
    "variant": lambda row: str(row["variant"]),
    "settings": lambda row: str(row["settings"]),
    "iterations": lambda row: str(row["iterations"]),
}
"""Columns of a table for a reader that say which rows of the CSV one of its rows is of."""


@dataclass
class ReportFolder:
    """A profile's report: executed notebooks, tables, and the records of its runs."""

    name: str
    layout: Layout
    notebooks: dict[str, nbformat.NotebookNode]
    tables: dict[str, pd.DataFrame]
    """By name, every column, numbers as numbers."""
    markdown: dict[str, str]
    """By the same name, the table for a reader and the note below it."""
    records: dict[str, dict[str, Any]]
    """By name, those that are whole."""
    figures: list[str]
    """Names of files in figures/, without ending."""
    unreadable: list[str]
    """Records and sets that are damaged or were written by another version."""

    @classmethod
    def read(cls, folder: Path) -> "ReportFolder":
        """Raises SettingError where a notebook or a table is not one."""
        layout, records, unreadable = Layout(folder), {}, []
        for path in layout.records():
            try:
                record = {**read_record(path), "name": path.stem}
                if not is_whole(record):
                    raise DamagedError(f"{path} lacks some; allowed: what this version writes")
                records[path.stem] = record
            except DamagedError:
                unreadable.append(layout.within(path))
        tables = {path.stem: _csv(path) for path in layout.tables()}
        for table in tables.values():
            table.attrs["labels"] = labels_of(records.values())
        return cls(
            folder.name,
            layout,
            {path.stem: _notebook(path) for path in layout.notebooks()},
            tables,
            {name: _text(layout.table(name, "md")) for name in tables},
            records,
            [path.stem for path in layout.figures()],
            unreadable,
        )

    def sets(self) -> Iterable[DistilledSet]:
        """The distilled sets, one by one: together they may not fit into memory."""
        for path in self.layout.all_distilled():
            try:
                yield DistilledSet.load(path)
            except DamagedError:
                self.unreadable.append(self.layout.within(path))

    @property
    def evaluated(self) -> list[dict[str, Any]]:
        """Records with accuracies: a set may have been made and not evaluated."""
        return [r for r in self.records.values() if r.get("accuracies")]

    @property
    def main_records(self) -> list[dict[str, Any]]:
        """What a main table is of: each distillation's last iterate, without variants, evaluated
        with the ConvNet."""
        return [
            r
            for r in lasts(self.evaluated)
            if not r["variant"] and r["evaluate"]["model"] == "convnet"
        ]

    def note(self, name: str) -> str:
        """What stands below a table's Markdown: its data, settings and machine."""
        lines = self.markdown.get(name, "").splitlines()
        return " ".join(line for line in lines if line and not line.startswith("|"))

    def table_of(self, markdown: str) -> str | None:
        """The name of the table that a notebook shows as ``markdown``."""
        same = (n for n, text in self.markdown.items() if text.startswith(markdown.strip() + "\n"))
        return next(same, None)

    def runs(self, row: Mapping[str, Any]) -> list[str]:
        """Names of the records that a row of a CSV is of, where they are there."""
        return [name for name in str(row.get("runs", "")).split() if name in self.records]

    def runs_as_read(self, name: str, columns: list[str], cells: list[str]) -> list[str]:
        """The same for a row of a table for a reader, whose CSV is named ``name``."""
        shown = {c: cell for c, cell in zip(columns, cells, strict=True) if c in _AS_READ}
        if "data" not in shown:
            return []
        found: dict[str, None] = {}
        table = self.tables[name]
        for row in table.to_dict("records"):
            if "dataset" in row:
                row["label"] = data_label(table, row["dataset"])
            try:
                same = all(_AS_READ[c](row) == cell for c, cell in shown.items())
            except KeyError:  # a column that this CSV does not have
                continue
            if same:
                found |= dict.fromkeys(self.runs(row))
        return list(found)

    def figures_of(self, patterns: list[str], count: int, order: list[str]) -> list[str | None]:
        """Names of the ``count`` figures that a cell drew, in its order; None: not to be told.

        A pattern's figures are those of sets, which come in the order of load_folder, ``order``.
        """
        names: list[str] = []
        for pattern in patterns:
            found = [name for name in self.figures if fnmatch(name, pattern)]
            sets = {pattern.replace("*", name): place for place, name in enumerate(order)}
            if len(found) > 1 and all(name in sets for name in found):
                found.sort(key=sets.__getitem__)
            elif len(found) > 1:
                return [None] * count
            names += found
        return list(names) if len(names) == count else [None] * count


def _csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, dtype={"best_at": str, "runs": str, "variant": str})
    except (ValueError, OSError) as error:
        raise SettingError(
            f"{path} is no table ({_line(error)}); allowed: what write_table wrote"
        ) from None


def _notebook(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, 4)
    except Exception as error:  # nbformat has many
        raise SettingError(
            f"{path} is no notebook ({_line(error)}); allowed: an executed notebook"
        ) from None


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error))[:200]
