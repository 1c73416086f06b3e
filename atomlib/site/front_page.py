"""The site's front page: main table, curve, images and cost of each report."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas as pd

from atomlib import methods
from atomlib.report import findings
from atomlib.report.findings import SIGNS, against_published
from atomlib.report.folder import ReportFolder
from atomlib.report.published import published_text
from atomlib.report.records import by_recipe, data_label, points, tenths, with_spread
from atomlib.site import published_sets
from atomlib.site.gallery_page import first_images
from atomlib.site.notebook_page import slug

if TYPE_CHECKING:
    from atomlib.site.report_pages import ReportPages


def front(pages: "ReportPages") -> dict[str, Any]:
    """All of it, by the names that index.html uses; links lead from the front page's folder."""
    report = pages.report
    table = report.tables.get("main_table")
    known = set() if table is None else set(table.dataset)
    main = [r for r in report.main_records if r["dataset"] in known]
    drawn = {
        name: pages.figure(name, pages.root)
        for name in ("learning_curve", "main_table", "cost")
        if name in report.figures
    }
    found = findings.findings(main)
    example = max(main, key=lambda r: methods.place(r["method"]), default=None)
    return {
        "main_tables": _main_tables(pages),
        "published_sets": published_sets.rows(pages),
        "published_sets_note": report.note("published_sets"),
        "published_sets_links": pages.origin("published_sets", pages.root, ""),
        "gallery": first_images(pages, known),
        "beside": drawn.get("learning_curve") or drawn.get("main_table"),
        "cost": drawn.get("cost"),
        "example": report.layout.record(example["name"]).as_posix() if example else "",
        "note": report.note("main_table"),
        "tests": findings.as_table(found).to_dict("split") if found else None,
        "summary": _summary(report),
    }


def published_count(report: ReportFolder) -> int:
    """How many rows of the main table have a published counterpart."""
    table = report.tables.get("main_table")
    return 0 if table is None else int(table.published.notna().sum())


def _main_tables(pages: "ReportPages") -> list[dict[str, Any]]:
    """The main table of each data set: IPC across, published beside measured, tested."""
    report = pages.report
    table = report.tables.get("main_table")
    if table is None:
        return []
    return [
        _main_table(pages, dataset, part) for dataset, part in table.groupby("dataset", sort=False)
    ]


def _main_table(pages: "ReportPages", dataset: str, part: pd.DataFrame) -> dict[str, Any]:
    report = pages.report
    root, ipcs = pages.root, [i for i in part.ipc.unique() if str(i) != "whole"]
    compared = [i for i in ipcs if part[part.ipc.isin([i, "whole"])].published.notna().any()]
    rows = []
    for (method, recipe), cells in part.groupby(["method", "recipe"], sort=False):
        row: dict[str, Any] = {"label": by_recipe(method, recipe), "ipcs": []}
        row["whole"] = method == "whole"
        for ipc in ipcs:
            mine = [c for c in cells.itertuples() if c.ipc in (ipc, "whole")]
            row["ipcs"].append(_cell(report, mine[0], root) if mine else None)
        rows.append(row)
    # Of the methods, which is above all others; the ceiling is none.
    for column in range(len(ipcs)):
        found = [r["ipcs"][column] for r in rows if r["ipcs"][column] and not r["whole"]]
        if found:
            max(found, key=lambda cell: cell["mean"])["highest"] = True
    written = report.layout.table("main_table", "tex").exists()
    latex = [("LaTeX", f"{root}main_table.tex")] if written else []
    return {
        "id": f"main-{slug(report.name)}-{slug(dataset)}",
        "caption": f"{data_label(part, dataset)}{', reduced' if part.reduced.any() else ''}",
        "ipcs": [(ipc, ipc in compared) for ipc in ipcs],
        "rows": rows,
        "links": [
            *pages.origin("main_table", root, ""),
            *([("runs", f"{root}runs.html")] if pages.has_runs else []),
            ("CSV", f"{root}main_table.csv"),
            *latex,
        ],
    }


def _summary(report: ReportFolder) -> str:
    """How many measured figures stand where to the published ones."""
    table = report.tables.get("main_table")
    if table is None or not published_count(report):
        return ""
    cells = [cell for cell in table.itertuples() if not pd.isna(cell.published)]
    words = [against_published(cell).word for cell in cells]
    counts = [f"{words.count(word)} {word}" for word in SIGNS if word in words]
    reduced = (
        " The profile's settings are reduced against the paper's, so a difference tells of the "
        "profile, and not yet of the method."
        if table.reduced.any()
        else ""
    )
    compared = f"Of {len(cells)} measured figures that have a published counterpart"
    return f"{compared}, {', '.join(counts)}.{reduced}"


def _cell(report: ReportFolder, cell: Any, root: str) -> dict[str, Any]:
    one = cell.networks == cell.seeds
    text = {
        "mean": cell.mean,
        "measured": with_spread(cell.mean, cell.std, one),
        "one": one,
        "seeds": "" if pd.isna(cell.seed_std) else f"seeds ± {tenths(cell.seed_std)}",
        "best": tenths(cell.best) if cell.checkpoints > 1 else "",
        "runs": _run_links(report.runs(cell._asdict()), root),
        "published": None,
        "highest": False,
    }
    if not pd.isna(cell.published):
        note = cell._asdict().get("note", "")
        verdict = against_published(cell)
        text |= {
            "published": published_text(cell.published, cell.published_std, cell.checked, note),
            "published_key": cell.published,
            "source": cell.source,
            "difference": points(cell.difference).replace("-", "−"),
            "key": cell.difference,
            "word": verdict.word,
            "sign": SIGNS[verdict.word],
            "p": "" if verdict.p is None else _p(verdict.p),
        }
    return text


def _run_links(names: Iterable[str], root: str) -> list[tuple[str, str]]:
    return [(name, f"{root}runs.html#{quote(slug(name))}") for name in names]


def _p(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
