"""How long a grid will take on this CPU, said before it is begun.

What is missing is counted: the arithmetic of convolutions and matrix products, at the rate that one
large matrix product reaches here. A compiled step or pass takes 1.3 to 2 times that in bfloat16
(reports/bench/README.md), and more in float32; TIMES_BOUND is in between. CAFE, whose steps are
found while running, is counted with the fewest; what the cache holds (experts, decoders, features)
is counted as well.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from atomlib.distilled_set import stem
from atomlib.models.build import operations
from atomlib.runs.engine import Engine
from atomlib.runs.grid import Cell, FullDataCell
from atomlib.runs.processes import processors
from atomlib.runs.store import Store
from atomlib.runtime.compiling import PAYS_ON_A_CPU
from atomlib.runtime.device import Execution, pick_device
from atomlib.runtime.files import DamagedError, read_about

TIMES_BOUND = {torch.bfloat16: 1.5, torch.float32: 2.5}
"""What a step takes, in units of its arithmetic at the rate of a matrix product; in float32 as on
an Intel Xeon at 2.8 GHz without bfloat16, where passes over the maps move twice the bytes."""

WORTH_SAYING = 120.0
"""Seconds; of less nothing is said."""


class Missing(NamedTuple):
    """What a store lacks of a grid."""

    cells: int
    operations: float


def missing(
    store: Store,
    grid: Sequence[Cell],
    at: Callable[[Cell], Sequence[int]] = lambda cell: (),
    ceilings: Sequence[FullDataCell] = (),
) -> Missing:
    """Cells whose results are not there, and the floating point operations that they take, less
    those of runs that were interrupted."""
    cells, sets, total = 0, {}, 0.0
    for cell in grid:
        data, method, config = cell.data, cell.method, cell.evaluation
        missed = [
            step
            for step in {*at(cell)} - {method.length}
            if not store.recorded(data, method.at(step), cell.of_checkpoints)
        ]
        evaluated = store.holds(data, method, config)
        if evaluated and not missed:
            continue
        cells += 1
        if not all(store.has(data, method.at(step)) for step in (*missed, method.length)):
            name = stem(data.name, method)
            sets[name] = _left(store, name) * method.work(data)
        images = data.num_classes * method.ipc
        one = operations(config, data) * _passes(config.epochs, images, len(data.test_labels))
        networks = 0 if evaluated else config.networks
        total += one * (networks + len(missed) * cell.of_checkpoints.networks)
    for cell in ceilings:
        data, config = cell.data, cell.evaluation
        if store.holds_full_data(data, config, zca=cell.zca):
            continue
        cells += 1
        passes = _passes(config.epochs, len(data.train_labels), len(data.test_labels))
        total += operations(config, data) * passes * config.networks
    return Missing(cells, total + sum(sets.values()))


def _passes(epochs: int, images: int, tested: int) -> int:
    """Forwards of single images in a network's training, of which a step has three, and test."""
    return 3 * (epochs + 1) * images + tested


def _left(store: Store, name: str) -> float:
    """The share of a run that an interrupted one left over; 1 where there is none."""
    try:
        about = read_about(store.layout.bookmark(name))
        return 1 - about["done"] / about["total"]
    except (DamagedError, OSError, KeyError, TypeError, ZeroDivisionError):
        return 1.0


def say(
    store: Store,
    engine: Engine,
    grid: Sequence[Cell],
    at: Callable[[Cell], Sequence[int]] = lambda cell: (),
    ceilings: Sequence[FullDataCell] = (),
) -> None:
    """One line on stderr, where a CPU will take minutes: how many cells are to be made, and how
    long they will take. Nothing of cells so small that they are not compiled: they take many times
    what is counted, and no two machines alike."""
    from atomlib.runs.cost import matrix_rate  # brings pandas, which distilling does without

    device = pick_device(None)
    unknown = device.type != "cpu" or engine.name != "processes"
    if unknown or not store.progress or os.environ.get("TQDM_DISABLE", "0") not in ("", "0"):
        return
    cells, work = missing(store, grid, at, ceilings)
    if not cells or work < cells * PAYS_ON_A_CPU:
        return
    dtype = Execution(grid[0].evaluation, device, work).dtype
    # A cell is of one worker; two of one set are as well, which is passed over.
    workers = max(1, min(engine.workers, processors(device) // engine.cpus, cells))
    seconds = TIMES_BOUND[dtype] * work / (workers * matrix_rate(dtype, device))
    if seconds >= WORTH_SAYING:
        total = len(grid) + len(ceilings)
        print(f"{cells} of {total} cells to make: {about(seconds)} here", file=sys.stderr)


def about(seconds: float) -> str:
    """A time, as far as it can be foreseen: "about 40 minutes"."""
    minutes = seconds / 60
    if minutes < 90:
        return f"about {minutes:.0f} minutes"
    return f"about {minutes / 60:.0f} hours"
