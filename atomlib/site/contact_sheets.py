"""Contact sheets for the site's gallery: the images of one distilled set in one PNG."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atomlib import methods
from atomlib.datasets.png_folder import as_bytes, write_png
from atomlib.distilled_set import DistilledSet
from atomlib.report.records import by_run, iterations_of

MOST_COLUMNS, MOST_CLASSES = 10, 20
"""Of one sheet, as in 07_gallery."""


@dataclass
class Sheet:
    """What a page says of one distilled set, whose images lie side by side in one PNG."""

    name: str
    """The set's stem."""
    dataset: str
    fingerprint: str
    """Of the data set."""
    method: str
    ipc: int
    seed: int
    variant: str
    recipe: str
    distill: dict[str, Any]
    """Its settings."""
    classes: tuple[str, ...]
    """Those shown."""
    all_classes: int
    columns: int
    """Images shown of each class."""
    pixels: int
    """Side of an image."""
    history: list[tuple[int, float]]

    @property
    def iterations(self) -> int:
        """Taken so far."""
        return iterations_of({"distill": self.distill})

    @property
    def tile(self) -> int:
        """Side of an image on the page: a whole number of times its pixels, 32 or 64 or so."""
        return max(1, (32 if self.columns > 2 else 64) // self.pixels) * self.pixels

    @property
    def left_out(self) -> str:
        """What the sheet does not show, in words."""
        parts = []
        if self.columns < self.ipc:
            parts.append(f"the first {self.columns} of {self.ipc} images per class")
        if len(self.classes) < self.all_classes:
            parts.append(f"the first {len(self.classes)} of {self.all_classes} classes")
        return ", ".join(parts)


def draw(made: DistilledSet, path: Path) -> Sheet:
    """Write a set's sheet as PNG, one row per class, every pixel as it is; tell what it shows."""
    columns, rows = min(made.ipc, MOST_COLUMNS), min(len(made.class_names), MOST_CLASSES)
    images = made.images.unflatten(0, (-1, made.ipc))[:rows, :columns]
    pixels = as_bytes(images)  # [rows, columns, c, h, w]
    canvas = pixels.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(canvas.numpy(), path)
    return Sheet(
        name=made.stem,
        dataset=made.data_name,
        fingerprint=made.data_fingerprint,
        method=made.method.name,
        ipc=made.ipc,
        seed=made.method.seed,
        variant=made.method.variant,
        recipe=made.method.recipe,
        distill=made.method.recorded(),
        classes=made.class_names[:rows],
        all_classes=len(made.class_names),
        columns=columns,
        pixels=made.images.shape[-1],
        history=made.history,
    )


def trajectories(sheets: Iterable[Sheet]) -> list[list[Sheet]]:
    """The sheets of each distillation, in order of iterations; plain methods before variants,
    each by the text before by the code, as tables have them."""
    runs = by_run([{**vars(sheet), "sheet": sheet} for sheet in sheets])

    def place(run: tuple) -> tuple:
        dataset, ipc, method, seed, recipe, variant = run
        by = methods.place(method), recipe != "text", recipe
        return dataset, variant != "", seed, ipc, *by, variant

    return [
        sorted((entry["sheet"] for entry in runs[run]), key=lambda sheet: sheet.iterations)
        for run in sorted(runs, key=place)
    ]


def position(index: int, count: int) -> str:
    """Where a sheet's row or column is, as CSS places a background: in percent."""
    return "0" if count < 2 else f"{100 * index / (count - 1):.4f}".rstrip("0").rstrip(".") + "%"
