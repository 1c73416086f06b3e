"""Builds the reports as a static site: ``atomlib site``, into build/site/.

A front page; one page per notebook; for each profile a gallery and the list of its runs. The pages
need no server and no other host. Templates, style and script are in templates/.

    <out>/index.html                 the verdict, and of each profile the table, images and cost
    <out>/<profile>/<notebook>.html  beside its .ipynb, and the tables, figures, results and
                                     distilled sets of the report, copied
    <out>/<profile>/gallery.html, runs.html
    <out>/speed.html                 what `make bench` measured, its files in <out>/bench/
    <out>/api/<module>.html          the reference of the package's public names
    <out>/source/<module>.html       the modules of the method, and those that pages link to
"""

import argparse
import ast
import shutil
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from atomlib.datasets import known
from atomlib.errors import SettingError, check_choice
from atomlib.report.folder import ReportFolder
from atomlib.report.records import data_of, labels_of, plain
from atomlib.runtime.clone import root
from atomlib.runtime.files import atomic_folder
from atomlib.runtime.layout import Layout
from atomlib.site import about, api, contact_sheets, speed_page
from atomlib.site.notebook_page import code as highlighted
from atomlib.site.notebook_page import slug, title_of
from atomlib.site.report_pages import ReportPages, source_page
from atomlib.site.verdict import nearness, settings_in_words, verdict

PACKAGE = Path(__file__).parents[1]

MARKER = ".atomlib-site"
"""A file that says that a folder is a site, and may be replaced by the next."""


def build(
    profiles: list[str] | None = None,
    out: str | Path = "build/site",
    reports: str | Path = "reports",
    url: str = "",
) -> Path:
    """Write the site of some profiles, or of all that were run, into a folder, whole or not at all.

    ``url`` is where the site will be, for pages that show a link to it with its picture.

    Raises SettingError, before anything is written, for a profile that has no executed notebook
    or an ``out`` that holds something else.
    """
    reports, out = Path(reports), Path(out)
    there = Layout.all_within(reports)
    for name in profiles or ():
        check_choice("profile", name, there)
    if not there:
        raise SettingError(
            f"folder {reports} holds no report with notebooks; make one with: make reports"
        )
    folders = [ReportFolder.read(reports / name) for name in dict.fromkeys(profiles or there)]
    folders.sort(key=nearness, reverse=True)
    with atomic_folder(out, MARKER) as partial:
        _Site(partial, folders, reports / "bench", url).write()
    return out


class _Site:
    """All pages of one site, written into one folder."""

    def __init__(self, out: Path, reports: list[ReportFolder], bench: Path, url: str):
        self.out = out
        self.reports = reports
        self.bench = bench
        self.modules = dict.fromkeys(METHOD)
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters |= {"url": quote, "slug": slug, "plain": plain, **api.FILTERS}
        self.templates.globals |= {
            "data_of": data_of,
            "position": contact_sheets.position,
            "site": self._menus(),
            "speed": speed_page.PAGE if speed_page.readable(bench) else "",
            "made_by": f"atomlib {version('atomlib')}",
            "url": url and url.rstrip("/") + "/",
            "cite": about.citation(),
            "verdict": verdict(reports),
            "api_page": api.page_of,
            "source_page": lambda doc: source_page(api.source_of(doc)),
        }

    def write(self) -> None:
        pages = [ReportPages(self, report) for report in self.reports]
        for each in pages:
            each.write()
        shown = pages[0].menu["gallery"]
        sheets = [
            (self.out / pages[0].report.name / "images" / f"{sheet.name}.png", sheet)
            for _, sheet in (shown["rows"] if shown else ())
        ]
        about.preview(sheets, self.out / "preview.png")
        if picture := self._copy(about.CLONE / "notebooks" / "method.svg", "method.svg"):
            picture = (self.out / picture).read_text().split('aria-label="')[1].split('"')[0]
        own = {"title": "ATOM, rerun", "report": None, "method_picture": picture}
        self.page("index.html", "index.html", **own)
        if speed_page.readable(self.bench):
            speed_page.write(self, self.bench)
        firsts = {}
        sources = self._api()
        for module in dict.fromkeys([*self.modules, *sources]):
            source = (PACKAGE / f"{module}.py").read_text()
            if module in self.modules:
                firsts[module] = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0]
            self.page(
                "source.html", f"source/{source_page(module)}", title=f"atomlib/{module}.py",
                source=highlighted(source), report=None,
            )  # fmt: skip
        self.page("code.html", "source/index.html", title="Code", report=None, modules=firsts)
        for name in ("style.css", "page.js", "icon.svg"):
            self._copy(Path(__file__).parent / "templates" / name, name)
        self._copy(about.CLONE / "LICENSE", "LICENSE.txt")

    def _api(self) -> list[str]:
        """Write the reference; the modules whose source it leads to."""
        listed, homes = [], []
        for name, given in api.pages().items():
            self.page("api.html", api.page_of(name), title=name, report=None, **given)
            docs = [doc for doc, *_ in given["members"]]
            homes += map(api.source_of, docs)
            first = given["module"].docstring.split("\n")[0]
            listed.append((name, api.prose(first), docs))
        self.page(
            "api_index.html", "api/index.html", title="API reference", report=None, modules=listed
        )
        return homes

    def _copy(self, source: Path, name: str) -> str:
        """The name, or nothing where there is no such file: an installed package has no clone."""
        if not source.exists():
            return ""
        shutil.copyfile(source, self.out / name)
        return name

    def page(self, template: str, place: str, **given: Any) -> None:
        """Render one page; ``root`` leads from it to the front page's folder."""
        root = "../" * place.count("/")
        text = self.templates.get_template(template).render(root=root, here=place, **given)
        path = self.out / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _menus(self) -> list[dict[str, Any]]:
        """One a report; where two have a title in common, their profiles tell them apart."""
        menus = [self._menu(report) for report in self.reports]
        count = Counter(menu["title"] for menu in menus)
        for menu in menus:
            if count[menu["title"]] > 1:
                menu["title"] += f", {menu['name']}"
        return menus

    def _menu(self, report: ReportFolder) -> dict[str, Any]:
        """What every page says of a report; ``ReportPages`` adds the rest."""
        table = report.tables.get("main_table")
        table = report.tables.get("published_sets") if table is None else table
        names = [r["dataset"] for r in report.records.values()] if table is None else table.dataset
        labels = labels_of(report.records.values()) or {n: known.of(n, None).label for n in names}
        made = [r for r in report.main_records if r["dataset"] in set(names)]
        words = [" and ".join(labels.get(name, name) for name in dict.fromkeys(names))]
        words = words if report.records else ["Sets of other authors", *words]
        pages = [
            {"place": f"{report.name}/{name}.html", "number": name[:2], "title": title_of(notebook)}
            for name, notebook in report.notebooks.items()
        ]
        for page in pages:
            page["short"] = page["title"].split(":")[0] or page["place"]
        return {
            "name": report.name,
            "title": ", ".join(filter(None, [*words, settings_in_words(made)])),
            "notebooks": pages,
            "runs": bool(report.records),
            "needs": "" if report.records else " ATOM_SETS=folder",
        }


METHOD = (
    "attention", "augmentation", "preprocess", "methods/atom", "methods/datadam", "methods/dm",
    "methods/feature_matching", "models/convnet", "distill", "training", "evaluate", "recipes",
)  # fmt: skip
"""Modules to read the method in, in that order (docs/design.md)."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``atomlib site``."""
    parser.add_argument("--profiles", nargs="*", help="folders of reports/; all by default")
    parser.add_argument("--out", default="build/site", help="the folder to write")
    parser.add_argument("--url", default="", help="where it will be served, for link previews")


def run(given: argparse.Namespace) -> None:
    """Build the site, and say where it is."""
    here = Path("reports")
    reports = here if here.is_dir() else root() / here
    out = build(given.profiles, given.out, reports, url=given.url)
    print(f"site: {(out / 'index.html').absolute().as_uri()}")
