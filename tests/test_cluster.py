"""A grid and a search on a real Ray cluster of two nodes: as in one process, whatever dies."""

import importlib
import os
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from atomlib.distilled_set import stem
from atomlib.nas.search import Proxy, evaluate_candidates
from atomlib.nas.space import Candidate
from atomlib.runs import ray_cluster
from atomlib.runs.ray_cluster import in_cluster
from atomlib.runs.store import Store
from atomlib.runs.sweep import sweep
from atomlib.training import EvalConfig
from tests.conftest import often
from tests.ray_nodes import ray_nodes
from tests.test_engine import checkpoints, numbers, same, small_grid

ray = pytest.importorskip("ray")
module = importlib.import_module("atomlib.runs.sweep")  # `atomlib.runs.sweep` is the function

PAUSE = 0.25
"""Seconds that counted work takes at the least, so that a kill falls into it."""


@pytest.fixture(scope="module")
def nodes():
    with ray_nodes(2) as started:
        yield started


@pytest.fixture
def on_ray(monkeypatch, nodes):
    """Have the engine be the cluster."""
    monkeypatch.setenv("ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    monkeypatch.setenv("CPUS_PER_CELL", "1")


@pytest.fixture
def apply(nodes, tmp_path):
    """What a function gives for items of given names; the names it was called with, in a file."""

    def run(function, names, **options):
        def make(log):
            log("made")
            return lambda item: (log(item.name), function(item.name))[1]

        path = tmp_path / "log"

        def log(line):
            with open(path, "a") as file:
                file.write(f"{line}\n")

        items = [SimpleNamespace(name=name) for name in names]
        return in_cluster(items, make, (log,), address=nodes.address, **options)

    run.log = lambda: (tmp_path / "log").read_text().split()
    return run


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """Every run of a distillation and evaluation on a worker: what, and whose child it is."""
    path, real = tmp_path / "work", module._maker

    def maker(*arguments):
        from atomlib.runs import store

        def note(what, name):
            with open(path, "a") as file:
                file.write(f"{what}:{name} {os.getppid()}\n")
            time.sleep(PAUSE)

        trajectory, evaluate = store.trajectory, store.evaluate

        def noted_trajectory(data, config, *rest, **options):
            note("distil", stem(data.name, config))
            yield from trajectory(data, config, *rest, **options)

        def noted_evaluate(distilled, data, config, **options):
            note("evaluate", f"{distilled.stem}-on-{config.model}")
            return evaluate(distilled, data, config, **options)

        store.trajectory, store.evaluate = noted_trajectory, noted_evaluate
        return real(*arguments)

    monkeypatch.setattr(module, "_maker", maker)

    def lines():
        """(what, parent's id), in order."""
        text = path.read_text() if path.exists() else ""
        found = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [(what, int(parent)) for what, parent in found]

    lines.clear = lambda: path.unlink(missing_ok=True)
    return lines


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:1"])
def test_no_cluster_at_the_address_is_said_at_once(address, complains):
    start = time.monotonic()
    with complains("RAY_ADDRESS", repr(address), "HOST:PORT"):
        list(in_cluster([SimpleNamespace(name="a")], str, (), address=address))
    assert time.monotonic() - start < 10


def test_a_missing_ray_is_said_with_what_installs_it(monkeypatch, complains):
    monkeypatch.setitem(sys.modules, "ray", None)
    with complains("ENGINE is 'ray'", 'pip install "atomlib[ray]"'):
        list(in_cluster([SimpleNamespace(name="a")], str, ()))


def test_a_grid_is_made_as_in_one_process_and_both_nodes_work(
    on_ray, counted, monkeypatch, tmp_path, make_data, nodes
):
    grid = small_grid(make_data())
    stores = [Store(tmp_path / name, progress=False) for name in ("serial", "cluster")]
    with monkeypatch.context() as patch:
        patch.setenv("ENGINE", "processes")
        records, _ = sweep(stores[0], grid, checkpoints)
    beside, _ = sweep(stores[1], grid, checkpoints)
    assert numbers(beside) == numbers(records)
    assert same(*stores) == 3 * 3 + 1
    # A distillation a set, and an evaluation a record.
    assert len(counted()) == 4 + len(records)
    assert set(Counter(what for what, _ in counted()).values()) == {1}
    assert len({parent for _, parent in counted()}) == 2
    left = {path.name for path in stores[1].folder.iterdir()}
    assert left == {"distilled", "results", "unfinished"}


@pytest.mark.torture
def test_a_node_that_dies_loses_nothing_and_no_other_cell_is_made_twice(
    on_ray, counted, monkeypatch, tmp_path, make_data, nodes, tally
):
    grid = small_grid(make_data())
    serial = Store(tmp_path / "serial", progress=False)
    with monkeypatch.context() as patch:
        patch.setenv("ENGINE", "processes")
        records, _ = sweep(serial, grid, checkpoints)
    cut = 0
    for attempt in range(often(torture=5, short=1)):
        chance = random.Random(attempt)
        doomed = nodes.alive()[-1]
        own, at = nodes.processes(doomed), chance.randint(1, 3)
        delay, killed = chance.uniform(0, PAUSE / 2), []

        def kill(doomed=doomed, own=own, at=at, delay=delay, killed=killed):
            while sum(parent in own for _, parent in counted()) < at:
                time.sleep(0.01)
            time.sleep(delay)
            nodes.kill(doomed)
            killed.append(time.monotonic())

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        store = Store(tmp_path / f"killed-{attempt}", progress=False)
        beside, _ = sweep(store, grid, checkpoints)
        assert killed and killed[0] < time.monotonic()
        killer.join()
        assert numbers(beside) == numbers(records)
        assert same(serial, store) == 3 * 3 + 1
        # The one thing that the node was at is done again; all else is done once.
        times = Counter(what for what, _ in counted())
        lost = [what for what, parent in counted() if parent in own][-1]
        again = {what for what, count in times.items() if count > 1}
        assert again <= {lost} and times[lost] <= 2
        cut += len(again)
        tally("cluster nodes killed, nothing lost")
        counted.clear()
        nodes.add()
    assert cut > 0, "no kill fell into a piece of work"


@pytest.fixture(scope="class")
def connection(nodes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOM_TRAVELS", "far")
        ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()


@pytest.mark.usefixtures("connection")
class TestOnOneConnection:
    """On a connection that is there, as a notebook's own, so that workers need no new start."""

    @pytest.fixture(autouse=True)
    def stays(self):
        yield
        assert ray.is_initialized()

    def test_a_worker_that_dies_is_replaced(self, apply, tmp_path):
        mark = tmp_path / "died"

        def die_once(name):
            if name == "b" and not mark.exists():
                mark.touch()
                os._exit(1)
            return name.upper()

        found = {item.name: result for item, result in apply(die_once, "abc")}
        assert found == {"a": "A", "b": "B", "c": "C"}
        assert Counter(apply.log())["b"] == 2

    def test_what_fails_is_named_and_not_tried_again(self, apply):
        def fail(name):
            return 1 / (name != "third")

        with pytest.raises(
            RuntimeError, match=r"^third failed: ZeroDivisionError: division by zero"
        ):
            list(apply(fail, ["third"]))
        assert apply.log() == ["made", "third"]

    def test_candidates_reach_what_they_reach_in_one_process(
        self, on_ray, monkeypatch, tmp_path, make_data
    ):
        data = make_data(counts=(20, 20, 20))
        proxy = Proxy.of_full_data(data, zca=False, epochs=2, device="cpu")
        candidates = [
            Candidate(depth, 32, "relu", norm, "average")
            for depth in (1, 2)
            for norm in ("instance", "none")
        ]

        def search(keep):
            options = {"zca": False, "workers": 1, "device": "cpu", "progress": False}
            table = evaluate_candidates(
                proxy, candidates, data, EvalConfig(), keep=tmp_path / keep, **options
            )
            return table.drop(columns="seconds")

        on_cluster = search("cluster.jsonl")
        monkeypatch.setenv("ENGINE", "processes")
        assert on_cluster.equals(search("serial.jsonl"))
        assert len((tmp_path / "cluster.jsonl").read_text().splitlines()) == len(candidates)

    def test_a_folder_that_a_node_does_not_see_is_refused(self, apply, tmp_path, complains):
        # What /proc/self is differs from process to process, as a local disk does between nodes.
        descriptor = os.open(tmp_path, os.O_RDONLY)
        unseen = Path(f"/proc/self/fd/{descriptor}")
        try:
            if not unseen.exists():
                pytest.skip("no /proc here")
            with complains("folder", unseen, "on node", "allowed: a folder that all nodes share"):
                list(apply(str.upper, "ab", shared=unseen))
        finally:
            os.close(descriptor)
        assert not list(tmp_path.iterdir())

    def test_more_than_a_node_has_is_refused(self, apply, complains):
        with complains("CPUS_PER_CELL is 64", "1 CPUs and 0 GPUs"):
            list(apply(str.upper, "ab", cpus=64))
        with complains("GPUS_PER_CELL 0.5", "0 GPUs"):
            list(apply(str.upper, "ab", gpus=0.5))

    def test_work_is_prepared_once_a_worker_and_leaving_ends_the_rest(self, apply):
        def slow(name):
            time.sleep(0.3)
            return os.environ.get("ATOM_TRAVELS"), torch.get_num_threads()

        results = apply(slow, [str(n) for n in range(40)])
        seen = [next(results)[1] for _ in range(4)]
        results.close()
        assert seen == [("far", 1)] * 4
        time.sleep(1)
        assert Counter(apply.log())["made"] <= 2
        assert len(apply.log()) < 20


def test_a_worker_elsewhere_has_the_folders_of_this_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("ATOM_CACHE", "cache"), ("ATOM_DATA", "/data"), ("ATOM_SETS", "~/sets")):
        monkeypatch.setenv(name, value)
    found = ray_cluster._environment()
    assert found["ATOM_CACHE"] == str(tmp_path / "cache")
    assert (found["ATOM_DATA"], found["ATOM_SETS"]) == ("/data", "~/sets")


def test_a_task_that_asks_for_no_gpu_sees_none():
    def nodes(*gpus):
        return [{"Resources": {"CPU": 2.0, **({"GPU": n} if n else {})}} for n in gpus]

    assert ray_cluster._hiding(0, nodes(0, 4)) == {"CUDA_VISIBLE_DEVICES": ""}
    assert ray_cluster._hiding(0.25, nodes(0, 4)) == ray_cluster._hiding(0, nodes(0, 0)) == {}
