"""What an iteration costs: counted work against a hand count, measured time against a clock."""

import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atomlib.methods import ATOM, DM, RandomImages
from atomlib.methods.learned_images import LearnedImages
from atomlib.recipes import RECIPES
from atomlib.report import readable, sentences
from atomlib.report.figures import cost_figure
from atomlib.runs import cost
from atomlib.runs.cost import costs, matrix_rate, peak_memory, seconds, step_cost
from atomlib.runs.processes import alone
from atomlib.runtime.device import Execution

CPU = torch.device("cpu")
SMALL = {"width": 16, "real_batch": 4, "compile": "off", "depth": 2}


def test_seconds_are_the_median():
    naps = iter([0.0, 0.05, 0.3])
    assert 0.04 < seconds(lambda: time.sleep(next(naps)), CPU, 3) < 0.25


def test_operations_are_those_of_all_forwards_and_the_backward(make_data):
    data = make_data()
    row = step_cost(data, ATOM(ipc=2, **SMALL).resolve(data), CPU, repeats=1)
    # Two convolutions on 8 x 8 and 4 x 4 maps and a classifier of 3 classes, 2 for * and +.
    forward = 2 * (64 * 9 * 3 * 16 + 16 * 9 * 16 * 16 + 16 * 2 * 2 * 3)
    images = 3 * (4 + 2 * 2)  # a backward to the synthetic images is one forward more
    assert row["gflop"] * 1e9 == pytest.approx(forward * images)
    assert row["bound_s"] == pytest.approx(row["gflop"] / row["matrix_gflops"])
    assert row["times_bound"] == pytest.approx(row["step_s"] / row["bound_s"])
    assert row["times_bound"] > 1
    assert row["how"] == "eager float32 on cpu"


def test_operations_are_those_that_a_step_really_makes(make_data):
    data = make_data()
    method = ATOM(ipc=2, **SMALL).resolve(data)
    learner = method.learner(data, CPU)
    with FlopCounterMode(display=False) as counter:
        learner.iterate()
    # The step has no use for the classifier, which the count includes.
    assert counter.get_total_flops() == pytest.approx(method.operations(data), rel=0.01)


def test_peak_memory_is_that_of_the_process():
    script = (
        "import torch\n"
        "from atomlib.runs.cost import peak_memory\n"
        "before = peak_memory(torch.device('cpu'))\n"
        "torch.ones(10**8)\n"  # 400 MB, given back at once
        "print(before, peak_memory(torch.device('cpu')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert before > 50e6
    assert 350e6 < after - before < 450e6


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux")
def test_a_peak_that_is_forgotten_counts_no_more():
    script = (
        "import torch\n"
        "from atomlib.runs.cost import forget_peak, peak_memory\n"
        "from atomlib.runtime.device import keep_freed_memory\n"
        "cpu = torch.device('cpu')\n"
        "keep_freed_memory()\n"
        "torch.ones(10**8)\n"  # 400 MB, given back to the process alone
        "before = peak_memory(cpu)\n"
        "forget_peak(cpu)\n"
        "held = torch.ones(5 * 10**7)\n"  # 200 MB
        "print(before, peak_memory(cpu))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert 150e6 < before - after < 250e6


def test_the_matrix_rate_is_one_a_processor_can_have():
    assert 1e9 < matrix_rate(torch.float32, CPU) < 1e14


def test_a_matrix_product_has_two_operations_for_each_of_its_sums(monkeypatch):
    monkeypatch.setattr(cost, "timings", lambda action, device, repeats: [1.0, 2.0])
    assert matrix_rate(torch.float32, CPU) == 2 * 2048**3


def test_data_go_to_a_process_of_its_own_without_shared_memory(make_data):
    """A container's /dev/shm is often 64 MB."""
    data = make_data()
    assert alone(len, data.train_labels) == len(data.train_labels)
    assert alone(torch.add, torch.ones(2), 1).tolist() == [2, 2]
    assert not data.train_labels.is_shared()


def test_a_replayed_step_tells_the_memory_that_its_recording_took(make_data, monkeypatch):
    peaks = iter([5e6, 1e6])  # allocations while replaying: none of the step's
    monkeypatch.setattr(cost, "peak_memory", lambda device: next(peaks))
    real = Execution.__init__

    def replayed(self, *arguments):
        real(self, *arguments)
        self.graphs = True

    monkeypatch.setattr(Execution, "__init__", replayed)
    method = DM(**SMALL).resolve(make_data())
    assert step_cost(make_data(), method, CPU, 1)["step_peak_mb"] == 5


def test_every_method_is_measured_in_a_process_of_its_own(make_data):
    data = make_data()
    held = torch.ones(10**8)  # 400 MB that another process does not hold
    table = costs(data, [DM(**SMALL), ATOM(**SMALL)], repeats=1, progress=False)
    assert table.method.tolist() == ["dm", "atom"]
    assert (table.step_peak_mb <= table.peak_mb).all() and (table.step_peak_mb > 50).all()
    assert (table.peak_mb * 1e6 < peak_memory(CPU) - 3e8).all() and held.numel()
    (sentence,) = sentences.of_costs(table)
    ratio = table.step_s[1] / table.step_s[0]
    assert f"{ratio:.2f} times one of DM" in sentence
    assert f"{table.step_peak_mb[1] / table.step_peak_mb[0]:.2f} times its memory" in sentence
    shown = readable.costs(table)
    assert shown.method.tolist() == ["DM", "ATOM"]
    assert shown["peak memory, GB"].tolist() == [f"{mb / 1e3:.2f}" for mb in table.step_peak_mb]
    assert shown["bound, s"][0] == f"{table.gflop[0] / table.matrix_gflops[0]:.3g}"
    assert table.recipe.tolist() == ["text", "text"]


@pytest.mark.parametrize("repeats", [0, -1, 1.5])
def test_a_step_is_timed_once_or_more(make_data, complains, repeats):
    with complains(f"repeats is {repeats}", "1 or more"):
        costs(make_data(), [DM(**SMALL)], repeats=repeats, progress=False)


def test_a_method_without_steps_has_no_cost(make_data, complains):
    with complains("methods has 'random'", "methods that learn"):
        costs(make_data(), [RandomImages(ipc=1)], progress=False)


def test_a_learner_that_does_not_count_its_operations_has_no_cost(make_data, complains):
    class Uncounted(LearnedImages):
        name: ClassVar[str] = "uncounted"

    with complains("methods has 'uncounted'", "operations(data)"):
        costs(make_data(), [Uncounted()], progress=False)


def test_costs_by_two_recipes_are_told_apart(make_data):
    data = make_data()
    of_both = (ATOM(recipe=r, **SMALL).resolve(data) for r in RECIPES)
    table = pd.DataFrame(step_cost(data, method, CPU, 1) for method in of_both)
    assert readable.costs(table).method.tolist() == ["ATOM", "ATOM, by the code"]
    right = cost_figure(table).axes[1]
    first, second = (patch.get_x() + patch.get_width() / 2 for patch in right.patches)
    assert second - first == pytest.approx(0.4)
    assert [text.get_text() for text in right.get_legend().texts] == ["ATOM", "ATOM, by the code"]
