"""Progress: a bar where somebody looks at one, a line per bar where it goes to a file."""

import io
import os
import sys
from typing import Any

from tqdm import tqdm

SECONDS = 600.0
"""After which a bar that is shown as lines says how far it is."""


def as_lines() -> bool:
    """Whether a bar is shown as lines: ATOM_PROGRESS=lines says so, or stderr is a file or pipe.

    A notebook's kernel cannot see what its output goes to, so ``atomlib run`` tells it.
    """
    told = os.environ.get("ATOM_PROGRESS")
    if told:
        return told == "lines"
    return not sys.stderr.isatty() and not type(sys.stderr).__module__.startswith("ipykernel")


class Bar(tqdm):
    """tqdm's bar, or a line at its end, such as "atom digits ipc 1: 60 of 60 it in 0:04".

    ``shown`` False shows nothing, as TQDM_DISABLE=1 does. ``each`` True has a line for each step
    rather than for the last one and every ten minutes.
    """

    def __init__(self, *args: Any, shown: bool = True, each: bool = False, **about: Any):
        self.lines = as_lines()
        if not shown:
            about["disable"] = True
        if self.lines:
            seconds = 0.0 if each else SECONDS
            # What tqdm writes by itself, line feeds, goes nowhere.
            about |= {"file": io.StringIO(), "mininterval": seconds, "maxinterval": float("inf")}
        self.told = -1
        super().__init__(*args, **about)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Called by tqdm at the start, from time to time, and at the end."""
        if not self.lines:
            super().display(msg, pos)
        elif self.n not in (self.initial, self.told):
            self.told, about = self.n, self.format_dict
            sized = self.format_sizeof if self.unit_scale else "{:,}".format
            total = f" of {sized(self.total)}" if self.total else ""
            took = self.format_interval(about["elapsed"])
            after = f", {about['postfix']}" if about["postfix"] else ""
            line = f"{self.desc}: {sized(self.n)}{total} {self.unit} in {took}{after}"
            print(line, file=sys.stderr, flush=True)
