"""What the site says of the package: how to cite it, its licence, its preview picture."""

from collections.abc import Sequence
from importlib.metadata import metadata
from pathlib import Path

import yaml
from PIL import Image

CLONE = Path(__file__).parents[2]

PREVIEW = 1200, 630
"""Pixels, as pages that show a link ask for."""


def citation() -> dict[str, str]:
    """The paper as BibTeX and the package's licence, from CITATION.cff; empty where it is not."""
    path = CLONE / "CITATION.cff"
    if not path.exists():
        return {}
    about = yaml.safe_load(path.read_text())
    paper = about["preferred-citation"]
    authors = " and ".join(f"{a['family-names']}, {a['given-names']}" for a in paper["authors"])
    fields = {
        "title": paper["title"],
        "author": authors,
        "booktitle": paper["collection-title"],
        "year": paper["year"],
        "note": ", ".join(each["value"] for each in paper["identifiers"]),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    key = f"{paper['authors'][0]['family-names'].lower()}{paper['year']}"
    bibtex = "\n".join([f"@inproceedings{{{key},", *lines, "}"])
    return {"bibtex": bibtex, "licence": about["license"], "package": about["title"]}


def repository() -> str:
    """Where the package's metadata say that its code is; empty: they do not say."""
    urls = (entry.split(", ", 1) for entry in metadata("atomlib").get_all("Project-URL") or ())
    return next((url for name, url in urls if name in ("Repository", "Source")), "")


def preview(sheets: Sequence[Path], path: Path) -> None:
    """One picture of some sheets of images, side by side, every pixel a whole number of pixels."""
    canvas = Image.new("RGB", PREVIEW, "white")
    wide = PREVIEW[0] // max(1, len(sheets))
    for place, name in enumerate(sheets):
        with Image.open(name) as sheet:
            factor = max(1, min(wide // sheet.width, PREVIEW[1] // sheet.height))
            size = sheet.width * factor, sheet.height * factor
            drawn = sheet.convert("RGB").resize(size, Image.Resampling.NEAREST)
        left = place * wide + (wide - size[0]) // 2
        canvas.paste(drawn, (left, (PREVIEW[1] - size[1]) // 2))
    canvas.save(path, format="png")
