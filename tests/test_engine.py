"""Settings of where cells run, and that processes make what this one makes."""

import importlib
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from atomlib import distill
from atomlib.methods import METHODS
from atomlib.runs.engine import VARIABLES, Engine
from atomlib.runs.grid import Cell, FullDataCell
from atomlib.runs.store import Store
from atomlib.runs.sweep import sweep
from atomlib.runtime import device
from atomlib.training import EvalConfig
from tests.test_environment import ROOT

module = importlib.import_module("atomlib.runs.sweep")  # `atomlib.runs.sweep` is the function

where = importlib.import_module("atomlib.runs.engine")


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def small_grid(data):
    """Four sets, one of them with two networks."""
    asked = [("atom", 0), ("atom", 1), ("dm", 0), ("random", 0)]
    evaluation = EvalConfig(epochs=2, networks=2, width=16, compile="off")
    grid = []
    for method, seed in asked:
        learns = {"iterations": 3, "real_batch": 4} if method != "random" else {}
        asked_for = METHODS[method](seed=seed, width=16, compile="off", **learns)
        how = evaluation.resolve(data)
        grid.append(Cell(data, asked_for.resolve(data), how, how))
    other = grid[0].evaluation.but(model="vit")
    return [*grid, Cell(data, grid[0].method, other, other)]


def checkpoints(cell):
    return distill.checkpoints(cell.method.length, 3)


def same(first, second):
    """That two stores hold the same bytes of the same sets."""
    sets = [
        {path.name: path.read_bytes() for path in (store.folder / "distilled").iterdir()}
        for store in (first, second)
    ]
    assert sets[0] == sets[1]
    return len(sets[0])


def numbers(records):
    """What was measured, without where and how fast."""
    return [(r["method"], r["seed"], r["variant"], r.get("set"), r["accuracies"]) for r in records]


def test_by_default_all_is_done_here_one_after_another():
    engine = Engine.chosen()
    assert engine.in_this_process
    assert engine.cpus == torch.get_num_threads()
    assert (engine.address, engine.gpus) == ("auto", None)


def test_the_environment_is_read(monkeypatch):
    values = ("ray", "3", "host:6379", "2", "0.25")
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    assert Engine.chosen() == Engine("ray", 3, "host:6379", 2, 0.25, cpus_asked=2)


@pytest.mark.parametrize(
    ("processors", "gibibytes", "threads", "workers"),
    [(2, 24, 1, 2), (8, 64, 2, 4), (64, 16, 1, 8), (2, 24, 4, 1), (4, 1, 1, 1)],
)
def test_auto_is_as_many_workers_as_the_machine_has_room_for(
    monkeypatch, processors, gibibytes, threads, workers
):
    monkeypatch.setattr(where, "processors", lambda device: processors)
    monkeypatch.setattr(where, "memory", lambda device: gibibytes << 30)
    monkeypatch.setattr(where, "pick_device", lambda device: torch.device("cpu"))
    monkeypatch.setenv("WORKERS", "auto")
    monkeypatch.setenv("CPUS_PER_CELL", str(threads))
    assert Engine.chosen().workers == workers
    monkeypatch.setattr(where, "pick_device", lambda device: torch.device("cuda"))
    assert Engine.chosen().workers == processors, "one per GPU"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("ENGINE", "slurm", "processes, ray"),
        ("ENGINE", "rai", "did you mean 'ray'?"),
        ("WORKERS", "0", "1 or more, or auto"),
        ("WORKERS", "1.5", "1 or more"),
        ("CPUS_PER_CELL", "all", "1 to 1024"),
        ("CPUS_PER_CELL", "99999999999999999999", "1 to 1024"),
        ("GPUS_PER_CELL", "-1", "0 to 1, or a whole number"),
        ("GPUS_PER_CELL", "1.5", "0 to 1, or a whole number"),
        ("GPUS_PER_CELL", "nan", "0 to 1, or a whole number"),
    ],
)
def test_bad_values_are_refused_before_any_work(
    monkeypatch, complains, tmp_path, make_data, name, value, allowed
):
    monkeypatch.setenv(name, value)
    store = Store(tmp_path / "report", progress=False)
    with complains(name, repr(value), allowed):
        sweep(store, small_grid(make_data()))
    assert not list(store.folder.iterdir())


def test_processes_make_what_this_one_makes(monkeypatch, tmp_path, make_data):
    data = make_data()
    grid = small_grid(data)
    ceilings = [FullDataCell(data, grid[0].evaluation.but(networks=1), False)]
    stores = [Store(tmp_path / name, progress=False) for name in ("serial", "beside")]
    records, sets = sweep(stores[0], grid, checkpoints, ceilings)
    monkeypatch.setenv("WORKERS", "2")
    beside, theirs = sweep(stores[1], grid, checkpoints, ceilings)
    assert numbers(beside) == numbers(records)
    assert [made.digest() for made in theirs] == [made.digest() for made in sets]
    # Random has its start alone; the others three sets each, however many networks use them.
    assert len(records) == 4 * 3 + 1 + len(ceilings)
    assert same(*stores) == 3 * 3 + 1


def test_no_worker_starts_where_all_is_made_and_only_what_is_missing_is_handed_out(
    monkeypatch, tmp_path, make_data
):
    data = make_data()
    grid, store = small_grid(data), Store(tmp_path / "report", progress=False)
    ceilings = [FullDataCell(data, grid[0].evaluation.but(networks=1), False)]
    made, _ = sweep(store, grid, checkpoints, ceilings)
    asked = []

    def side_by_side(engine, items, make, tensors, *rest):
        asked.append([item.name for item in items])
        work = make(tensors, *rest[0])
        yield from ((item, work(item)) for item in items)

    monkeypatch.setattr(Engine, "side_by_side", side_by_side)
    monkeypatch.setenv("WORKERS", "2")
    assert sweep(store, grid, checkpoints, ceilings)[0] == made
    assert not asked
    for name in ("toy-dm-ipc1-seed0-it1", "toy-whole"):
        store.layout.record(name).unlink()
    again, _ = sweep(store, grid, checkpoints, ceilings)
    assert asked == [["toy-whole", "toy-dm-ipc1-seed0"]]
    assert numbers(again) == numbers(made)


def test_a_set_that_several_networks_are_trained_on_is_one_task(tmp_path, make_data):
    asked = []

    class Recording:
        cpus = 1

        def side_by_side(self, items, *_):
            asked.extend(items)
            return (pair for pair in ())

    grid = small_grid(make_data())
    module._fill(Store(tmp_path, progress=False), Recording(), grid, lambda cell: (), ())
    assert [len(task.evaluations) for task in asked] == [2, 1, 1, 1]


def test_a_worker_has_data_with_all_that_it_brings(monkeypatch, tmp_path, make_data):
    plain = make_data()
    data = [plain, replace(plain, label="Toys", zca=True, augmentations=("color",))]
    found = []

    class Here:
        cpus = 1

        def side_by_side(self, items, make, tensors, arguments, _):
            work = make(tensors, *arguments)
            found.extend(work(item) for item in items)
            return (pair for pair in ())

    for kind in (module._Set, module._Whole):
        monkeypatch.setattr(kind, "make", lambda task, store, data: data)
    evaluation = small_grid(plain)[0].evaluation
    ceilings = [FullDataCell(each, evaluation, False) for each in data]
    module._fill(Store(tmp_path, progress=False), Here(), [], lambda cell: (), ceilings)
    assert found == data and found[0] != found[1]
    assert torch.equal(found[1].train_images, plain.train_images)


def doubled(tensors, by):
    return lambda item: (tensors["numbers"] * by + item.number).tolist()


@pytest.mark.parametrize(("workers", "count"), [(1, 3), (2, 3), (2, 1)])
def test_the_same_is_done_here_and_in_processes(monkeypatch, workers, count):
    monkeypatch.setenv("WORKERS", str(workers))
    both = torch.arange(4).reshape(2, 2)
    items = [SimpleNamespace(name=str(n), number=n) for n in range(count)]
    tensors = {"numbers": both[:, 0], "the same memory": both}
    results = Engine.chosen().side_by_side(items, doubled, tensors, (2,))
    found = {item.number: result for item, result in results}
    assert found == {n: [n, 4 + n] for n in range(count)}


@pytest.mark.parametrize(
    ("workers", "threads", "fits"),
    [(8, 2, "WORKERS=2 CPUS_PER_CELL=1"), (2, 2, "CPUS_PER_CELL=1"), (3, 1, "WORKERS=2"),
     (2, 1, None), (1, 4, None)],
)  # fmt: skip
def test_more_threads_than_processors_are_told_once(monkeypatch, capsys, workers, threads, fits):
    monkeypatch.setattr(where, "processors", lambda device: 2)
    monkeypatch.setattr(where, "in_processes", lambda items, *_: iter(items))
    monkeypatch.setenv("WORKERS", str(workers))
    monkeypatch.setenv("CPUS_PER_CELL", str(threads))
    where._say.cache_clear()
    items = [SimpleNamespace(name=str(n), number=n) for n in range(9)]
    for _ in range(2):
        [*Engine.chosen().side_by_side(items, doubled, {"numbers": torch.arange(2)}, (2,))]
    named = f"{threads} thread{'s' * (threads > 1)}"
    said = f"{workers} workers x {named} on 2 processors, which wait for each other; {fits} fits\n"
    assert capsys.readouterr().err == (said if fits else "")


@pytest.mark.parametrize(
    ("own", "files", "limits"),
    [
        ("0::/", {"memory.max": "1000"}, [1000]),
        ("0::/job/step", {"job/step/memory.max": "max", "job/memory.max": "7"}, [7]),
        ("9:name=systemd:/\n4:cpu,memory:/a", {"cpu,memory/memory.limit_in_bytes": "5"}, [5]),
        ("4:memory:/docker/x\n0::/", {"memory/memory.limit_in_bytes": "9"}, [9]),
        ("0::/", {}, []),
        (None, {}, []),
    ],
)
def test_memory_is_what_a_container_or_a_job_may_take(tmp_path, monkeypatch, own, files, limits):
    if own is not None:
        (tmp_path / "own").write_text(f"{own}\n")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    assert device._limits(tmp_path / "own", tmp_path / "groups") == limits
    monkeypatch.setattr(device, "_limits", lambda: limits)
    free = device.memory(torch.device("cpu"))
    assert free == limits[0] if limits else free > 1 << 28


def test_a_method_of_a_notebook_is_refused_before_workers_start(tmp_path):
    code = CODE_OF_ONES_OWN.format(folder=str(tmp_path))
    environment = {**os.environ, "WORKERS": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-"], input=code, env=environment, capture_output=True, text=True
    )
    words = (
        "SettingError: method Mine is defined in a notebook, or in no file; allowed with WORKERS"
    )
    assert done.stderr.splitlines()[-1].removeprefix("atomlib.errors.").startswith(words)
    assert done.stderr.splitlines()[-1].endswith("package.module:Mine")


CODE_OF_ONES_OWN = """
from typing import ClassVar
from atomlib.methods import DM
from atomlib.runs import Store, cells, sweep

class Mine(DM):
    name: ClassVar[str] = "mine"
    label: ClassVar[str] = "Mine"
    source: ClassVar[str] = "a lab"

small = {{"width": 16, "iterations": 1, "real_batch": 4}}
grid = cells(["digits"], [Mine], [1], [0, 1], settings=small, evaluation={{"width": 16}})
sweep(Store({folder!r}, progress=False), grid)
"""


def test_threads_are_those_asked_for_and_are_put_back(monkeypatch, tmp_path, make_data):
    seen = []
    monkeypatch.setattr(
        Store, "trajectory", lambda *_: seen.append(torch.get_num_threads()) or [None]
    )
    monkeypatch.setattr(Store, "accuracies", lambda *_: {})
    monkeypatch.setenv("CPUS_PER_CELL", "2")
    sweep(Store(tmp_path, progress=False), small_grid(make_data())[:1])
    assert (seen, torch.get_num_threads()) == ([2], 1)
