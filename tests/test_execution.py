"""How arithmetic runs: what is chosen when, what turns it off, and what gives way to what."""

import os
import platform
import subprocess
import sys
from functools import partial

import pytest
import torch

from atomlib.methods import ATOM
from atomlib.runtime import compiling, provenance
from atomlib.runtime import device as execution
from atomlib.runtime.compiling import PAYS_ON_A_CPU
from atomlib.runtime.device import Execution, pick_device
from tests.gpu import pretend_gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LONG, SHORT = 2 * PAYS_ON_A_CPU, PAYS_ON_A_CPU / 2


@pytest.fixture(autouse=True)
def a_compiler(monkeypatch):
    monkeypatch.setattr(compiling, "works", lambda kind: True)


@pytest.fixture(params=[True, False])
def narrow(request, monkeypatch):
    """Whether the processor multiplies in bfloat16."""
    monkeypatch.setattr(execution, "has_bfloat16", lambda device: request.param)
    return request.param


def test_long_runs_are_compiled_and_narrow_where_the_processor_is(narrow):
    long, short = Execution(ATOM(), CPU, LONG), Execution(ATOM(), CPU, SHORT)
    assert long.compile and not short.compile
    assert long.dtype == (torch.bfloat16 if narrow else torch.float32)
    assert short.dtype == torch.float32


def test_the_number_type_on_a_gpu_does_not_hang_on_what_a_trial_measured(monkeypatch):
    """Times differ from run to run; results must not."""
    for pays in (True, False):
        monkeypatch.setattr(compiling, "pays", lambda operations, device, pays=pays: pays)
        monkeypatch.setattr(compiling, "replays", lambda device: False)
        with pretend_gpu():
            long, short = Execution(ATOM(), CUDA, LONG), Execution(ATOM(), CUDA, SHORT)
            other = Execution(ATOM().but(precision="float32"), CUDA, LONG)
        assert long.compile is pays and not short.compile
        assert long.dtype == torch.bfloat16
        assert short.dtype == other.dtype == torch.float32 and short.tf32 and not other.tf32


def test_a_gpu_that_torch_cannot_use_is_told_of_once(monkeypatch, capsys, tmp_path):
    execution._tell.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(None) == CPU and not capsys.readouterr().err  # a machine without one
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(execution, "DRIVERS", (tmp_path / "none", driver))
    assert [pick_device(None), pick_device(None)] == [CPU, CPU]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a driver older than CUDA" in said


@pytest.mark.parametrize(
    ("capability", "used"), [((7, 0), "cpu"), ((7, 5), "cuda"), ((8, 9), "cuda"), ((12, 1), "cuda")]
)
def test_a_gpu_of_before_what_torch_has_code_for_is_left_alone(
    monkeypatch, capsys, capability, used
):
    execution._tell.cache_clear()
    with pretend_gpu():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])
        assert pick_device(None).type == used
        assert provenance.on_a_cpu(provenance.hardware()) is (used == "cpu")
    assert ("compute capability, 7.0: the CPU is used" in capsys.readouterr().err) is (
        used == "cpu"
    )


def test_convolutions_on_a_mac_leave_out_what_is_slower_and_rounds_more(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.backends.nnpack, "set_flags", asked.append)
    for system in ("linux", "darwin"):
        monkeypatch.setattr(sys, "platform", system)
        Execution(ATOM(), CPU, SHORT)
    assert asked == [False]


def test_a_mac_says_which_of_its_chips_it_has(monkeypatch):
    """Its processor is "arm", whichever it is."""
    monkeypatch.setattr(sys, "platform", "darwin")
    for said, expected in (("Apple M4 Pro\n", "Apple M4 Pro"), ("", platform.machine())):
        monkeypatch.setattr(platform, "processor", lambda: "")
        answer = subprocess.CompletedProcess([], 0, stdout=said)
        monkeypatch.setattr(subprocess, "run", lambda *asked, answer=answer, **how: answer)
        assert provenance._processor.__wrapped__() == expected


def test_each_choice_can_be_made_by_hand(narrow):
    assert not Execution(ATOM(compile="off"), CPU, LONG).compile
    assert Execution(ATOM(compile="on"), CPU, 0).compile
    assert Execution(ATOM(precision="float32"), CPU, LONG).dtype == torch.float32
    assert Execution(ATOM(precision="bfloat16"), CPU, 0).dtype == torch.bfloat16


def test_cuda_graphs_are_for_compiled_steps_on_a_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **how: asked.append(how["options"]))
    for graphs, how, device in (
        (True, "on", CUDA), (False, "on", CUDA), (True, "on", CPU), (True, "off", CUDA)
    ):  # fmt: skip
        with pretend_gpu():
            Execution(ATOM(graphs=graphs, compile=how), device, 0).compiled(print)
    assert [options.get("triton.cudagraphs", False) for options in asked] == [True, False, False]


def test_what_cannot_be_compiled_runs_as_it_is_and_says_so_once(capsys, monkeypatch):
    def broken(graph, inputs, **how):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))
    double = Execution(ATOM(compile="on"), CPU, 0).compiled(lambda x: 2 * x)
    for _ in range(2):
        assert double(torch.ones(1)).item() == 2
    said = capsys.readouterr().err
    assert said.count("it runs eager") == 1 and "no compiler here" in said


def test_an_error_of_the_function_itself_is_not_hidden(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))

    def wrong(x):
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        Execution(ATOM(compile="on"), CPU, 0).compiled(wrong)(torch.ones(1))


def test_a_device_that_is_not_here_is_refused(complains):
    with complains("device is 'cuda:99'", "cpu"):
        pick_device("cuda:99")
    assert pick_device("cpu") == CPU


FAULTS = """
import resource, torch
from atomlib.methods import ATOM
from atomlib.runtime.device import Execution
Execution(ATOM(), torch.device("cpu"), 0)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
before = faults()
for _ in range(20):
    torch.ones(2**24)  # 64 MB each, or 16384 pages
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone")
def test_freed_memory_is_used_again_unless_switched_off():
    asked = {}
    for keep in "01":
        environment = {**os.environ, "ATOM_KEEP_MEMORY": keep, "THP_MEM_ALLOC_ENABLE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", FAULTS], env=environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        asked[keep] = int(done.stdout)
    if asked["0"] < 300_000:
        pytest.skip("pages of another size here")
    assert asked["1"] < 100_000
