"""The images of a report: its gallery, the rows of the front page."""

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from atomlib import methods
from atomlib.datasets import known
from atomlib.report.records import by_recipe, with_spread
from atomlib.site import contact_sheets

if TYPE_CHECKING:
    from atomlib.site.report_pages import ReportPages


def write(pages: "ReportPages") -> None:
    """The gallery of a report: sets by IPC, then those of other seeds and variants."""
    first = min((s.seed for run in pages.runs for s in run), default=0)
    shown = [run for run in pages.runs if not run[-1].variant and run[-1].seed == first]
    folded = [run for run in pages.runs if run not in shown]
    groups: dict[str, list] = {}
    for run in shown:
        last = run[-1]
        key = f"{known.of(last.dataset, last.fingerprint).label}, {_per_class(last.ipc)}"
        told = _trajectory(pages, run) | {"heading": by_recipe(last.method, last.recipe)}
        groups.setdefault(key, []).append(told)
    pages.page(
        "gallery.html", "gallery.html", title="Gallery", groups=groups,
        folded=[_trajectory(pages, run) for run in folded],
        moving=sum(len(run) > 1 for run in pages.runs),
    )  # fmt: skip


def first_images(pages: "ReportPages", datasets: set[str]) -> dict[str, Any] | None:
    """Of each method at the smallest IPC, the first image of each class, as rows; None: no set.

    ``datasets`` are those of the main table.
    """
    runs = [r for r in pages.runs if not r[-1].variant and r[-1].dataset in datasets]
    if not runs:
        return None
    first = min(runs, key=lambda run: (run[-1].ipc, run[-1].seed))[-1]
    same = (first.dataset, first.ipc, first.seed)
    rows = [r[-1] for r in runs if (r[-1].dataset, r[-1].ipc, r[-1].seed) == same]
    rows.sort(key=lambda sheet: (methods.place(sheet.method), sheet.recipe != "text"))
    return {
        "classes": first.classes,
        "per_class": _per_class(first.ipc),
        "rows": [(by_recipe(sheet.method, sheet.recipe), sheet) for sheet in rows],
    }


def _trajectory(pages: "ReportPages", run: list[contact_sheets.Sheet]) -> dict[str, Any]:
    steps = []
    for sheet in run:
        record = pages.report.records.get(sheet.name, {})
        steps.append(
            {
                "iteration": sheet.iterations,
                "sheet": f"images/{quote(sheet.name)}.png",
                "accuracy": accuracy_text(record.get("accuracies")),
            }
        )
    last = run[-1]
    return {
        "sheet": last,
        "words": words(last),
        "heading": words(last),
        "steps": steps,
        "has_record": last.name in pages.report.records,
    }


def words(sheet: contact_sheets.Sheet) -> str:
    data = known.of(sheet.dataset, sheet.fingerprint).label
    parts = [by_recipe(sheet.method, sheet.recipe), data, f"IPC {sheet.ipc}"]
    parts += [sheet.variant] if sheet.variant else []
    parts += [f"seed {sheet.seed}"] if sheet.seed else []
    return ", ".join(parts)


def _per_class(ipc: int) -> str:
    return "one image per class" if ipc == 1 else f"{ipc} images per class"


def accuracy_text(accuracies: list[float] | None) -> str:
    if not accuracies:
        return ""
    return with_spread(np.mean(accuracies), np.std(accuracies), len(accuracies) == 1)
