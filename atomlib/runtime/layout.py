"""Where everything of a report lies: the folder reports/<profile>/, and how its files are named.

reports/<profile>/
  <table>.csv, .md, .tex             tables
  figures/<figure>.svg, .pdf, .png
  notebooks/<notebook>.ipynb         executed
  distilled/<set>.safetensors        the set, or what it was after so many iterations
  results/<set>.json                 accuracies of each network, settings, times
  results/<set>-on-<model>.json      the same for another network than the ConvNet
  results/<set>-by-<variant>.json    the same for another evaluation than the experiment's
  results/<dataset>-whole.json       the same for the full data
  nas.jsonl                          results of the search, one candidate per line
  judged/<set>-<protocol>.json       results of published sets
  unfinished/<run>.safetensors       bookmarks of runs that go on, or were killed; their locks
  unfinished/damaged/                files whose checksum differs, set aside
  unfinished/started                 made when the first run of the profile in this clone began
build/<profile>/
  <notebook>.ipynb                   a notebook that is running, or has failed
"""

import hashlib
import os
import re
from pathlib import Path
from typing import Self

from atomlib.runtime.clone import root

FIGURE_KINDS = ("svg", "pdf", "png")

TABLE_KINDS = ("csv", "md", "tex")


class Layout:
    """The places of one report; nothing is made, read or written here."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @classmethod
    def of_profile(cls, name: str) -> Self:
        """The report of a profile."""
        return cls(Path("reports") / name)

    @classmethod
    def of_record(cls, record: str | Path) -> Self:
        """The report that a record, <folder>/results/<name>.json, is of."""
        return cls(Path(record).parents[1])

    @classmethod
    def of_candidates(cls, lines: str | Path) -> Self:
        """The report that the search's file of results, <folder>/nas.jsonl, is of."""
        return cls(Path(lines).parent)

    @classmethod
    def all_within(cls, reports: Path) -> list[str]:
        """Names of the folders of ``reports`` that hold an executed notebook, or a table."""
        found = (f for f in reports.glob("*") if cls(f).notebooks() or cls(f).tables())
        return sorted(f.name for f in found)

    def within(self, path: Path) -> str:
        """A path of this report as a link from its folder has it."""
        return path.relative_to(self.folder).as_posix()

    def parts(self) -> list[Self]:
        """The folders in this one that hold distilled sets too, such as your_data/."""
        return [type(self)(sets.parent) for sets in sorted(self.folder.glob("*/distilled"))]

    @property
    def of_clone(self) -> Self | None:
        """The report of a profile that this folder is, or is a part of: what a clone may bring
        results of. None for every other folder."""
        folder = Path(os.path.abspath(self.folder))
        for place in (folder, *folder.parents):
            profile = Path("notebooks") / "profiles" / f"{place.name}.yaml"
            if place.parent.name == "reports" and (place.parents[1] / profile).is_file():
                return type(self)(place)
        return None

    # Tables, figures and notebooks

    def table(self, name: str, kind: str) -> Path:
        """The file of a table, ``kind`` being one of TABLE_KINDS."""
        return self.folder / f"{name}.{kind}"

    def tables(self, kind: str = "csv") -> list[Path]:
        return sorted(self.folder.glob(f"*.{kind}"))

    def figure(self, name: str, kind: str) -> Path:
        """The file of a figure, ``kind`` being one of FIGURE_KINDS."""
        return self.folder / "figures" / f"{name}.{kind}"

    def figures(self) -> list[Path]:
        return sorted((self.folder / "figures").glob("*.png"))

    def shown(self) -> list[Path]:
        """Tables and pictures that a reader opens, those of parts too: as Markdown, as PNG."""
        of_parts = [path for part in self.parts() for path in part.shown()]
        return [*self.tables("md"), *self.figures(), *of_parts]

    def notebook(self, name: str) -> Path:
        return self.folder / "notebooks" / f"{name}.ipynb"

    def notebooks(self) -> list[Path]:
        return sorted((self.folder / "notebooks").glob("*.ipynb"))

    # Results

    @property
    def sets(self) -> Path:
        """The folder of distilled sets."""
        return self.folder / "distilled"

    def distilled(self, stem: str) -> Path:
        """The file of a distilled set."""
        return self.sets / f"{stem}.safetensors"

    def all_distilled(self) -> list[Path]:
        return sorted(self.sets.glob("*.safetensors"))

    def record(self, name: str) -> Path:
        return self.folder / "results" / f"{name}.json"

    def records(self) -> list[Path]:
        return sorted((self.folder / "results").glob("*.json"))

    def results(self) -> list[Path]:
        """All that a run may read instead of making it, that of parts too."""
        found = [*self.all_distilled(), *self.records(), *self.judged.all_judgements()]
        found += [self.candidates] if self.candidates.is_file() else []
        return found + [path for part in self.parts() for path in part.results()]

    @property
    def candidates(self) -> Path:
        """The results of the search."""
        return self.folder / "nas.jsonl"

    @property
    def judged(self) -> Self:
        """The folder of results of published sets."""
        return type(self)(self.folder / "judged")

    def judgement(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def judgements(self, name: str) -> list[Path]:
        """Those of a published set, under every protocol."""
        return sorted(self.folder.glob(f"{name}-*.json"))

    def all_judgements(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))

    def thumbnail(self, name: str) -> Path:
        """The picture of a published set."""
        return self.folder / f"{name}.png"

    # Runs

    @property
    def unfinished(self) -> Path:
        """The folder of bookmarks and locks."""
        return self.folder / "unfinished"

    def bookmark(self, run: str) -> Path:
        """Where a run keeps where it is; the lock on it is beside it."""
        return self.unfinished / f"{run}.safetensors"

    @property
    def damaged(self) -> Path:
        """The folder of files that were set aside."""
        return self.unfinished / "damaged"

    @property
    def build(self) -> Path:
        """The folder of what is no result: in the clone, whatever the current folder is."""
        clone, folder = root(), self.folder.resolve()
        name = folder.name
        if folder.parent != (clone / "reports").resolve():  # others may have its name
            name += f"-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
        return (Path() if clone == Path.cwd() else clone) / "build" / name

    @property
    def started(self) -> Path:
        """A file as old as the first run in this clone."""
        return self.unfinished / "started"

    def running(self, notebook: str) -> Path:
        """A notebook while it is executed."""
        return self.build / f"{notebook}.ipynb"


def record_name(stem: str, model: str, variant: str = "") -> str:
    """The name of the record of a set, the network that was trained on it, and how."""
    name = stem if model == "convnet" else f"{stem}-on-{model}"
    return f"{name}-by-{variant}" if variant else name


def evaluation_run(record: str) -> str:
    """The name of the run that ends with this record, for its bookmark."""
    return f"{record}-evaluation"


def set_of(record: str, model: str, variant: str = "") -> str:
    """The set that a record is of: "digits-atom-ipc1-seed0" of "...-seed0-on-vit" and "vit"."""
    return record.removesuffix(f"-by-{variant}").removesuffix(f"-on-{model}")


def full_data_name(dataset: str) -> str:
    """The name of the record of networks trained on the full data."""
    return f"{dataset}-whole"


def judged_name(name: str) -> str:
    """The name of a published set's files: "mtt-cifar10-1" of "MTT CIFAR10 (1)"."""
    plain = re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-").lower()
    if name.isascii() and plain.strip("."):
        return plain
    # Names whose letters files are not given would be one.
    return f"{plain.strip('-.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".strip("-")
