"""The table of published sets on the front page, a thumbnail in each row."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from atomlib.report import published_sets

if TYPE_CHECKING:
    from atomlib.site.report_pages import ReportPages


def rows(pages: "ReportPages") -> list[dict[str, Any]]:
    """A row for each set of a report, as index.html uses it; none where none was judged."""
    report = pages.report
    table = report.tables.get("published_sets")
    if table is None:
        return []
    shown = published_sets.readable(table)
    found = []
    for (_, cells), (_, values) in zip(shown.iterrows(), table.iterrows(), strict=True):
        picture = report.layout.judged.thumbnail(published_sets.stem(values["set"]))
        thumbnail = quote(report.layout.within(picture)) if picture.exists() else ""
        found.append(
            {
                "thumbnail": thumbnail and f"{pages.root}{thumbnail}",
                "alt": f"The first image of each class of {values['set']}",
                "cells": {name: str(cell) for name, cell in cells.items()},
            }
        )
    return found
