"""Where the cells of an experiment run: in this process, in worker processes, or on a Ray cluster.

Environment variables say which, so that notebooks need not:

    ENGINE          processes (the default) or ray
    WORKERS         processes that cells run in; 1, the default, is this process only
    RAY_ADDRESS     auto (the default), or HOST:PORT of a Ray cluster
    CPUS_PER_CELL   threads of a cell; default: those that torch has here (on a cluster a cell with
                    a GPU then takes no more processors than leave some for the node's other GPUs)
    GPUS_PER_CELL   of Ray's, 0.25 for four cells a GPU; default: 1 where nodes have any, else 0

The number of threads changes the order of sums, so the bytes of a result; nothing else here does.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from atomlib.errors import SettingError, check_choice
from atomlib.runs.processes import in_processes, threads
from atomlib.runs.ray_cluster import in_cluster

ENGINES = ("processes", "ray")


@dataclass(frozen=True)
class Engine:
    """What the environment asks for."""

    name: str
    workers: int
    address: str
    cpus: int
    """Threads of a cell."""
    gpus: float | None
    """None: one where nodes have any."""
    cpus_asked: int | None = None
    """CPUS_PER_CELL, where it is set."""

    @classmethod
    def chosen(cls) -> Self:
        """Raises SettingError, naming the variable, for an invalid value."""
        name = os.environ.get("ENGINE") or "processes"
        check_choice("ENGINE", name, ENGINES)
        cpus = _number("CPUS_PER_CELL", int, lambda n: n >= 1, "1 or more")
        gpus = _number(
            "GPUS_PER_CELL",
            float,
            lambda n: 0 <= n <= 1 or (n.is_integer() and n > 1),
            "0 to 1, or a whole number",
        )
        return cls(
            name,
            _number("WORKERS", int, lambda n: n >= 1, "1 or more") or 1,
            os.environ.get("RAY_ADDRESS") or "auto",
            cpus or torch.get_num_threads(),
            gpus,
            cpus,
        )

    @property
    def in_this_process(self) -> bool:
        """Whether all work is done in this process."""
        return self.name == "processes" and self.workers == 1

    def side_by_side(
        self,
        items: Sequence[Any],
        make: Callable[..., Callable],
        arguments: tuple,
        shared: Path,
    ) -> Iterator[tuple[Any, Any]]:
        """Each item and what ``make(*arguments)(item)`` gives, as it ends, from other processes.

        See ``processes.in_processes`` and ``ray_cluster.in_cluster``; on a cluster, all nodes must
        see the folder ``shared``.
        """
        if self.name == "processes":
            return in_processes(items, min(self.workers, len(items)), make, arguments)
        about = {"address": self.address, "cpus": self.cpus_asked, "gpus": self.gpus}
        return in_cluster(items, make, arguments, **about, threads=self.cpus, shared=shared)

    @contextmanager
    def threads(self) -> Iterator[None]:
        """As many threads in this process as a cell has in another."""
        with threads(self.cpus):
            yield


def _number(
    name: str, kind: type, allowed: Callable[[Any], bool], words: str
) -> int | float | None:
    """The number that a variable holds; None where it is not set."""
    text = os.environ.get(name)
    if not text:
        return None
    try:
        number = kind(text)
    except ValueError:
        number = None
    if number is None or not allowed(number):
        raise SettingError(f"{name} is {text!r}; allowed: {words}")
    return number
