"""The page on speed: reports/bench/README.md, and below it every table of `make bench`."""

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from atomlib.site.notebook_page import markdown, slug

if TYPE_CHECKING:
    from atomlib.site.build import _Site

PAGE = "speed.html"


def readable(bench: Path) -> bool:
    """Whether there is such a report."""
    return (bench / "README.md").is_file()


def write(site: "_Site", bench: Path) -> None:
    """Write the page, and copy the figures and tables that it shows."""
    text = _without_comments((bench / "README.md").read_text(encoding="utf-8"))
    tables = {path.relative_to(bench).as_posix(): path for path in sorted(bench.glob("*/*.md"))}

    def lead(url: str) -> str | None:
        """Where a link of that file, or its picture, leads on the site."""
        if re.match(r"https?://", url):
            return url
        if url in tables:
            return f"#{slug(url)}"
        return f"{bench.name}/{quote(url)}" if (bench / url).is_file() else None

    linked = [(name, path) for name, path in tables.items() if f"({name})" in text]
    sections = [
        {
            "id": slug(name),
            "title": path.stem.replace("_", " ").capitalize(),
            "text": markdown(path.read_text(encoding="utf-8"), lead),
            "csv": f"{bench.name}/{quote(name.removesuffix('.md'))}.csv",
        }
        for name, path in linked
    ]
    shutil.copytree(bench, site.out / bench.name, ignore=shutil.ignore_patterns(".*", "*.partial"))
    site.page(
        "speed.html", PAGE, title="Speed", report=None, text=markdown(text, lead), sections=sections
    )


def _without_comments(text: str) -> str:
    """Markdown without the marks between which a table was written."""
    return re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
