"""Runs the cells of a grid, one after another or in parallel (see atomlib.runs.engine).

Worker processes write to the same store: a cell that was killed resumes from its last bookmark,
wherever it is started again. The results are then read from the store, in the grid's order.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atomlib.datasets.decoded import TENSORS
from atomlib.datasets.image_data import ImageData
from atomlib.distilled_set import DistilledSet, stem
from atomlib.errors import SettingError
from atomlib.methods import Method
from atomlib.preprocess import ZCA
from atomlib.runs import foreseen
from atomlib.runs.engine import Engine
from atomlib.runs.grid import Cell, FullDataCell, check_file_names
from atomlib.runs.store import Store
from atomlib.runtime.layout import full_data_name
from atomlib.runtime.progress import Bar
from atomlib.training import EvalConfig


def sweep(
    store: Store,
    grid: Sequence[Cell],
    at: Callable[[Cell], Sequence[int]] = lambda cell: (),
    ceilings: Sequence[FullDataCell] = (),
    *,
    only_made: bool = False,
) -> tuple[list[dict[str, Any]], list[DistilledSet]]:
    """Records and distilled sets of all cells, each read where it was made before.

    A cell has one record for each of the iterations that ``at`` gives, in order, and one for its
    end, and one set, that of its end; records of ``ceilings`` come last. With ``only_made``, for
    a grid of ``made_so_far``, iterations and ceilings without a record are left out. Raises
    SettingError before any work for an engine that is invalid, or where files of a checkpoint would
    have too long a name, and RuntimeError, naming the cell, where one failed in another process.
    """
    engine = Engine.chosen()
    if only_made:
        at = partial(_recorded, store, at)
        ceilings = [
            cell
            for cell in ceilings
            if store.holds_full_data(cell.data, cell.evaluation, zca=cell.zca)
        ]
    for cell in grid:
        for step in at(cell):
            check_file_names(cell.data, cell.method.at(step), cell.of_checkpoints)
    with engine.threads():
        foreseen.say(store, engine, grid, at, ceilings)
        if not engine.in_this_process:
            _fill(store, engine, grid, at, ceilings)
        records, sets = [], []
        for cell in grid:
            how = cell.evaluation, cell.of_checkpoints
            found, made = _made(store, cell.data, cell.method, at(cell), *how)
            records += found
            sets.append(made)
        records += [store.full_data(cell.data, cell.evaluation, zca=cell.zca) for cell in ceilings]
    return records, sets


def _recorded(store: Store, at: Callable[[Cell], Sequence[int]], cell: Cell) -> list[int]:
    """Those of a cell's iterations that have a record."""
    how = cell.of_checkpoints
    return [step for step in at(cell) if store.recorded(cell.data, cell.method.at(step), how)]


def _made(
    store: Store,
    data: ImageData,
    method: Method,
    at: Sequence[int],
    evaluation: EvalConfig,
    of_checkpoints: EvalConfig,
) -> tuple[list[dict[str, Any]], DistilledSet]:
    """Records of a run's checkpoints and of its end, in order, and the set of its end.

    A checkpoint whose record is there is not made again, even where its set was not kept.
    """
    steps = sorted({*at} - {method.length})
    known = {step: store.recorded(data, method.at(step), of_checkpoints) for step in steps}
    missing = [step for step, record in known.items() if record is None]
    *earlier, made = store.trajectory(data, method, missing)
    for step, distilled in zip(missing, earlier, strict=True):
        known[step] = store.accuracies(distilled, data, of_checkpoints)
    return [*known.values(), store.accuracies(made, data, evaluation)], made


def made_so_far(store: Store, grid: Sequence[Cell]) -> list[Cell]:
    """The cells whose results are there, so that a table can be shown before all have ended.

    Raises SettingError where there is none.
    """
    made = [cell for cell in grid if store.holds(cell.data, cell.method, cell.evaluation)]
    if not made:
        raise SettingError(
            f"only_made is true, and none of {len(grid)} cells is in {store.folder}; allowed: "
            "false, which makes them"
        )
    return made


@dataclass
class _Set:
    """One distilled set with all that is measured on it, so that no two workers need it."""

    name: str
    data: int
    """Which of the data sets."""
    method: Method
    at: tuple[int, ...]
    evaluations: list[tuple[EvalConfig, EvalConfig]]
    """Of the last set, and of those before it."""

    def make(self, store: Store, data: ImageData) -> None:
        for how in self.evaluations:
            _made(store, data, self.method, self.at, *how)


@dataclass
class _Whole:
    """Networks trained on the full data."""

    name: str
    data: int
    """Which of the data sets."""
    evaluations: list[EvalConfig]
    zca: ZCA

    def make(self, store: Store, data: ImageData) -> None:
        for evaluation in self.evaluations:
            store.full_data(data, evaluation, zca=self.zca)


def _held(store: Store, cell: Cell, at: Sequence[int]) -> bool:
    """Whether nothing of a cell is left to do."""
    steps = {*at} - {cell.method.length}
    return store.holds(cell.data, cell.method, cell.evaluation) and all(
        store.recorded(cell.data, cell.method.at(step), cell.of_checkpoints) for step in steps
    )


def _fill(
    store: Store,
    engine: Engine,
    grid: Sequence[Cell],
    at: Callable[[Cell], Sequence[int]],
    ceilings: Sequence[FullDataCell],
) -> None:
    """Have the store hold it all."""
    grid = [cell for cell in grid if not _held(store, cell, at(cell))]
    ceilings = [
        cell
        for cell in ceilings
        if not store.holds_full_data(cell.data, cell.evaluation, zca=cell.zca)
    ]
    if not grid and not ceilings:
        return  # no worker need start
    data = list(dict.fromkeys(cell.data for cell in (*grid, *ceilings)))
    place = {each: number for number, each in enumerate(data)}
    # The ceilings first: they are long, and none should run by itself at the end.
    tasks = [
        _Whole(full_data_name(cell.data.name), place[cell.data], [cell.evaluation], cell.zca)
        for cell in ceilings
    ]
    sets: dict[Any, _Set] = {}
    for cell in grid:
        steps, key = tuple(at(cell)), place[cell.data]
        task = _Set(stem(cell.data.name, cell.method), key, cell.method, steps, [])
        task = sets.setdefault((key, cell.method.name, cell.method.model_dump_json(), steps), task)
        task.evaluations.append((cell.evaluation, cell.of_checkpoints))
    tasks += sets.values()
    folder = store.folder.absolute()
    tensors = {
        f"{number} {name}": getattr(each, name)
        for number, each in enumerate(data)
        for name in TENSORS
    }
    arguments = (folder, [_about(each) for each in data], engine.cpus)
    results = engine.side_by_side(tasks, _maker, tensors, arguments, folder)
    total = len(grid) + len(ceilings)
    with (
        Bar(total=total, desc="cells", unit="cell", shown=store.progress, each=True) as bar,
        closing(results),
    ):
        for task, _ in results:
            bar.update(len(task.evaluations))


def _maker(
    tensors: Mapping[str, Tensor],
    folder: Path,
    about: Sequence[Mapping[str, Any]],
    threads: int,
) -> Callable:
    """What a worker does with each task."""
    torch.set_num_threads(threads)
    store = Store(folder, progress=False)
    data = [
        ImageData(**{name: tensors[f"{number} {name}"] for name in TENSORS}, **each)
        for number, each in enumerate(about)
    ]
    return lambda task: task.make(store, data[task.data])


def _about(data: ImageData) -> dict[str, Any]:
    """All of it but the tensors: statistics of its own, say, go with it."""
    names = [field.name for field in fields(data) if field.name not in TENSORS]
    return {name: getattr(data, name) for name in names}
