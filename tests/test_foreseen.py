"""How long a grid will take: counted by hand, and against what a run really computes."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, METHODS, decoder
from atomlib.runs import cost, foreseen
from atomlib.runs.engine import Engine
from atomlib.runs.foreseen import Missing, missing
from atomlib.runs.grid import Cell, FullDataCell
from atomlib.runs.store import Store
from atomlib.runs.sweep import sweep
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.device import Execution
from atomlib.training import EvalConfig

CPU = torch.device("cpu")
SMALL = {"width": 16, "depth": 2, "compile": "off", "precision": "float32"}
FORWARD = 2 * (64 * 9 * 3 * 16 + 16 * 9 * 16 * 16 + 16 * 2 * 2 * 3)
"""Of an image: two convolutions on 8 x 8 and 4 x 4 maps, and a classifier of three classes."""
STEP = 3 * (4 + 2 * 2) * FORWARD
"""Of ATOM with 4 real and 2 synthetic images of 3 classes."""
NETWORK = ((4 + 1) * 3 * 6 + 6) * FORWARD
"""Four epochs and the first pass, forward and backward, of 6 images, and the test of 6."""


class Counter(TorchDispatchMode):
    """Operations of what runs within. (torch's own counter tracks modules as well, by hooks that
    gradients of gradients do not bear.)"""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "report", progress=False)


@pytest.fixture
def handed(monkeypatch):
    """The operations by which each run chose its number type, and whether it is compiled."""
    asked, choose = [], Execution.__init__

    def recorded(self, arithmetic, device, total):
        asked.append(total)
        choose(self, arithmetic, device, total)

    monkeypatch.setattr(Execution, "__init__", recorded)
    return asked


@pytest.fixture
def cell(make_data):
    data = make_data()
    method = ATOM(ipc=2, iterations=3, real_batch=4, **SMALL).resolve(data)
    config = EvalConfig(networks=2, epochs=4, **SMALL).resolve(data)
    return Cell(data, method, config, config.but(networks=1))


def test_a_cell_is_its_steps_and_its_networks_until_it_is_made(store, cell):
    assert missing(store, [cell]) == Missing(1, 3 * STEP + 2 * NETWORK)
    store.distilled(cell.data, cell.method)
    assert missing(store, [cell]) == Missing(1, 2 * NETWORK)
    sweep(store, [cell])
    assert missing(store, [cell]) == Missing(0, 0)


def test_a_set_that_two_cells_share_is_made_once(store, cell):
    other = Cell(cell.data, cell.method, cell.evaluation.but(variant="more"), cell.evaluation)
    assert missing(store, [cell, other]) == Missing(2, 3 * STEP + 4 * NETWORK)


def test_checkpoints_have_networks_of_their_own(store, cell):
    assert missing(store, [cell], lambda cell: (1, 3)) == Missing(1, 3 * STEP + 3 * NETWORK)


def test_what_an_interrupted_run_has_done_is_not_counted_again(store, cell):
    folder = store.layout.unfinished
    folder.mkdir()
    path = store.layout.bookmark("toy-atom-ipc2-seed0")
    Bookmark(path).write({"images": torch.zeros(1)}, 1, 3)
    assert missing(store, [cell]).operations == pytest.approx(2 * STEP + 2 * NETWORK)
    path.write_bytes(b"cut short")
    assert missing(store, [cell]).operations == pytest.approx(3 * STEP + 2 * NETWORK)


def test_the_full_data_is_counted_until_it_is_made(store, cell):
    whole = FullDataCell(cell.data, cell.evaluation, False)
    passes = 2 * ((4 + 1) * 3 * 18 + 6) * FORWARD
    assert missing(store, [], ceilings=[whole]) == Missing(1, passes)
    store.full_data(whole.data, whole.evaluation, zca=whole.zca)
    assert missing(store, [], ceilings=[whole]) == Missing(0, 0)


TRAINED = {
    "herding": {"feature_epochs": 2},
    "forgetting": {"feature_epochs": 2},
    "dq": {"feature_epochs": 2},
    "mtt": {"iterations": 2, "experts": 2, "latest_start": 1, "student_steps": 3},
    "dc": {"iterations": 2, "real_batch": 4},
    "cafe": {"iterations": 2, "real_batch": 4, "window": 2, "most_steps": 2, "most_epochs": 2},
    "glad": {"iterations": 2, "real_batch": 4, "decoder_epochs": 2, "decoder_width": 8},
    "atom": {"iterations": 2, "real_batch": 4},
}


@pytest.mark.parametrize("name", TRAINED)
def test_work_is_what_a_whole_run_computes(name, make_data, monkeypatch, tmp_path, handed):
    """But for gradients by the real images, which a first layer is not asked for."""
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path))
    data = make_data(seed=1 + list(TRAINED).index(name))  # or one network would serve them all
    method = METHODS[name](ipc=2, zca=False, **TRAINED[name], **SMALL).resolve(data)
    with Counter() as counter:
        if method.length:
            learner = method.learner(data, CPU, progress=False)
            for _ in range(method.length):
                learner.iterate()
        else:
            method.start(data, CPU, progress=False)
    assert counter.operations == pytest.approx(method.work(data), rel=0.15)
    tested = 3 / 4 if name == "forgetting" else 1  # its tests after each epoch are not in it
    assert sum(handed) == pytest.approx(tested * method.work(data), rel=0.15)


@pytest.mark.parametrize("networks", [1, 3])
def test_networks_choose_their_arithmetic_by_the_work_of_one(store, cell, handed, networks):
    made = store.distilled(cell.data, cell.method)
    handed.clear()
    evaluate(made, cell.data, cell.evaluation.but(networks=networks), device="cpu", progress=False)
    assert handed == [NETWORK]


def test_the_decoder_is_part_of_the_work_where_it_is_trained(make_data, monkeypatch, tmp_path):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path))
    data, settings = make_data(), {"iterations": 2, "decoder_epochs": 3, "decoder_width": 8}
    method = METHODS["glad"](ipc=2, zca=False, **settings, **SMALL).resolve(data)
    with Counter() as counter:
        decoder.trained_autoencoder(data, 8, 3, method, CPU, progress=False)
    more = method.work(data) - method.but(prior="random").work(data)
    assert counter.operations == pytest.approx(more, rel=0.15)


def test_a_draw_is_no_work(make_data):
    data = make_data()
    assert METHODS["random"](ipc=2).resolve(data).work(data) == 0
    assert METHODS["dq"](ipc=1).resolve(data).work(data) == 0


@pytest.mark.parametrize(("number", "hours"), [(torch.bfloat16, 2), (torch.float32, 3)])
def test_long_work_says_so_before_it_begins(tmp_path, cell, monkeypatch, capsys, number, hours):
    execution = SimpleNamespace(dtype=number)
    monkeypatch.setattr(foreseen, "Execution", lambda *arguments: execution)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(cost, "matrix_rate", lambda dtype, device: STEP / 4)
    monkeypatch.setattr(foreseen, "PAYS_ON_A_CPU", 300 * STEP)
    engine = Engine("processes", 1, "auto", 1, None)
    grid = [Cell(cell.data, cell.method.but(iterations=1000), cell.evaluation, cell.of_checkpoints)]
    foreseen.say(Store(tmp_path), engine, grid)
    # 1000 steps of 4 s, half as long again, in float32 more than twice as long, and the networks.
    assert capsys.readouterr().err == f"1 of 1 cells to make: about {hours} hours here\n"
    monkeypatch.setattr(foreseen, "processors", lambda device: 4)
    other = Cell(cell.data, grid[0].method.but(seed=1), cell.evaluation, cell.of_checkpoints)
    foreseen.say(Store(tmp_path), Engine("processes", 8, "auto", 2, None), [*grid, other])
    # Two at once, of two threads each: no longer than one.
    assert capsys.readouterr().err == f"2 of 2 cells to make: about {hours} hours here\n"
    foreseen.say(Store(tmp_path), engine, [cell])
    foreseen.say(Store(tmp_path, progress=False), engine, grid)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    foreseen.say(Store(tmp_path), engine, grid)
    assert capsys.readouterr().err == ""


def test_a_time_is_said_as_far_as_it_can_be_foreseen():
    assert foreseen.about(40 * 60 + 20) == "about 40 minutes"
    assert foreseen.about(5.2 * 3600) == "about 5 hours"


def test_checkpoints_that_are_added_take_the_whole_run_again(store, cell):
    sweep(store, [cell])
    assert missing(store, [cell], lambda cell: (1, 3)) == Missing(1, 3 * STEP + NETWORK)
    sweep(store, [cell], lambda cell: (1, 3))
    assert missing(store, [cell], lambda cell: (1, 3)) == Missing(0, 0)
