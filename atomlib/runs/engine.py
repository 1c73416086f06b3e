"""Where the cells of an experiment run: in this process, in worker processes, or on a Ray cluster.

Environment variables say which, so that notebooks need not:

    ENGINE          processes (the default) or ray
    WORKERS         processes that cells run in; 1, the default, is this process only; auto is one
                    per GPU, else as many as memory allows and processors, by the threads of a cell
                    (so one, where a cell has all of them: set CPUS_PER_CELL too)
    RAY_ADDRESS     auto (the default), or HOST:PORT of a Ray cluster
    CPUS_PER_CELL   threads of a cell; default: those that torch has here (on a cluster a cell with
                    a GPU then takes no more processors than leave some for the node's other GPUs)
    GPUS_PER_CELL   of Ray's, 0.25 for four cells a GPU; default: 1 where nodes have any, else 0

The number of threads changes the order of sums, so the bytes of a result; nothing else here does.
"""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import load_file
from torch import Tensor

from atomlib.errors import SettingError, check_choice
from atomlib.runs.processes import as_tensor, in_processes, named, processors, threads
from atomlib.runs.ray_cluster import in_cluster, memory_of_a_task
from atomlib.runtime.device import memory, pick_device

ENGINES = ("processes", "ray")

VARIABLES = ("ENGINE", "WORKERS", "RAY_ADDRESS", "CPUS_PER_CELL", "GPUS_PER_CELL")

MOST_CPUS = 1024
"""Threads of a cell: far more than this, and the system starts none."""

MEMORY_OF_A_WORKER = 2 << 30
"""Bytes that "auto" leaves each worker: what a process holds on small data is half of it."""


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
        cpus = _number("CPUS_PER_CELL", int, lambda n: 1 <= n <= MOST_CPUS, f"1 to {MOST_CPUS}")
        gpus = _number(
            "GPUS_PER_CELL",
            float,
            lambda n: 0 <= n <= 1 or (n.is_integer() and n > 1),
            "0 to 1, or a whole number",
        )
        per_cell = cpus or torch.get_num_threads()
        if os.environ.get("WORKERS") == "auto":
            workers = _that_fit(per_cell)
        else:
            workers = _number("WORKERS", int, lambda n: n >= 1, "1 or more, or auto") or 1
        address = os.environ.get("RAY_ADDRESS") or "auto"
        return cls(name, workers, address, per_cell, gpus, cpus)

    @property
    def in_this_process(self) -> bool:
        """Whether all work is done in this process."""
        return self.name == "processes" and self.workers == 1

    def side_by_side(
        self,
        items: Sequence[Any],
        make: Callable[..., Callable],
        tensors: Mapping[str, Tensor],
        arguments: tuple,
        shared: Path | None = None,
    ) -> Iterator[tuple[Any, Any]]:
        """Each item and what ``make(tensors, *arguments)(item)`` gives, as it ends.

        See ``processes.in_processes`` and ``ray_cluster.in_cluster``; what one worker does is done
        here. ``tensors`` reach another process on the CPU, read-only: workers of one machine have
        one copy between them. On a cluster, all nodes must see the folder ``shared``, if any.
        """
        workers = min(self.workers, len(items))
        self._say_if_too_many(workers)
        if self.name == "processes" and workers == 1:
            with self.threads():
                work = make(tensors, *arguments)
                for item in items:
                    with named(item):
                        result = work(item)
                    yield item, result
            return
        if self.name == "processes":
            _check_found_by_workers(items)
        arrays = {name: tensor.cpu().contiguous().numpy() for name, tensor in tensors.items()}
        if self.name == "processes":
            with TemporaryDirectory(prefix="atomlib-") as folder:
                # A file that workers map into memory: no need for more shared memory than a
                # container has (64 MB in many; CIFAR-10 needs 600).
                path = Path(folder) / "tensors.safetensors"
                save_file(arrays, path)
                yield from in_processes(items, workers, _from_file, (path, make, arguments))
            return
        # Ray keeps one copy of arrays for all workers of a node.
        about = {"address": self.address, "cpus": self.cpus_asked, "gpus": self.gpus}
        about |= {"threads": self.cpus, "shared": shared}
        yield from in_cluster(items, _from_arrays, (arrays, make, arguments), **about)

    def _say_if_too_many(self, workers: int) -> None:
        """Workers whose threads outnumber the processors wait for each other."""
        cpu = torch.device("cpu")
        there = processors(cpu)
        if self.name != "processes" or workers == 1 or pick_device(None) != cpu:
            return
        if workers * self.cpus > there:
            fit = min(workers, there)
            asked = {} if fit == workers else {"WORKERS": fit}
            asked |= {} if there // fit >= self.cpus else {"CPUS_PER_CELL": there // fit}
            _say(
                f"{workers} workers x {self.cpus} thread{'s' * (self.cpus > 1)} on {there} "
                f"processor{'s' * (there > 1)}, which wait for each other; "
                f"{' '.join(f'{name}={number}' for name, number in asked.items())} fits"
            )

    def device(self, asked: str | torch.device | None) -> tuple[torch.device, float]:
        """The device that an item is worked on, and how many bytes of it, 0 for a CPU, are ours.

        "cuda" without a number is each worker's own GPU. On a cluster it is the GPU that a task
        gets, which may be of another kind than this machine's, if this one has any. Raises
        SettingError for a device that is not there.
        """
        device, cpu = pick_device(asked), torch.device("cpu")
        if self.name == "processes":
            return device, 0.0 if device.type == "cpu" else float(memory(device))
        if asked is not None and device == cpu:
            return cpu, 0.0
        found = None if self.gpus == 0 else memory_of_a_task(self.address, self.gpus)
        if found is not None:
            return torch.device("cuda"), found * min(1.0, self.gpus or 1.0)
        if asked is not None:
            why = "GPUS_PER_CELL is 0" if self.gpus == 0 else "no node of the cluster has a GPU"
            raise SettingError(f"device is {str(asked)!r}, but {why}; allowed: None or 'cpu'")
        return cpu, 0.0

    @contextmanager
    def threads(self) -> Iterator[None]:
        """As many threads in this process as a cell has in another."""
        with threads(self.cpus):
            yield


def _check_found_by_workers(items: Sequence[Any]) -> None:
    """Raise SettingError for a method whose class no other process can import."""
    if os.path.isfile(getattr(sys.modules["__main__"], "__file__", "")):  # a script: they import it
        return
    for kind in (type(getattr(item, "method", None)) for item in items):
        if kind.__module__ == "__main__":
            raise SettingError(
                f"method {kind.__name__} is defined in a notebook, or in no file; allowed with "
                f"WORKERS above 1: a class of a module, by its name, package.module:{kind.__name__}"
            )


@cache
def _say(words: str) -> None:
    """Once in a process."""
    print(words, file=sys.stderr)


def _that_fit(threads: int) -> int:
    """How many workers of so many threads this machine has room for."""
    device = pick_device(None)
    if device.type != "cpu":
        return processors(device)
    return max(1, min(processors(device) // threads, memory(device) // MEMORY_OF_A_WORKER))


def _from_file(path: Path, make: Callable[..., Callable], arguments: tuple) -> Callable:
    return make(load_file(path), *arguments)


def _from_arrays(
    arrays: Mapping[str, np.ndarray], make: Callable[..., Callable], arguments: tuple
) -> Callable:
    return make({name: as_tensor(array) for name, array in arrays.items()}, *arguments)


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
