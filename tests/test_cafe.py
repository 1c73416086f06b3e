"""CAFE: its two losses by their definitions, chunks as one, and when it stops."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from atomlib.distill import DivergedError, distill, trajectory
from atomlib.methods import CAFE, CAFEDSA, DM
from atomlib.methods.cafe import StoppingRule, discrimination
from tests import plain
from tests.test_gradient_matching import in_float64

CPU = torch.device("cpu")
SMALL = {"width": 8, "real_batch": 4, "query": 4, "compile": "off", "precision": "float32"}
SHORT = {"most_steps": 2, "most_epochs": 2}


@pytest.fixture
def data(make_data):
    return make_data()


def learner_of(data, method=CAFE, **settings):
    made = method(**{**SMALL, "ipc": 2, "iterations": 2, **settings}).resolve(data)
    return made.learner(data, CPU, progress=False)


def made(data, method=CAFE, **settings):
    settings = {**SMALL, **SHORT, "ipc": 2, "iterations": 2, **settings}
    return distill(data, method(**settings), device="cpu", progress=False)


# The loss


def test_discrimination_of_two_unit_vectors():
    means = torch.eye(2, dtype=torch.float64, requires_grad=True)
    real, labels = torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])
    found = discrimination(real, labels, means)
    assert found.item() == pytest.approx(2 * math.log(1 + math.exp(-1)), abs=1e-12)
    (gradient,) = torch.autograd.grad(found, means)
    expected = (torch.softmax(torch.eye(2, dtype=torch.float64), dim=1) - torch.eye(2)).T @ real
    torch.testing.assert_close(gradient, expected)
    assert float(gradient[0, 0]) == pytest.approx(-0.268941, abs=1e-6)


def test_discrimination_of_other_shapes_is_refused(complains):
    with complains("real has the shape (3, 5)", "2 labels", "class_means' 4"):
        discrimination(torch.ones(3, 5), torch.tensor([0, 1]), torch.ones(2, 4))


@pytest.mark.parametrize("per_chunk", [1, 3])
@pytest.mark.parametrize("method", [CAFE, CAFEDSA])
def test_step_is_the_plain_one_in_float64_in_chunks_and_whole(data, method, per_chunk):
    learner, twin = (in_float64(learner_of(data, method)) for _ in range(2))
    chunks = [slice(k, k + per_chunk) for k in range(0, 3, per_chunk)]
    learner.real_chunks = learner.synthetic_chunks = chunks
    images = learner.learned["images"].detach().double().requires_grad_()
    loss = learner.matched(images)
    drawn, rows = twin.drawn(), twin.sampler.draw()
    real = learner.sampler.as_inputs(learner.sampler.images[rows])
    expected = plain.plain_alignment_step(
        learner.network, real, images, drawn, learner.method.dsa, (0.1, 1.0), 2.0, 0.01
    )
    (wanted,) = torch.autograd.grad(expected, images)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(images.grad, wanted, rtol=1e-6, atol=1e-12)


def test_the_very_real_images_leave_the_discrimination_only(make_data):
    """All six images per class are drawn, in some order, and are the synthetic images too."""
    data = make_data(counts=(6, 6, 6))
    learner = in_float64(learner_of(data, ipc=6, real_batch=6, init="real", discrimination=0.5))
    images = learner.learned["images"].detach().double()
    loss = learner.matched(images)
    outputs = learner.network.features(images.flatten(0, 1))[1]
    labels = torch.arange(3).repeat_interleave(6)
    means = outputs.unflatten(0, (3, 6)).mean(dim=1)
    torch.testing.assert_close(loss, 0.5 * discrimination(outputs, labels, means).detach())
    alone = in_float64(learner_of(data, ipc=6, real_batch=6, init="real", discrimination=0.0))
    assert float(alone.matched(images)) < 1e-9


def test_with_the_output_only_the_loss_is_dms(data):
    bare = {"layer_weights": (0.0, 0.0), "output_weight": 1.0, "discrimination": 0.0}
    learner = in_float64(learner_of(data, CAFEDSA, **bare, init="real"))
    shared = {key: value for key, value in SMALL.items() if key in DM.model_fields}
    dm = DM(**shared, ipc=2).resolve(data).learner(data, CPU, progress=False)
    images = learner.learned["images"].detach().double()
    expected = in_float64(dm).matched(images)
    torch.testing.assert_close(learner.matched(images), expected, rtol=1e-10, atol=0)


def test_compiled_narrow_step_agrees_with_the_eager_one(data, traced):
    """Traced and differentiated by the compiler, its graph then run as it is."""
    values = {}
    for how, precision in (("off", "float32"), ("on", "bfloat16")):
        learner = learner_of(data, CAFEDSA, compile=how, precision=precision, width=16)
        images = learner.learned["images"]
        learner.inner.epoch(images)
        assert 0 <= learner.query() <= 1
        values[how] = learner.matched(images), images.grad.flatten()
    for function in (learner._loss, learner._real, learner._centres, learner._scores):
        assert function.fast is not None
    assert float(values["on"][0]) == pytest.approx(float(values["off"][0]), rel=0.01)
    assert F.cosine_similarity(values["on"][1], values["off"][1], dim=0) > 0.99


# When it stops


def lived(learner, accuracies):
    """Image steps and epochs of one life whose queries give these accuracies."""
    steps, epochs, given = [], [], iter(accuracies)
    learner.query = lambda: next(given)
    learner.matched = lambda images: steps.append(1) or torch.zeros(())
    learner.inner.epoch = lambda images: epochs.append(1)
    list(learner.life())
    return len(steps), len(epochs)


def test_accuracy_that_stays_ends_a_life_after_ten_steps_and_no_epochs_but_by_their_cap(data):
    learner = learner_of(data, most_epochs=15)
    assert lived(learner, itertools.repeat(0.5)) == (10, 9 * 15)
    assert learner.extras() == {
        "image steps per life": 10,
        "epochs per image step": 15,
        "lives cut": 0,
        "epochs cut": 1,
    }


def test_accuracy_that_rises_ends_the_epochs_after_ten_and_never_the_life(data):
    learner = learner_of(data, most_steps=30)
    assert lived(learner, itertools.count(0.0, 0.01)) == (30, 29 * 10)
    assert learner.extras()["lives cut"] == 1
    assert learner.extras()["epochs cut"] == 0


def test_by_the_other_sign_epochs_end_when_accuracy_has_settled(data):
    learner = learner_of(data, inner_rule="settled", most_epochs=15)
    assert lived(learner, itertools.repeat(0.5)) == (10, 9 * 10)
    learner = learner_of(data, inner_rule="settled", most_epochs=15, most_steps=3)
    assert lived(learner, itertools.count(0.0, 0.01)) == (3, 2 * 15)


@pytest.mark.parametrize(("accuracy", "moves"), [(0.25, False), (0.3, True)])
def test_the_leak_makes_the_first_of_a_window_lower(make_data, accuracy, moves):
    """Of ten classes: a_t = q + a_(t-1) / 10, so that a constant q spreads by q / 9."""
    rule = StoppingRule(10, 10, leak=True)
    spreads = [rule.spread(accuracy) for _ in range(10)]
    assert spreads[:9] == [None] * 9
    assert spreads[9] == pytest.approx(accuracy / 9, rel=1e-6)
    assert (spreads[9] > 0.03) is moves
    assert StoppingRule(2, 10, leak=False).spread(1.0) is None


def test_by_the_leak_a_life_is_longer(data):
    """Of three classes, q = 1/2 goes 0.5, 0.667, 0.722 ... to 0.75: from step 12 it has settled."""
    assert lived(learner_of(data, leak=True), itertools.repeat(0.5)) == (12, 11 * 10)


def test_a_query_is_the_share_right_of_images_drawn_anew(data):
    learner = learner_of(data, query=6)
    images = learner.sampler.as_inputs(data.train_images)
    with torch.no_grad():
        right = learner.network(images).argmax(dim=1) == data.train_labels
    assert learner.query() == pytest.approx(right.double().mean().item())  # all six are drawn


def test_a_query_neither_uses_nor_changes_the_statistics_of_its_batch(data):
    learner = learner_of(data, query=6, norm="batch")
    learner.network.train()(torch.randn(30, 3, 8, 8) * 3 + 1)  # running ones unlike the images'
    before = {name: held.clone() for name, held in learner.network.named_buffers()}
    images = learner.sampler.as_inputs(data.train_images)
    found = learner.query()
    assert all(torch.equal(held, before[name]) for name, held in learner.network.named_buffers())
    with torch.no_grad():
        scores = learner.network.eval()(images)
    right = scores.argmax(dim=1) == data.train_labels
    assert found == pytest.approx(right.double().mean().item())


# The run


def test_the_rate_is_halved_where_it_is_said(data):
    settings = {"iterations": 10, "image_lr": 0.8}
    rates, learner = [], learner_of(data, **settings, **SHORT)
    for _ in range(10):
        learner.iterate()
        rates.append(learner.optimizer.param_groups[0]["lr"])
    assert rates == [0.8] * 6 + [0.4] * 2 + [0.2, 0.1]
    assert CAFE().resolve(data).halve_after == (1200, 1600, 1800)
    asked = CAFE(**SMALL, **settings).resolve(data)
    assert asked.at(5).resolve(data).halve_after == (6, 8, 9)  # those of the run it is of


@pytest.mark.parametrize("method", [CAFE, CAFEDSA])
def test_same_seed_same_bytes_and_goes_on_to_them(data, method, tmp_path, bookmarks_always):
    asked = method(**{**SMALL, **SHORT, "ipc": 2, "iterations": 5})
    torch.manual_seed(1)
    whole = distill(data, asked, device="cpu", progress=False)
    torch.manual_seed(2)
    run = trajectory(data, asked, (4,), device="cpu", progress=False, resume=tmp_path / "run")
    next(run)
    run.close()  # in the fourth, past the first halving of the rate
    went_on = distill(data, asked, device="cpu", progress=False, resume=tmp_path / "run")
    assert torch.equal(went_on.trained, whole.trained)
    assert went_on.extras == whole.extras
    assert went_on.extras["lives cut"] == 1
    assert not torch.equal(made(data, method, seed=1, iterations=5).trained, whole.trained)


def test_divergence_names_the_rates(data, complains):
    with complains("loss is nan", "image_lr (now 1e+30)", "network_lr", kind=DivergedError):
        made(data, norm="none", image_lr=1e30, iterations=3)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"layer_weights": (1.0,)}, ("layer_weights is (1.0,)", "2 weights")),
        ({"window": 1}, ("window is 1", "greater than or equal to 2")),
        ({"query": 0}, ("query is 0",)),
        ({"inner_rule": "move"}, ("inner_rule is 'move'", "'moving'")),
        ({"outer_spread": 4.0}, ("outer_spread is 4.0",)),
        ({"loss_scale": 2.0}, ("unknown setting 'loss_scale'",)),
        ({"outer": 2}, ("unknown setting 'outer'",)),
        ({"most_steps": 0}, ("most_steps is 0",)),
    ],
)
def test_bad_settings_are_told_before_any_work(data, complains, settings, parts):
    with complains(*parts):
        CAFE(**settings).resolve(data)


def test_query_and_batch_are_capped_at_the_smallest_class(make_data):
    asked = CAFE().resolve(make_data(counts=(3, 6, 6)))
    assert (asked.query, asked.real_batch) == (3, 3)
    assert asked.layer_weights == (0.1, 1.0)
