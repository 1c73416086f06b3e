"""torch.compile: any number of steps in a process, and a record that says what really ran."""

import math
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.utils import fresh_inductor_cache

from atomlib.distill import distill
from atomlib.errors import SettingError
from atomlib.methods import ATOM
from atomlib.models.build import network_for
from atomlib.randomness import stream
from atomlib.runtime import compiling
from atomlib.runtime import device as runtime
from atomlib.runtime.compiling import PAYS_ON_A_CPU
from atomlib.runtime.device import Execution
from atomlib.runtime.files import write_record
from atomlib.training import EvalConfig, Trainer

CPU = torch.device("cpu")
LEARN = {"real_batch": 4, "width": 8, "zca": False, "compile": "on", "loss_scale": 100.0}
MANY = [(ipc, power) for ipc in (1, 2, 3) for power in (1.0, 2.0, 4.0)]
"""IPC and power of a grid of nine cells; dynamo's own limit is eight."""


def nudged(graph, inputs):
    """A backend whose numbers tell themselves from those of eager code, and that is fast."""

    def run(*arguments):
        return tuple(
            1.001 * out if isinstance(out, torch.Tensor) and out.is_floating_point() else out
            for out in graph(*arguments)
        )

    return run


@pytest.fixture
def backend(monkeypatch):
    """torch.compile with another backend, nothing having been compiled before."""
    torch._dynamo.reset()
    compiling.works.cache_clear()
    plain = torch.compile

    def use(function):
        def compile_with(f, dynamic=None, mode=None, options=None):
            return plain(f, dynamic=dynamic, backend=function)

        monkeypatch.setattr(torch, "compile", compile_with)

    yield use
    torch._dynamo.reset()
    compiling.works.cache_clear()


def config_of(ipc, power, **settings):
    return ATOM(ipc=ipc, spatial_power=power, **{**LEARN, **settings})


def test_the_ninth_cell_of_a_process_is_compiled_and_has_the_bytes_it_has_alone(make_data, backend):
    backend(nudged)
    assert compiling.works("cpu")  # its own graph is made here, and not counted below
    data = make_data()

    def made(config):
        before = counters["stats"]["unique_graphs"]
        digest = distill(data, config, device="cpu", progress=False).digest()
        return digest, counters["stats"]["unique_graphs"] - before

    last = config_of(*MANY[-1], iterations=3)
    # One graph for the real images, one for the synthetic ones and the loss.
    alone, graphs = made(last)
    assert graphs == 2
    eager, graphs = made(last.but(compile="off"))
    assert graphs == 0 and eager != alone  # or this test would see nothing
    torch._dynamo.reset()
    for ipc, power in MANY[:-1]:
        # That of the real images is used again for another IPC.
        assert made(config_of(ipc, power, iterations=1))[1] >= 1, (ipc, power)
    digest, graphs = made(last)
    assert digest == alone and graphs >= 1


def test_limits_that_a_user_has_raised_stay():
    limits = torch._dynamo.config
    names = ("cache_size_limit", "accumulated_cache_size_limit", "suppress_errors")
    before = {name: getattr(limits, name) for name in names}
    try:
        limits.cache_size_limit, limits.suppress_errors = 10**7, True
        compiling.Compiled(lambda x: x, "default", print)
        assert limits.cache_size_limit == 10**7
        assert limits.accumulated_cache_size_limit == compiling.FORMS
        assert limits.suppress_errors
    finally:
        for name, value in before.items():
            setattr(limits, name, value)


def test_code_compiled_for_another_number_of_threads_is_not_taken_from_the_cache():
    """torch names it by all but the number of threads; a product of one thread is not two's."""

    def product(x):
        return (1 + x / 10_000).prod()

    def multiplied(threads):
        torch.set_num_threads(threads)
        torch._dynamo.reset()
        return compiling.Compiled(product, "default", print)(numbers).item()

    numbers, before = torch.randn(2**20, generator=stream(0, "numbers")), torch.get_num_threads()
    try:
        with fresh_inductor_cache():
            alone = multiplied(2)
        with fresh_inductor_cache():
            one, after = multiplied(1), multiplied(2)
    finally:
        torch.set_num_threads(before)
        torch._dynamo.reset()
    assert one != alone  # or this test would see nothing
    assert after == alone


def broken(graph, inputs):
    raise RuntimeError("no compiler here")


def test_where_nothing_can_be_compiled_runs_are_eager_float32_and_say_so(
    backend, monkeypatch, capsys
):
    backend(broken)
    monkeypatch.setattr(runtime, "has_bfloat16", lambda device: True)
    for config in (ATOM(), ATOM(compile="on")):
        assert str(Execution(config, CPU, 2 * PAYS_ON_A_CPU)) == "eager float32 on cpu"
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "no compiler here" in said
    asked = Execution(ATOM(precision="bfloat16"), CPU, 2 * PAYS_ON_A_CPU)
    assert str(asked) == "eager bfloat16 on cpu"


def test_a_step_that_could_not_be_compiled_is_called_eager(backend):
    def large(graph, inputs):
        if len(graph.graph.nodes) > 6:
            raise RuntimeError("out of registers")
        return graph

    backend(large)
    run = Execution(ATOM(compile="on", precision="float32"), CPU, 0)
    step = run.compiled(lambda x: ((x + 1) * 2 - 3).sin().cos().exp().tanh())
    assert str(run) == "compiled float32 on cpu"
    step(torch.ones(3))
    assert str(run) == "eager float32 on cpu"


COMPILED = """
import sys, torch
from atomlib.runtime import compiling
if not compiling.works("cpu"):
    sys.exit("works said no")
step = compiling.Compiled(lambda x: x.sin().exp().sum(), "default", lambda: print("eager"))
x = torch.arange(64.0, requires_grad=True)
step(x).backward()
print(x.grad.sum().item())
"""


def test_compiled_code_that_was_cut_short_is_made_again_or_done_without(tmp_path):
    if not compiling.works("cpu"):
        pytest.skip("no compiler here")

    def said():
        done = subprocess.run(
            [sys.executable, "-c", COMPILED],
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.split(), done.stderr

    whole, _ = said()
    made = sorted(tmp_path.rglob("*.main.so"), key=lambda path: path.stat().st_mtime_ns)
    assert len(made) == 3  # of works, of the step forward and of it backward
    # Empty, as a power cut leaves it: taken out and made again; not a lock, nor what is new.
    (new := tmp_path / "new.so").touch()
    (lock := tmp_path / "old.lock").touch()
    hour_ago = time.time() - 3600
    for path in made:
        path.write_bytes(b"")
    for path in (lock, *made):
        os.utime(path, (hour_ago, hour_ago))
    assert said()[0] == whole
    assert all(path.stat().st_size for path in made) and new.exists() and lock.exists()
    # Damaged otherwise, and of the backward: seen when the step is called, where it is caught.
    made[-1].write_bytes(b"cut")
    (eager, number), told = said()
    assert eager == "eager" and float(number) == pytest.approx(float(whole[0]))
    assert "a step cannot be compiled (" in told and "it runs eager" in told


def test_bfloat16_warps_images_where_float32_does(make_data):
    """The sampling grid is a matrix product: in bfloat16 it is a tenth of a pixel off."""
    data = make_data(size=16)
    seen = {}
    for precision in ("float32", "bfloat16"):
        config = EvalConfig(width=8, compile="off", precision=precision, epochs=1, batch_size=3)
        config = config.resolve(16)
        network = network_for(config, data)
        inputs = seen[precision] = []
        network.register_forward_pre_hook(partial(_keep, inputs))
        images = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        trainer = Trainer(network, config, Execution(config, CPU, 0))
        trainer.train(images, torch.arange(9) % 3, [torch.Generator().manual_seed(1)])
    assert len(seen["float32"]) == 6
    for narrow, wide in zip(seen["bfloat16"], seen["float32"], strict=True):
        assert torch.equal(narrow, wide)


def _keep(inputs, module, args):
    inputs.append(args[0].detach().clone())


TRIED = compiling.Trial(
    operations=10, eager_s=2.0, compiled_s=1.0, compiling_s=3.0, replayed_s=0.5, same=True
)


@pytest.fixture
def tried(monkeypatch, tmp_path):
    """A GPU of no name with a cache of its own: where TRIED comes from, and how often."""
    asked = []

    def trial(device):
        asked.append(device)
        return TRIED

    monkeypatch.setattr(compiling, "trial", trial)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "none that there is")
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path))
    return asked


def test_a_gpu_is_tried_once(tried, tmp_path):
    device = torch.device("cuda")
    first = compiling.pays_from(device)
    assert first == compiling.STEPS_COMPILED * 3 * 10 == compiling.pays_from(device)
    assert compiling.replays(device)
    assert tried == [device]
    # What older code kept lacks a field.
    (path,) = tmp_path.glob("compiling/*.json")
    write_record(path, {"pays_from": "12"})
    assert compiling.pays_from(device) == first
    assert tried == [device, device]


def test_a_trial_that_fails_gains_nothing_and_is_told_once(tried, monkeypatch, capsys, tmp_path):
    def fails(device):
        tried.append(device)
        raise RuntimeError("CUDA out of memory")

    device = torch.device("cuda")
    monkeypatch.setattr(compiling, "trial", fails)
    monkeypatch.setattr(compiling, "_failed", {})
    assert not compiling.pays(1e18, device) and not compiling.replays(device)
    assert compiling.pays_from(device) == math.inf and len(tried) == 1
    assert "neither could be tried (CUDA out of memory)" in capsys.readouterr().err
    assert not list(tmp_path.glob("compiling/*.json"))  # the next run tries again


def test_a_trial_that_cannot_be_kept_is_used_all_the_same(tried, monkeypatch, capsys):
    def full(path, record):
        raise SettingError("folder cannot be written")

    monkeypatch.setattr(compiling, "write_record", full)
    assert compiling.replays(torch.device("cuda"))
    assert "it is not kept" in capsys.readouterr().err


def test_processes_that_start_together_try_a_gpu_once(tried, monkeypatch):
    """The second waits, and reads what the first measured: else each would measure the other."""
    held, device = [], torch.device("cuda")

    @contextmanager
    def lock(path):
        if not held:  # another process had it first, and is through now
            held.append(path)
            compiling.tried_on(device)
        yield

    monkeypatch.setattr(compiling, "lock", lock)
    assert compiling.tried_on(device) == TRIED
    assert tried == [device] and held


@pytest.mark.parametrize(
    ("changed", "replays"),
    [({}, True), ({"same": False}, False), ({"replayed_s": 1.0}, False)],
    ids=["same and sooner", "other numbers", "no sooner"],
)
def test_graphs_are_on_where_the_trial_gave_the_same_numbers_sooner(
    monkeypatch, tried, changed, replays
):
    monkeypatch.setattr(compiling, "trial", lambda device: TRIED._replace(**changed))
    device = torch.device("cuda")
    assert compiling.replays(device) is replays
    monkeypatch.setattr(compiling, "works", lambda kind: True)
    run = Execution(ATOM(compile="on", precision="float32"), device, 0)
    assert run.graphs is replays
    assert str(run).endswith("replayed as CUDA graphs") is replays
    for asked in ("on", "off"):
        run = Execution(ATOM(compile="on", precision="float32", graphs=asked), device, 0)
        assert run.graphs is (asked == "on")


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "sown fault"])
def test_the_trial_sees_numbers_that_differ(monkeypatch, wrong):
    """The whole trial, on the CPU, with graphs that are right and that read an old image."""

    def compiled(function, dynamic, mode):
        if mode == "default" or not wrong:
            return function
        first = []

        def stale(x):
            first.append(x)
            return function(x) + 1e-3 * (first[0] - first[0].detach()).sum()

        return stale

    monkeypatch.setattr(torch, "compile", compiled)
    found = compiling.trial(CPU, images=4)
    assert found.same is not wrong
    assert min(found.eager_s, found.compiled_s, found.replayed_s, found.operations) > 0
