"""Builds the reports as a static site: ``atomlib site``, into build/site/.

A front page; one page per notebook; for each profile a gallery and the list of its runs. The pages
need no server and no other host. Templates, style and script are in atomlib/templates/.

    <out>/index.html                 the claim, and of each profile the table, grids and cost
    <out>/<profile>/<notebook>.html  beside its .ipynb, and the tables, figures, results and
                                     distilled sets of the report, copied
    <out>/<profile>/gallery.html, runs.html
    <out>/source/<module>.html       modules that notebooks link to
"""

import argparse
import shutil
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from atomlib.errors import SettingError, check_choice
from atomlib.report.folder import ReportFolder
from atomlib.report.records import data_of, labels_of, plain
from atomlib.runtime.files import atomic_folder
from atomlib.runtime.layout import Layout
from atomlib.site import contact_sheets
from atomlib.site.front_page import published_count
from atomlib.site.notebook_page import code, slug, title_of
from atomlib.site.report_pages import ReportPages, source_page

PACKAGE = Path(__file__).parents[1]

MARKER = ".atomlib-site"
"""A file that says that a folder is a site, and may be replaced by the next."""


def build(
    profiles: list[str] | None = None,
    out: str | Path = "build/site",
    reports: str | Path = "reports",
) -> Path:
    """Write the site of some profiles, or of all that were run, into a folder, whole or not at all.

    Raises SettingError, before anything is written, for a profile that has no executed notebook
    or an ``out`` that holds something else.
    """
    reports, out = Path(reports), Path(out)
    there = Layout.with_notebooks(reports)
    for name in profiles or ():
        check_choice("profile", name, there)
    if not there:
        raise SettingError(
            f"folder {reports} holds no report with notebooks; make one with: make reports"
        )
    folders = [ReportFolder.read(reports / name) for name in dict.fromkeys(profiles or there)]
    # Those that stand beside published figures first.
    folders.sort(key=lambda report: -published_count(report))
    with atomic_folder(out, MARKER) as partial:
        _Site(partial, folders).write()
    return out


class _Site:
    """All pages of one site, written into one folder."""

    def __init__(self, out: Path, reports: list[ReportFolder]):
        self.out = out
        self.reports = reports
        self.modules: dict[str, None] = {}
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters |= {"url": quote, "slug": slug, "plain": plain}
        self.templates.globals |= {
            "data_of": data_of,
            "position": contact_sheets.position,
            "site": self._menus(),
            "made_by": f"atomlib {version('atomlib')}",
        }

    def write(self) -> None:
        for report in self.reports:
            ReportPages(self, report).write()
        self.page("index.html", "index.html", title="ATOM, rerun", report=None)
        for module in self.modules:
            source = (PACKAGE / f"{module}.py").read_text()
            self.page(
                "source.html", f"source/{source_page(module)}", title=f"atomlib/{module}.py",
                source=code(source), report=None,
            )  # fmt: skip
        for name in ("style.css", "page.js"):
            shutil.copyfile(Path(__file__).parent / "templates" / name, self.out / name)

    def page(self, template: str, place: str, **about: Any) -> None:
        """Render one page; ``root`` leads from it to the front page's folder."""
        root = "../" * place.count("/")
        text = self.templates.get_template(template).render(root=root, here=place, **about)
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
        labels = labels_of(report.records.values())
        pages = [
            {"place": f"{report.name}/{name}.html", "number": name[:2], "title": title_of(notebook)}
            for name, notebook in report.notebooks.items()
        ]
        for page in pages:
            page["short"] = page["title"].split(":")[0] or page["place"]
        return {
            "name": report.name,
            "title": " and ".join(labels.get(name, name) for name in dict.fromkeys(names)),
            "notebooks": pages,
        }


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``atomlib site``."""
    parser.add_argument("--profiles", nargs="*", help="folders of reports/; all by default")
    parser.add_argument("--out", default="build/site", help="the folder to write")


def run(given: argparse.Namespace) -> None:
    """Build the site, and say where it is."""
    out = build(given.profiles, given.out)
    print(f"site: {(out / 'index.html').absolute().as_uri()}")
