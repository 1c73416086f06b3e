"""MTT: its loss and both gradients by hand and by the unrolled graph, its experts, its limits."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from atomlib import preprocess
from atomlib.augmentation import augment
from atomlib.distill import DivergedError, distill, trajectory
from atomlib.distilled_set import DistilledSet
from atomlib.methods import MTT, UnknownMethod, experts
from atomlib.methods.experts import Experts
from atomlib.methods.mtt import Student, trajectory_loss
from atomlib.models.build import network_for, reset_parameters
from atomlib.published.protocols import protocol
from atomlib.randomness import stream
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.files import read_tensors, write_tensors
from atomlib.training import EvalConfig
from tests.test_gradient_matching import double

CPU = torch.device("cpu")
SMALL = {
    "width": 8,
    "compile": "off",
    "iterations": 3,
    "student_steps": 3,
    "expert_epochs": 1,
    "latest_start": 2,
    "experts": 2,
}
AUTHORS = {  # docs/facts.md, "MTT"
    1: {"student_steps": 50, "latest_start": 2, "image_lr": 100, "rate_lr": 1e-7, "rate": 0.01},
    10: {"student_steps": 30, "latest_start": 20, "image_lr": 100, "rate_lr": 1e-5, "rate": 0.001},
    50: {"student_steps": 30, "latest_start": 40, "image_lr": 1000, "rate_lr": 1e-5, "rate": 0.001},
}


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "experts"


def learner_of(data, **settings):
    made = MTT(**{**SMALL, "ipc": 2, **settings}).resolve(data)
    return made.learner(data, CPU, progress=False)


def made(data, **settings):
    return distill(data, MTT(**{**SMALL, **settings}), device="cpu", progress=False)


def in_float64(learner):
    learner.student.network.double()
    for name, tensor in learner.learned.items():
        learner.learned[name] = tensor.detach().double().requires_grad_()
    return learner


# The loss


def test_loss_at_its_ends_and_in_between():
    start, target = torch.zeros(4), torch.tensor([1.0, -1.0, 2.0, 0.0])
    assert trajectory_loss(start, start, target) == 1
    assert trajectory_loss(target, start, target) == 0
    assert trajectory_loss(target / 2, start, target) == 0.25


def test_loss_of_other_shapes_is_refused(complains):
    with complains("(3,), (4,), (4,)", "one shape"):
        trajectory_loss(torch.ones(3), torch.ones(4), torch.ones(4))


# The gradient


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (0, (1.0, 0.0, 0.0)),
        (1, (0.25, -0.5, -0.5)),
        (2, (0.0533881, -0.1736255, -0.2644833)),
    ],
)
def test_two_logits_of_one_weight_each(data, steps, expected):
    learner = learner_of(data, dsa={"strategies": ()})
    network = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False)).double()
    learner.student = Student(network, learner.execution)
    one = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    learner.learned = {"images": one, "rate": torch.ones((), dtype=torch.float64)}
    start, target = torch.zeros(2).double(), torch.tensor([1.0, -1.0]).double()
    loss = learner.matched(start, target, [(torch.tensor([0]), None)] * steps)
    found = float(loss), *(float(learner.learned[name].grad) for name in ("images", "rate"))
    assert found == pytest.approx(expected, abs=1e-7)


def unrolled(learner, start, target, steps):
    """The loss with the graph of all steps: a plain network, its weights one tensor each."""
    network = learner.student.network
    names = [name for name, _ in network.named_parameters()]
    like = list(network.parameters())
    sizes = [weight.numel() for weight in like]
    parts = [p.view_as(w) for p, w in zip(start.split(sizes), like, strict=True)]
    weights = [part.clone().requires_grad_() for part in parts]
    images, rate = learner.learned["images"].flatten(0, 1), learner.learned["rate"]
    for rows, drawn in steps:
        inputs = images[rows]
        if drawn is not None:
            inputs = augment(inputs[:, None], drawn, learner.method.dsa)[:, 0]
        named = dict(zip(names, weights, strict=True))
        scores = torch.func.functional_call(network, named, (inputs,))
        loss = F.cross_entropy(scores, rows // learner.method.ipc)
        slopes = torch.autograd.grad(loss, weights, create_graph=True)
        weights = [w - rate * slope for w, slope in zip(weights, slopes, strict=True)]
    end = torch.cat([weight.flatten() for weight in weights])
    return ((end - target) ** 2).sum() / ((start - target) ** 2).sum()


@pytest.mark.parametrize("strategies", [(), None])
@pytest.mark.parametrize("batch", [None, 4])
def test_both_gradients_are_those_of_the_unrolled_graph(data, strategies, batch):
    learner = in_float64(learner_of(data, dsa={"strategies": strategies}, batch=batch))
    start, target = (weights.double() for weights in learner.way())
    steps = [(rows, None if drawn is None else double(drawn)) for rows, drawn in learner.steps()]
    assert [len(rows) for rows, _ in steps] == ([6, 6, 6] if batch is None else [4, 2, 4])
    loss = learner.matched(start, target, steps)
    expected = unrolled(learner, start, target, steps)
    wanted = torch.autograd.grad(expected, list(learner.learned.values()))
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)
    for tensor, gradient in zip(learner.learned.values(), wanted, strict=True):
        assert float(gradient.norm()) > 0
        assert float((tensor.grad - gradient).norm() / gradient.norm()) < 1e-12


def test_compiled_narrow_step_agrees_with_the_eager_one(data, traced):
    """Traced and differentiated by the compiler, its graph then run as it is."""
    found = []
    for how in ("off", "on"):
        learner = learner_of(data, compile="off", latest_start=1)
        start, target = learner.way()
        steps = learner.steps()
        method = learner.method.but(compile=how)
        learner.execution = type(learner.execution)(method, CPU, 0)
        learner.student = Student(learner.student.network, learner.execution)
        loss = learner.matched(start, target, steps)
        found.append((loss, learner.learned["images"].grad, learner.learned["rate"].grad))
    assert learner.student.gradient.fast is not None
    assert learner.student._along.fast is not None
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-6)


def test_steps_use_each_image_once_before_they_are_shuffled_again(data):
    rows = [rows for rows, _ in learner_of(data, batch=2, student_steps=6).steps()]
    for half in (rows[:3], rows[3:]):
        assert sorted(torch.cat(half).tolist()) == list(range(6))


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_target_is_so_many_epochs_after_its_start(data, monkeypatch, epochs):
    learner = learner_of(data, experts=1, expert_epochs=epochs, latest_start=3)
    monkeypatch.setattr(learner.experts, "weights", lambda _: torch.arange(9.0)[:, None])
    ways = {tuple(map(float, learner.way())) for _ in range(60)}
    assert ways == {(start, start + epochs) for start in range(3)}


def test_experts_come_each_once_before_they_are_shuffled_again(data, monkeypatch):
    learner, seen = learner_of(data, experts=5, expert_epochs=1, latest_start=1), []
    whole = learner.experts.weights
    monkeypatch.setattr(learner.experts, "weights", lambda n: seen.append(n) or whole(n))
    for _ in range(10):
        learner.way()
        learner.lives += 1
    assert sorted(seen[:5]) == sorted(seen[5:]) == list(range(5))
    assert seen[:5] != seen[5:]


def test_the_order_of_experts_goes_by_the_seed(data, monkeypatch):
    monkeypatch.setattr(Experts, "train", lambda self, **_: None)

    def seen(seed):
        learner, found = learner_of(data, experts=9, latest_start=1, seed=seed), []
        stand_in = torch.zeros(9, 1)
        monkeypatch.setattr(learner.experts, "weights", lambda n: found.append(n) or stand_in)
        for _ in range(9):
            learner.way()
            learner.lives += 1
        return found

    assert seen(0) == seen(0) != seen(1)


# Experts


def experts_of(data, *, count=2, epochs=2, **settings):
    method = MTT(**{**SMALL, **settings}).resolve(data)
    about = data, method.expert_training(), method.zca, CPU
    return Experts(*about, count=count, epochs=epochs)


def test_an_expert_is_plain_sgd_from_fresh_weights(data, cache):
    found = experts_of(data, dsa={"strategies": ()}).weights(1)
    method = MTT(**SMALL).resolve(data)
    network = network_for(method, data)
    reset_parameters(network, stream(0, "expert", 1))
    images = preprocess.fitted(data, False, CPU)(data.train_images)
    for row in found:
        expected = nn.utils.parameters_to_vector(network.parameters()).detach()
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-7)
        loss = F.cross_entropy(network(images), data.train_labels)  # one batch is an epoch
        slopes = torch.autograd.grad(loss, list(network.parameters()))
        with torch.no_grad():
            for weight, slope in zip(network.parameters(), slopes, strict=True):
                weight -= 0.01 * slope


def test_experts_are_others_and_read_again_as_they_were(data, cache, monkeypatch):
    first = [experts_of(data).weights(index) for index in range(2)]
    assert not torch.equal(*first)
    assert len(list(cache.glob("*.safetensors"))) == 2
    monkeypatch.setattr(experts.Trainer, "passes", None)
    again = [experts_of(data).weights(index) for index in range(2)]
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_experts_of_another_seed_or_whitening_are_others(data, cache):
    first, *others = (
        experts_of(data, **how).weights(0) for how in ({}, {"seed": 1}, {"zca": True})
    )
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("memory", "reads"), [(1 << 40, 2), (0, 4)], ids=["room", "none"])
def test_an_expert_is_read_once_where_memory_holds_it(data, cache, monkeypatch, memory, reads):
    for index in range(2):
        experts_of(data).weights(index)
    asked, kept = [], experts.kept_tensors
    monkeypatch.setattr(experts, "kept_tensors", lambda path: asked.append(path) or kept(path))
    monkeypatch.setattr(experts, "memory", lambda device: memory)
    found = experts_of(data)
    twice = [[found.weights(index) for index in range(2)] for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))
    assert len(asked) == reads


@pytest.mark.parametrize(("value", "read"), [(EvalConfig().rescale, True), (True, False)])
def test_experts_from_before_a_setting_was_added_are_read(data, cache, monkeypatch, value, read):
    """Their file's name is a hash without it; where it has another value they are others."""
    first = experts_of(data).weights(0)
    (path,) = cache.glob("*.safetensors")
    tensors, about = read_tensors(path)
    path.unlink()
    assert about["facts"]["settings"].pop("rescale") is False
    write_tensors(path.with_stem(f"{data.name}-0123456789abcdef"), tensors, about)
    monkeypatch.setattr(experts.Trainer, "passes", None)
    training = MTT(**SMALL).resolve(data).expert_training().but(rescale=value)
    again = Experts(data, training, False, CPU, count=2, epochs=2)
    if read:
        assert torch.equal(again.weights(0), first)
    else:
        with pytest.raises(TypeError, match="not callable"):
            again.weights(0)


def test_more_epochs_go_on_from_those_that_are_there(data, cache):
    few = experts_of(data, epochs=1).weights(0)
    more = experts_of(data, epochs=3).weights(0)
    assert len(few) == 2 and len(more) == 4 and torch.equal(more[:2], few)
    (path,) = cache.glob("*.safetensors")
    path.unlink()
    assert torch.equal(experts_of(data, epochs=3).weights(0), more)


def test_a_killed_expert_goes_on(data, cache, monkeypatch):
    whole = experts_of(data, epochs=3).weights(0)
    (path,) = cache.glob("*.safetensors")
    path.unlink()
    monkeypatch.setattr(experts, "EVERY_SECONDS", 0.0)
    passes = experts.Trainer.passes

    def cut(self, *given):
        for epoch in passes(self, *given):
            yield epoch
            if epoch == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(experts.Trainer, "passes", cut)
        with pytest.raises(KeyboardInterrupt):
            experts_of(data, epochs=3).weights(0)
    assert path.exists()
    counted = []
    write = experts.write_tensors
    monkeypatch.setattr(experts, "write_tensors", lambda *a: counted.append(a) or write(*a))
    assert torch.equal(experts_of(data, epochs=3).weights(0), whole)
    assert len(counted) == 1  # the one epoch that was left


def test_a_damaged_expert_is_made_again(data, cache, capsys):
    whole = experts_of(data).weights(0)
    (path,) = cache.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    assert torch.equal(experts_of(data).weights(0), whole)
    assert "set aside" in capsys.readouterr().err


# Settings


@pytest.mark.parametrize(("ipc", "row"), [(1, 1), (2, 1), (10, 10), (25, 10), (50, 50), (51, 50)])
def test_defaults_are_those_of_the_nearest_published_ipc_below(make_data, ipc, row):
    method = MTT(ipc=ipc).resolve(make_data(counts=(60, 60, 60)))
    assert {key: getattr(method, key) for key in AUTHORS[row]} == AUTHORS[row]
    assert method.batch == 3 * ipc and method.zca is False
    assert (method.iterations, method.expert_epochs, method.experts) == (5000, 2, 100)
    assert method.expert_training().batch_size == 256
    assert MTT(ipc=ipc, rate=0.5).resolve(make_data(counts=(60, 60, 60))).rate == 0.5


@pytest.mark.parametrize(("ipc", "zca"), [(1, "unit"), (10, "unit"), (50, False)])
def test_whitening_is_that_of_the_published_cell(make_data, ipc, zca):
    data = make_data(counts=(60, 60, 60))
    data.__dict__["zca"] = True
    assert MTT(ipc=ipc).resolve(data).zca == zca
    for given in (True, False, "unit"):
        assert MTT(ipc=ipc, zca=given).resolve(data).zca == given


def test_whitened_images_are_learned_and_read_from_a_file(data, tmp_path):
    done = made(data, zca="unit")
    start = preprocess.fitted(data, "unit", CPU)
    torch.testing.assert_close(start.inverse(done.trained).clamp(0, 1), done.images)
    again = DistilledSet.load(done.save(tmp_path / "set.safetensors"))
    assert again.method == done.method and again.zca == "unit"
    assert UnknownMethod("theirs", done.method.recorded()).zca == "unit"


def test_settings_that_cannot_be(data, make_data, complains):
    one_class = make_data(counts=(4,))
    with complains("norm is 'batch'", "allowed for mtt", "running statistics"):
        MTT(norm="batch").resolve(data)
    with complains("toy has one class", "two or more"):
        MTT().resolve(one_class)
    with complains("rate_lr is 0"):
        MTT(rate_lr=0.0)
    with complains("zca is 'units'", "'unit'"):
        MTT(zca="units")


def test_a_rate_that_turns_negative_stops_the_run(data, complains):
    with complains("learned rate is -", "after step 1", "rate_lr (now 1e+06)", kind=DivergedError):
        made(data, rate_lr=1e6, latest_start=1, rate=10.0)


# The run


def test_rate_is_learned_and_goes_with_the_set(data, tmp_path):
    done = made(data)
    assert done.lr == done.extras["lr"] != AUTHORS[1]["rate"]
    assert DistilledSet.load(done.save(tmp_path / "set.safetensors")).lr == done.lr
    assert protocol("mtt", done).lr == done.lr
    assert protocol("ours", done).lr == EvalConfig().lr


def test_images_near_the_target_more_than_at_first(data):
    """On one expert and one start, steps lower the loss."""
    one = {"experts": 1, "latest_start": 1, "dsa": {"strategies": ()}, "iterations": 30}
    losses = [loss for _, loss in made(data, **one, image_lr=10.0, rate=0.005).history]
    assert losses[-1] < 0.9 * losses[0]


def test_a_killed_run_ends_with_the_same_bytes(data, tmp_path):
    method = MTT(**SMALL, ipc=2)
    whole = made(data, ipc=2).save(tmp_path / "whole").read_bytes()

    class Often(Bookmark):
        def due(self):
            return True

    run = trajectory(
        data, method, (2,), device="cpu", progress=False, resume=Often(tmp_path / "cut")
    )
    next(run)
    run.close()
    assert (tmp_path / "cut").exists()
    resumed = distill(data, method, device="cpu", progress=False, resume=Often(tmp_path / "cut"))
    assert resumed.save(tmp_path / "again").read_bytes() == whole
