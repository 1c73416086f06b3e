"""Which GPU does what: workers of one machine, tasks of a cluster, and machines without one."""

import time
from types import SimpleNamespace

import pytest
import torch

from atomlib.nas import Proxy, search, search_space
from atomlib.runs import engine, processes, ray_cluster
from atomlib.runs.engine import Engine
from atomlib.runtime.provenance import hardware, on_a_cpu
from atomlib.training import EvalConfig
from tests.gpu import pretend_gpu

DONE = {name: 0.0 for name in search.MEASURED}


@pytest.fixture
def asked(monkeypatch):
    """What the search asks of processes and of a cluster, neither of which does any work."""
    calls = []

    def side_by_side(groups, count, make, arguments):
        device = str(arguments[-1][0])
        calls.append(SimpleNamespace(where="processes", workers=count, device=device))
        calls[-1].groups = groups
        yield from ((group, [DONE] * len(group.candidates)) for group in groups)

    def tasks(groups, make, arguments, **about):
        device = str(arguments[-1][0])
        calls.append(SimpleNamespace(where="cluster", device=device, groups=groups, **about))
        yield from ((group, [DONE] * len(group.candidates)) for group in groups)

    monkeypatch.setattr(engine, "in_processes", side_by_side)
    monkeypatch.setattr(engine, "in_cluster", tasks)
    for name in ("WORKERS", "ENGINE", "GPUS_PER_CELL", "CPUS_PER_CELL"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.fixture
def run_search(make_data, tmp_path):
    """Search over candidates of six shapes, fifteen of each."""
    data = make_data(size=32)
    proxy = Proxy.of_full_data(data, zca=False, epochs=1, device="cpu")
    some = [c for c in search_space() if c.width == 32 and c.depth < 3]

    def run(**options):
        options = {"zca": False, "progress": False, "keep": tmp_path / "nas.jsonl", **options}
        return search.evaluate_candidates(proxy, some, data, EvalConfig(), **options)

    return run


def test_a_search_uses_all_gpus_of_its_machine(asked, run_search):
    with pretend_gpu(count=4):
        run_search()
    (call,) = asked
    # No number: each worker takes the GPU of its own number.
    assert (call.where, call.workers, call.device) == ("processes", 4, "cuda")


def test_a_search_has_as_many_workers_as_WORKERS_says(asked, run_search, monkeypatch):
    monkeypatch.setenv("WORKERS", "3")
    run_search(device="cpu")
    assert [(call.workers, call.device) for call in asked] == [(3, "cpu")]


def test_workers_that_share_a_gpu_share_its_memory(asked, run_search, tmp_path):
    sizes = []
    for gpus, count in ((4, 4), (1, 4)):
        with pretend_gpu(gigabytes=10, count=gpus):
            run_search(workers=count, keep=tmp_path / f"{gpus}.jsonl")
        sizes.append(max(len(group.candidates) for group in asked[-1].groups))
    assert sizes[0] > sizes[1]


@pytest.mark.parametrize(
    ("number", "count", "taken"), [(0, 4, 0), (3, 4, 3), (5, 4, 1), (2, 1, None)]
)
def test_a_worker_takes_the_gpu_of_its_number(monkeypatch, number, count, taken):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    processes.take_gpu(number)
    assert chosen == ([] if taken is None else [taken])


taken = []
"""In a worker: the number by which it takes a GPU."""


def start(*arguments):
    processes.take_gpu = taken.append
    processes._start(*arguments)


def telling():
    def tell(item):
        time.sleep(0.5)  # so that one worker does not do it all
        return taken[0]

    return tell


def test_workers_are_numbered_from_nought(monkeypatch):
    """By its name, such as SpawnProcess-1:3, a child of a child has no number."""
    monkeypatch.setattr(processes, "_start", start)  # here: a worker's is as it was
    items = [SimpleNamespace(name=name) for name in "abcd"]
    assert {number for _, number in processes.in_processes(items, 2, telling, ())} == {0, 1}


def test_a_record_from_the_other_kind_of_device_is_said_to_be_another_sample():
    assert on_a_cpu(hardware())
    with pretend_gpu():
        assert not on_a_cpu(hardware())


# On a cluster


@pytest.fixture
def on_ray(monkeypatch):
    """A cluster whose tasks, where they have a GPU, have one of so much memory."""

    def having(memory):
        monkeypatch.setenv("ENGINE", "ray")
        monkeypatch.setattr(engine, "memory_of_a_task", lambda *_: memory)

    return having


def test_no_gpu_for_a_cell_means_no_gpu_for_a_candidate(asked, run_search, on_ray, monkeypatch):
    """A driver that has a GPU sent tasks that have none to it, and all of them failed."""
    on_ray(None)
    monkeypatch.setenv("GPUS_PER_CELL", "0")
    with pretend_gpu():
        run_search()
    (call,) = asked
    assert (call.gpus, call.device) == (0, "cpu")
    assert all(len(group.candidates) == 1 for group in call.groups)


def test_a_gpu_and_no_gpu_is_refused(asked, run_search, on_ray, monkeypatch, complains):
    on_ray(None)
    monkeypatch.setenv("GPUS_PER_CELL", "0")
    with pretend_gpu(), complains("device is 'cuda'", "GPUS_PER_CELL is 0"):
        run_search(device="cuda")


def test_a_driver_without_a_gpu_uses_those_of_its_cluster(asked, run_search, on_ray):
    on_ray(80 * 10**9)
    run_search()
    (call,) = asked
    assert (call.gpus, call.device) == (None, "cuda")
    assert max(len(group.candidates) for group in call.groups) > 1


def test_a_search_that_asks_for_the_cpu_has_it(asked, run_search, on_ray):
    on_ray(80 * 10**9)
    run_search(device="cpu")
    (call,) = asked
    assert (call.gpus, call.device) == (0, "cpu")


def nodes(*resources):
    return [
        {"Alive": True, "NodeID": str(i), "Resources": {"CPU": float(cpus), "GPU": float(gpus)}}
        for i, (cpus, gpus) in enumerate(resources)
    ]


@pytest.mark.parametrize(
    ("resources", "asked", "gpus", "leased"),
    [
        ([(64, 4)], None, None, 16),  # a quarter of the node, where one cell took it whole
        ([(64, 4)], None, 0.25, 4),
        ([(64, 4), (8, 2)], None, None, 4),
        ([(3, 4)], None, None, 1),
        ([(64, 4)], 8, None, 8),  # as was asked
        ([(64, 0)], None, None, 32),  # no GPU: the threads of the driver
        ([(64, 4)], None, 0, 32),
    ],
)
def test_a_cell_on_a_gpu_leaves_processors_to_the_other_gpus(resources, asked, gpus, leased):
    _, _, cpus = ray_cluster._able(nodes(*resources), asked, gpus, threads=32)
    assert cpus == leased


def test_cpus_are_those_of_torch_where_nobody_asked(monkeypatch):
    monkeypatch.delenv("CPUS_PER_CELL", raising=False)
    assert Engine.chosen().cpus == torch.get_num_threads()


@pytest.mark.parametrize(
    ("resources", "gpus", "calls"), [([(8, 4)], 1, 1), ([(8, 1), (8, 1)], 1, 0), ([(8, 4)], 0, 0)]
)
def test_a_worker_is_used_once_where_its_next_gpu_could_be_another(resources, gpus, calls):
    """A process keeps the GPU that it began with, whatever Ray lends it next."""
    assert ray_cluster._max_calls(gpus, nodes(*resources)) == calls
