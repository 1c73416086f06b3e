"""The HTML pages of one report: its notebooks, gallery and runs."""

import re
import shutil
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pandas as pd

from atomlib import methods
from atomlib.report.folder import ReportFolder
from atomlib.report.records import changes, is_reduced, label
from atomlib.report.writing import to_latex
from atomlib.runtime.layout import FIGURE_KINDS, Layout
from atomlib.site import contact_sheets, gallery_page
from atomlib.site.front_page import front
from atomlib.site.gallery_page import accuracy_text, words
from atomlib.site.notebook_page import Part, Table, parts, slug

PACKAGE = Path(__file__).parents[1]

FIGURES = {
    "ablation": "The seven combinations of ATOM's terms: means over networks, bars their 95 % "
    "t-intervals; the dashed line is ATOM with all three.",
    "attention": "Start images, and below each the spatial attention that a network pays to it.",
    "candidates": "What each candidate is worth beside the recipe as it is, the dashed line, on "
    "held-out images; bars are 95 % intervals over networks.",
    "cost": "Seconds per iteration: the median of the repeats, the arithmetic bound across each "
    "bar; and peak memory, measured once.",
    "cross_architecture": "Accuracy by network and method: a dot per network trained, a bar their "
    "mean; the dashed line is chance.",
    "disagreements": "One setting changed at a time: what it is worth, or the accuracies; bars are "
    "95 % intervals over networks, the dashed lines the unchanged settings.",
    "learning_curve": "Accuracy with its 95 % t-interval over iterations; a star is the best "
    "checkpoint, chosen on the test set, a dot the last iterate. Below, the matching losses: each "
    "panel has a y axis of its own, since methods' losses are of different terms.",
    "loss": "Matching loss over iterations, one line per distilled set. Each panel has a y axis of "
    "its own, since methods' losses are of different terms.",
    "main_table": "Every network's accuracy as a dot, the published mean as a bar across with its "
    "±. All panels have one x axis.",
    "nas": "Rank on each proxy against rank when trained on the full data, a dot per network; the "
    "star is the one that the proxy chose.",
    "power": "Accuracy by spatial and channel power of attention.",
    "quickstart_atom": "What ATOM makes of the start images.",
    "quickstart_loss": "Matching loss over the iterations of ATOM.",
    "quickstart_start": "The real images that the distillation starts from.",
}
"""What each figure shows."""


def sort_key(text: str) -> float | None:
    """The number that a cell begins with, by which its column is sorted; None: it has none."""
    number = re.match(r"[-+−]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?", text.strip(), re.IGNORECASE)
    return float(number[0].replace(",", "").replace("−", "-")) if number else None


def natural(name: str) -> list[tuple[bool, int, str]]:
    """By which names sort as a reader counts: it50 before it100."""
    parts = re.findall(r"\d+|\D+", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def source_page(module: str) -> str:
    """The page of a module, "runs/grid", in the folder source/."""
    return f"{module.replace('/', '.')}.html"


class ReportPages:
    """The pages of one report."""

    def __init__(self, site: Any, report: ReportFolder):
        self.site = site
        self.report = report
        self.out = site.out / report.name
        self.root = f"{quote(report.name)}/"
        """What leads from the front page to the report's pages."""
        (self.menu,) = (m for m in site.templates.globals["site"] if m["name"] == report.name)
        self.made_in: dict[str, str] = {}
        """Where a table or figure was made: its place on a notebook's page, by file's name."""

    def write(self) -> None:
        unfinished = self.report.layout.unfinished.name
        shutil.copytree(
            self.report.layout.folder,
            self.out,
            ignore=shutil.ignore_patterns(".*", unfinished, "*.lock", "*.partial"),
        )
        sheets = [
            contact_sheets.draw(made, self.out / "images" / f"{made.stem}.png")
            for made in self.report.sets()
        ]
        self.runs = contact_sheets.trajectories(sheets)
        order = sorted(
            (s for s in sheets if not s.variant),
            key=lambda s: (s.dataset, methods.place(s.method), s.ipc, s.seed),
        )
        self.order = [sheet.name for sheet in order]
        self.sheets = {sheet.name: sheet for sheet in sheets}
        self.shown_at = {sheet.name: slug(run[-1].name) for run in self.runs for sheet in run}
        for number, name in enumerate(self.report.notebooks):
            self._notebook(name, number)
        if self.has_runs:
            gallery_page.write(self)
            self._runs()
        self.menu |= front(self)
        if self.report.unreadable:
            count, first = len(self.report.unreadable), self.report.unreadable[0]
            print(
                f"{self.report.layout.folder}: {count} files are damaged or of another version, "
                f"and left out: {first}{' and others' if count > 1 else ''}",
                file=sys.stderr,
            )

    @property
    def has_runs(self) -> bool:
        """Whether there is a page of runs: not where sets of other authors are judged."""
        return bool(self.report.records or self.report.unreadable)

    def page(self, template: str, place: str, **about: Any) -> None:
        self.site.page(template, f"{self.report.name}/{place}", report=self.menu, **about)

    # Notebooks

    def _notebook(self, name: str, number: int) -> None:
        notebook = self.report.notebooks[name]
        shown = parts(notebook, self._lead)
        boxes, tables, pictures = [], 0, self._pictures(name, shown)
        for part in shown:
            box: dict[str, Any] = {"part": part}
            if part.kind == "table":
                tables += 1
                box["table"] = self._table(name, part, tables)
            elif part.kind == "picture":
                box["figure"] = pictures.pop(0)
            boxes.append(box)
        pages = self.menu["notebooks"]
        heading, answer, boxes = _answer_first(boxes)
        self.page(
            "notebook.html", f"{name}.html", title=pages[number]["title"] or name, name=name,
            heading=heading, answer=answer, boxes=boxes,
            before=pages[number - 1] if number else None,
            after=pages[number + 1] if number + 1 < len(pages) else None,
        )  # fmt: skip

    def _lead(self, url: str) -> str | None:
        """Where a link of a notebook, which rests in notebooks/, leads on the site."""
        if re.match(r"https?://", url):
            return url
        path = unquote(urlsplit(url).path)
        module = re.fullmatch(r"\.\./atomlib/([\w/]+)\.py", path)
        if module and (PACKAGE / f"{module[1]}.py").exists():
            self.site.modules[module[1]] = None
            return f"../source/{source_page(module[1])}"
        notebook = re.fullmatch(r"(?:\./)?([^/]+)\.ipynb", path)
        if notebook and notebook[1] in self.report.notebooks:
            return f"{quote(notebook[1])}.html"
        return None

    def _pictures(self, notebook: str, shown: list[Part]) -> list[dict[str, Any]]:
        """Of each picture on a notebook's page, its figure: the report's file, or else its own."""
        boxes = []
        pictures = [part for part in shown if part.kind == "picture"]
        for cell in dict.fromkeys(part.cell for part in pictures):
            drawn = [part for part in pictures if part.cell == cell]
            names = self.report.figures_of(drawn[0].names, len(drawn), self.order)
            for number, (part, name) in enumerate(zip(drawn, names, strict=True), 1):
                if name is None:
                    name = f"{notebook}-{len(boxes) + 1}"
                    path = self.out / "images" / f"{name}.{part.text}"
                    path.parent.mkdir(exist_ok=True)
                    path.write_bytes(part.data)
                    place = f"images/{quote(path.name)}"
                    alt = _said_before(part, shown)
                    if len(drawn) > 1:
                        alt = f"Picture {number} of {len(drawn)}: {alt}"
                    box = {"id": slug(name), "source": place, "caption": "", "alt": alt}
                    boxes.append(box | {"links": [("figure", place)]})
                else:
                    self.made_in.setdefault(name, f"{quote(notebook)}.html#{quote(slug(name))}")
                    boxes.append(self.figure(name, "", notebook))
        return boxes

    def figure(self, name: str, root: str, notebook: str = "") -> dict[str, Any]:
        """A figure of the report with its caption; ``root`` leads to the report's pages.

        The vector is shown where there is one, and all forms are offered.
        """
        layout, links = self.report.layout, self.origin(name, root, notebook)
        stem = name.removeprefix("gallery_")
        caption = FIGURES.get(name, name.replace("_", " "))
        if name == "cost" and "step_low_s" in self.report.tables.get(name, ()):
            caption += " Whiskers: the fastest and the slowest repeat."
        if name.startswith("gallery_") and stem in self.sheets:
            caption = f"{words(self.sheets[stem])}, one row per class."
            links.append(("one by one", f"{root}gallery.html#{quote(self.shown_at[stem])}"))
            if stem in self.report.records:
                links.append(("run", f"{root}runs.html#{quote(slug(stem))}"))
            links.append(("images as data", root + _link(layout, layout.distilled(stem))))
        elif self.has_runs and name.endswith("loss"):
            links.append(("runs, and their losses as CSV", f"{root}runs.html"))
        elif self.has_runs and "networks" in self.report.tables.get(name, ()):
            links.append(("runs", f"{root}runs.html"))
        for kind, shown in (("csv", "CSV"), ("tex", "LaTeX")):
            if layout.table(name, kind).exists():
                links.append((shown, root + _link(layout, layout.table(name, kind))))
        kinds = [kind for kind in FIGURE_KINDS if layout.figure(name, kind).exists()]
        of_kind = {kind: root + _link(layout, layout.figure(name, kind)) for kind in kinds}
        links += [(kind.upper(), place) for kind, place in of_kind.items()]
        shown = "svg" if "svg" in kinds else "png"
        return {
            "id": slug(f"{root}{name}"),
            "source": root + _link(layout, layout.figure(name, shown)),
            "caption": caption,
            "alt": caption,
            "links": links,
        }

    def origin(self, name: str, root: str, notebook: str) -> list[tuple[str, str]]:
        """Links to the notebook that made a table or figure, and to what it was run with."""
        if notebook:
            return [("parameters", "#parameters")]
        if name not in self.made_in:
            return []
        page = self.made_in[name]
        return [
            ("notebook", f"{root}{page}"),
            ("parameters", f"{root}{page.split('#')[0]}#parameters"),
        ]

    def _table(self, notebook: str, part: Part, number: int) -> dict[str, Any]:
        """A table on a notebook's page: the report's file where there is one, or else its own."""
        name = self.report.table_of(part.text) if part.text else None
        links = self.origin("", "", notebook)
        if name:
            self.made_in[name] = f"{quote(notebook)}.html#table-{quote(slug(name))}"
            runs = [
                self.report.runs_as_read(name, part.table.columns, row) for row in part.table.rows
            ]
        else:
            name, runs = f"{notebook}-table-{number}", []
            frame = pd.DataFrame(part.table.rows, columns=part.table.columns)
            frame.to_csv(self.out / f"{name}.csv", index=False)
            (self.out / f"{name}.tex").write_text(to_latex(frame))
        of_runs = "data" in part.table.columns and "how" not in part.table.columns
        if self.has_runs and of_runs:
            links.append(("runs", "runs.html"))
        links += [
            (shown, f"{quote(name)}.{kind}")
            for kind, shown in (("csv", "CSV"), ("tex", "LaTeX"))
            if (self.out / f"{name}.{kind}").exists()
        ]
        shown, caption = _without_data(part.table)
        return _box(f"table-{slug(name)}", shown, runs, links) | {"caption": caption}

    # The runs

    def _runs(self) -> None:
        rows, entries = [], []
        for name, record in sorted(self.report.records.items(), key=lambda item: natural(item[0])):
            sheet = self.sheets.get(name)
            accuracies = record.get("accuracies") or []
            seconds = sum(record.get(k, {}).get("seconds", 0) for k in _STAGES)
            network = record.get("evaluate", {}).get("model", "")
            rows.append(
                [
                    name,
                    accuracy_text(accuracies) or "–",
                    label(record["method"]),
                    str(record["ipc"]),
                    record.get("variant", ""),
                    label(network),
                    f"{seconds:,.0f}",
                ]
            )
            if sheet and sheet.history:
                self._history(sheet)
            entries.append(
                {
                    "name": name,
                    "record": record,
                    "accuracies": accuracies,
                    "mean": accuracy_text(accuracies),
                    "changes": changes(record) if "evaluate" in record else {},
                    "reduced": "evaluate" in record and is_reduced(record),
                    "stages": {
                        words: record[key] for key, words in _STAGES.items() if key in record
                    },
                    "sheet": sheet,
                    "shown_at": self.shown_at.get(name, ""),
                }
            )
        columns = ["run", "accuracy, %", "method", "IPC", "variant", "network", "seconds"]
        links = [("CSV", "runs.csv"), ("LaTeX", "runs.tex")]
        frame = pd.DataFrame(rows, columns=columns)
        frame.to_csv(self.out / "runs.csv", index=False)
        (self.out / "runs.tex").write_text(to_latex(frame))
        box = _box("runs", Table(columns, rows), [], links)
        for row in box["rows"]:
            row[0]["href"] = f"#{quote(slug(row[0]['text']))}"
        self.page(
            "runs.html", "runs.html", title="Runs", box=box, entries=entries,
            unreadable=self.report.unreadable,
        )  # fmt: skip

    def _history(self, sheet: contact_sheets.Sheet) -> None:
        path = self.out / "losses" / f"{sheet.name}.csv"
        path.parent.mkdir(exist_ok=True)
        pd.DataFrame(sheet.history, columns=["iteration", "loss"]).to_csv(path, index=False)


ANSWERS = r"<h2[^>]*>(What it shows|How far from what is claimed)"
"""Headings of what a notebook has found."""


def _answer_first(boxes: list[dict[str, Any]]) -> tuple[str, list[dict], list[dict]]:
    """A notebook's first heading, what it has found, and all the rest in order."""
    first, heading = boxes[0]["part"] if boxes else None, ""
    if first and "</h1>" in first.html:
        heading, end, text = first.html.partition("</h1>")
        heading += end
        boxes = [{"part": replace(first, html=text)}, *boxes[1:]]
    section, answer, rest = "", [], []
    for box in boxes:
        if box["part"].kind == "text" and "<h2" in box["part"].html:
            section = box["part"].html
        found = re.match(ANSWERS, section) and box["part"].kind in ("text", "table", "picture")
        (answer if found else rest).append(box)
    return heading, answer, rest


def _said_before(picture: Part, shown: list[Part]) -> str:
    """The last paragraph or heading before a picture of a notebook, as plain text."""
    texts = [part.html for part in shown[: shown.index(picture)] if part.kind == "text"]
    found = re.findall(r"<(p|h\d)\b[^>]*>(.*?)</\1>", "".join(texts), re.DOTALL)
    words = unescape(re.sub(r"<[^>]*>", "", found[-1][1])) if found else ""
    return " ".join(words.split()).removesuffix(":") or "a figure"


_STAGES = {"distillation": "distilled", "evaluation": "evaluated"}


def _link(layout: Layout, path: Path) -> str:
    return quote(layout.within(path))


def _box(
    anchor: str, table: Table, runs: list[list[str]], links: list[tuple[str, str]]
) -> dict[str, Any]:
    """A sortable table: cells with the numbers they are sorted by, and rows with their runs."""
    rows = [[{"text": cell, "href": "", "key": None} for cell in row] for row in table.rows]
    for place in range(len(table.columns)):
        cells = [row[place] for row in rows]
        keys = [sort_key(cell["text"]) for cell in cells]
        told = [key for key, cell in zip(keys, cells, strict=True) if cell["text"] not in ("", "–")]
        if told and None not in told:
            for cell, key in zip(cells, keys, strict=True):
                cell["key"] = key
    return {
        "id": anchor,
        "caption": "",
        "columns": table.columns,
        "numeric": [
            any(row[place]["key"] is not None for row in rows)
            for place in range(len(table.columns))
        ],
        "rows": rows,
        "runs": runs if any(runs) else [],
        "links": links,
    }


def _without_data(table: Table) -> tuple[Table, str]:
    """A table whose rows are all of one data set, without the column that says so; and it."""
    named = {row[0] for row in table.rows}
    if table.columns[0] != "data" or len(named) != 1:
        return table, ""
    return Table(table.columns[1:], [row[1:] for row in table.rows]), named.pop()
