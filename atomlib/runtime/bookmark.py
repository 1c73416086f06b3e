"""Bookmarks: a file with the state of an unfinished run, from which it resumes after a kill.

The file is written every half minute, read when the same run starts again, and deleted when it
ends. It is replaced atomically, and used only for the same run with the same versions of Python and
libraries, number of threads and type of numbers: a run that resumes ends with the bytes of one that
was never interrupted (on a CPU). Where only these differ, the run says so and begins anew.
"""

import hashlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from atomlib.errors import SettingError, shown
from atomlib.runtime.files import DamagedError, read_about, read_tensors, write_tensors
from atomlib.runtime.paths import as_path, check_writable
from atomlib.runtime.provenance import versions

EVERY_SECONDS = 30.0
"""Between two writings: what a kill costs at most. A file of IPC 50 takes a hundredth of one."""


class Bookmark:
    """The tensors that a run needs to go on, in the file ``path``; nothing where that is None."""

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else Path(path)
        self.key = self.run = ""
        self.terms: dict[str, Any] = {}
        """What besides the run itself decides its last bits: "threads", "versions", "how"."""
        self.start = self.written = time.monotonic()
        self.before = 0.0
        self.how = ""
        """How the run's arithmetic ran ("compiled bfloat16 on cpu"), once it gives a result."""

    @classmethod
    def of(cls, resume: "str | Path | Bookmark | None", run: str, how: str = "") -> Self:
        """The bookmark of a run, in a file or as somebody made it.

        ``run`` names everything that decides the result: settings, data, how arithmetic runs;
        ``how`` is the part of it that says the last. Raises SettingError, before any work, where
        the file's folder cannot be written, and for a file that somebody gave and that is no
        bookmark, or another run's: a run that ends deletes its own. Of a Bookmark, which is this
        package's to delete, another run's is begun anew.
        """
        terms = {"threads": torch.get_num_threads(), "versions": versions(), "how": how}
        if resume is None or isinstance(resume, cls):
            made = cls() if resume is None else resume
        else:
            made = cls(_own(as_path("resume", resume, file=True), _key(run, terms)))
        if made.path is not None:
            check_writable(made.path.parent)
        made.run, made.terms, made.key = run, terms, _key(run, terms)
        return made

    @property
    def seconds(self) -> float:
        """What the run has taken so far, what was before it was killed included."""
        return self.before + time.monotonic() - self.start

    def read(self, like: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What ``write`` wrote last; nothing where that is another run's, damaged or not there.

        Tensors named in ``like`` must be there, in the same shape and type.
        """
        if self.path is None or not self.path.is_file():
            return {}
        try:
            tensors, about = read_tensors(self.path)
        except DamagedError:
            return {}
        fits = all(
            name in tensors and _form(tensors[name]) == _form(tensor)
            for name, tensor in (like or {}).items()
        )
        if about.get("run") != self.key or not fits:
            self._tell(about)
            return {}
        self.before = float(about["seconds"])
        return tensors

    def _tell(self, about: Mapping[str, Any]) -> None:
        """Say, where the file is of this very run on other terms, that it is not gone on from."""
        then, now = ({k: of.get(k) for k in TERMS} for of in (about, self.terms))
        run = self.run.replace(now["how"], then["how"] or "") if now["how"] else self.run
        if None in then.values() or then == now or about.get("run") != _key(run, then):
            return
        there, count = in_words(then, now), then["threads"]
        said = f"{self.path.stem} stood at {about['done']} of {about['total']} with {there}; with "
        said += f"{in_words(now, then)}, as here, it rounds otherwise, so it begins anew"
        if there == threads_in_words(then):
            said += f" (OMP_NUM_THREADS={count}, of a grid's cell CPUS_PER_CELL={count}, goes on)"
        print(said, file=sys.stderr)

    def due(self) -> bool:
        """Whether it is time to write again."""
        return self.path is not None and time.monotonic() - self.written >= EVERY_SECONDS

    def write(self, tensors: dict[str, Tensor], done: int, total: int) -> None:
        """Keep these, ``done`` of ``total`` steps being done, of whatever kind.

        Raises SettingError where the file cannot be written.
        """
        if self.path is None:
            return
        about = {"run": self.key, "done": done, "total": total, "seconds": round(self.seconds, 1)}
        write_tensors(self.path, tensors, about | self.terms)
        self.written = time.monotonic()

    def end(self) -> None:
        """The run is over: there is nothing to go on from."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def end_if_through(self) -> None:
        """As ``end`` where the run was through when it was killed."""
        try:
            about = read_about(self.path) if self.path is not None and self.path.is_file() else {}
        except DamagedError:
            return
        if about.get("done", 0) == about.get("total"):
            self.end()


def check_resume(resume: object) -> None:
    """Raise SettingError, before any work, for a ``resume`` that no run could go on from: what is
    no path, no bookmark, or in a folder that cannot be written."""
    if resume is not None and not isinstance(resume, Bookmark):
        path = as_path("resume", resume, file=True)
        _about(path)
        check_writable(path.parent)


def _own(path: Path, key: str) -> Path:
    """A path at which nothing is, or the bookmark of this run. Raises SettingError otherwise."""
    about = _about(path)
    if about and about["run"] != key:
        raise SettingError(
            f"resume is {path}, the bookmark of another run ({shown(about['done'])} of "
            f"{shown(about['total'])} steps; of other settings, data, versions or threads); "
            "allowed: a file of its own, which is deleted when the run ends"
        )
    return path


def _about(path: Path) -> dict[str, Any]:
    """What the bookmark at a path tells of itself, nothing where nothing is. Raises SettingError
    for anything else there."""
    if not os.path.lexists(path):
        return {}
    try:
        about = read_about(path)
    except DamagedError:
        about = {}
    if not {"run", "done", "total"} <= about.keys():
        raise SettingError(
            f"resume is {path}, which is no bookmark, or a damaged one; allowed: a file of "
            "its own, which is deleted when the run ends"
        )
    return about


TERMS = ("threads", "versions", "how")


def _key(run: str, terms: Mapping[str, Any]) -> str:
    about = f"{run} {terms['versions']} {terms['threads']}"
    return hashlib.sha256(about.encode()).hexdigest()


def in_words(terms: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """What of a bookmark's terms is not as in others: "1 thread, numpy 2.1"."""
    found = [] if terms["threads"] == others["threads"] else [threads_in_words(terms)]
    here, there = terms["versions"], others["versions"]
    found += [f"{name} {here[name]}" for name in here if here[name] != there.get(name)]
    return ", ".join(found + ([] if terms["how"] == others["how"] else [terms["how"]]))


def threads_in_words(terms: Mapping[str, Any]) -> str:
    """ "1 thread", "2 threads"."""
    return f"{terms['threads']} thread{'s' * (terms['threads'] != 1)}"


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype
