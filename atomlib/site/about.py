"""What the site says of the package: how to cite it, its licence, its preview picture."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image

from atomlib.site.contact_sheets import Sheet

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


def preview(rows: Sequence[tuple[Path, Sheet]], path: Path) -> None:
    """One picture of the first image of each class, a row per set, as large as fits."""
    canvas = Image.new("RGB", PREVIEW, "white")
    if rows:
        across = max(len(sheet.classes) for _, sheet in rows)
        side = min(PREVIEW[0] // across, PREVIEW[1] // len(rows))
        left, top = (PREVIEW[0] - side * across) // 2, (PREVIEW[1] - side * len(rows)) // 2
        for down, (name, sheet) in enumerate(rows):
            with Image.open(name) as images:
                for place in range(len(sheet.classes)):
                    corner = 0, place * sheet.pixels
                    tile = images.crop((*corner, sheet.pixels, corner[1] + sheet.pixels))
                    tile = tile.convert("RGB").resize(
                        (side - 2, side - 2), Image.Resampling.NEAREST
                    )
                    canvas.paste(tile, (left + place * side, top + down * side))
    canvas.save(path, format="png")
