"""DC and DSA: the distance by its definition, the step by a plain one, a life by its order."""

import math
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from atomlib.augmentation import Draw, DSAConfig, draw
from atomlib.datasets.load import load_dataset
from atomlib.distill import DivergedError, distill, trajectory
from atomlib.methods import DC, DSA
from atomlib.methods.gradient_matching import distance, loops, weight_gradients
from atomlib.models.build import network_for, operations
from atomlib.randomness import stream
from tests import plain

CPU = torch.device("cpu")
SMALL = {"width": 8, "real_batch": 4, "compile": "off", "precision": "float32"}


@pytest.fixture
def data(make_data):
    return make_data()


def learner_of(data, method=DC, **settings):
    return (
        method(**{**SMALL, "ipc": 2, "iterations": 2, **settings})
        .resolve(data)
        .learner(data, CPU, progress=False)
    )


def double(drawn):
    """A draw in float64."""
    if drawn is None:
        return None
    return Draw(*(v.double() if v.is_floating_point() else v for v in drawn))


def in_float64(learner):
    """The same learner, what its image steps compute with in float64."""
    inputs, drawn = learner.sampler.as_inputs, learner.drawn
    learner.network.double()
    learner.sampler.as_inputs = lambda images: inputs(images).double()
    learner.drawn = lambda: double(drawn())
    return learner


def made(data, method=DC, **settings):
    settings = {**SMALL, "ipc": 2, "iterations": 2, "inner": 1, **settings}
    return distill(data, method(**settings), device="cpu", progress=False)


# The distance


def test_distance_of_the_definition_by_hand():
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 1.0], [0.0, 2.0]], dtype=torch.float64)
    assert float(distance([a], [b])) == pytest.approx(2 - 2 / (2 + 1e-6), abs=1e-12)
    assert float(distance([a], [a])) == pytest.approx(2e-6, rel=1e-5)  # two rows of length 1
    assert float(distance([a], [3 * a])) < 1e-6
    assert float(distance([a], [-a])) == pytest.approx(4 - 2e-6, abs=1e-9)


def test_a_row_of_zeros_costs_one_and_has_a_gradient():
    a, b = torch.ones(3, 4), torch.zeros(3, 4, requires_grad=True)
    found = distance([a], [b])
    found.backward()
    assert found.item() == 3
    assert b.grad.isfinite().all()


def test_one_dimension_does_not_count_and_rows_are_those_of_output_channels():
    generator = torch.Generator().manual_seed(0)
    a, b = (
        [
            torch.randn(shape, generator=generator, dtype=torch.float64)
            for shape in ((4, 3, 2, 2), (4,), (5, 6), (5,))
        ]
        for _ in range(2)
    )
    expected = sum(
        1 - F.cosine_similarity(x.flatten(), y.flatten(), dim=0)
        for one, other in zip(a, b, strict=True)
        if one.dim() > 1
        for x, y in zip(one, other, strict=True)
    )
    found = distance(a, b)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    a[1] += 7.0
    b[3] -= 7.0
    assert torch.equal(distance(a, b), found)


def test_gradients_of_unlike_networks_are_refused(complains):
    with complains("synthetic has gradients of shapes [(3, 2)]", "[(2, 2)]"):
        distance([torch.ones(2, 2)], [torch.ones(3, 2)])
    with complains("real has gradients of shapes [(2,)]", "two dimensions"):
        distance([torch.ones(2)], [torch.ones(2)])


def test_paper_network_has_394_rows(make_data):
    ten = load_dataset("digits")
    method = DC(depth=3, norm="instance").resolve(make_data(size=32))
    network = network_for(method.but(depth=3), make_data(size=32))
    network.classifier = torch.nn.Linear(network.classifier.in_features, ten.num_classes)
    rows = [len(weight) for weight in network.parameters() if weight.dim() > 1]
    assert sum(rows) == 3 * 128 + 10
    # Gradients that have nothing to do with each other: near one per row, never above two.
    generator = torch.Generator().manual_seed(0)
    pairs = [
        [torch.randn(w.shape, generator=generator) for w in network.parameters()] for _ in "ab"
    ]
    assert float(distance(*pairs)) == pytest.approx(394, rel=0.02)


# The step


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("method", [DC, DSA])
def test_step_is_the_plain_one_in_float64(data, method, norm):
    learner = in_float64(learner_of(data, method, norm=norm))
    twin = learner_of(data, method, norm=norm)  # draws as the learner does
    images = learner.learned["images"].detach().double().requires_grad_()
    loss = learner.matched(images)
    if norm == "batch":
        twin.sampler.draw(6)  # what set the statistics
    rows, drawn = twin.sampler.draw(), double(twin.drawn())
    real = learner.sampler.as_inputs(learner.sampler.images[rows])
    expected = plain.plain_gradient_step(learner.network, real, images, drawn, learner.method.dsa)
    (wanted,) = torch.autograd.grad(expected, images)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(images.grad, wanted, rtol=1e-6, atol=1e-12)


def test_gradient_by_finite_differences(make_data):
    data = make_data(channels=1)
    learner = in_float64(learner_of(data, width=4, activation="sigmoid"))
    real = learner.sampler.as_inputs(learner.sampler.images[learner.sampler.draw()])
    images = learner.learned["images"].detach()[:1].double().requires_grad_()
    label = torch.tensor([0])
    wanted = learner._gradients(real[:1], None, label)
    loss = partial(learner._distance, drawn=None, label=label, real=wanted)
    (gradient,) = torch.autograd.grad(loss(images), images)
    generator, step = torch.Generator().manual_seed(0), 1e-5
    for _ in range(3):
        way = torch.randn(images.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            slope = (loss(images + step * way) - loss(images - step * way)) / (2 * step)
        assert float((gradient * way).sum()) == pytest.approx(float(slope), rel=1e-5)


def test_gradients_are_batch_means_on_both_sides(data):
    learner = in_float64(learner_of(data))
    one = learner.sampler.as_inputs(data.train_images[:1])
    label = torch.zeros(3, dtype=torch.long)
    once = weight_gradients(learner.network, one, label[:1])
    thrice = weight_gradients(learner.network, one.expand(3, -1, -1, -1), label)
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(a, b)


def test_order_of_a_classs_images_does_not_matter_even_augmented(data):
    losses = []
    for turned in (False, True):
        learner = in_float64(learner_of(data, DSA))
        images = learner.learned["images"].detach().double()
        losses.append(learner.matched(images.flip(1) if turned else images))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-10, atol=0)


def test_certain_mirroring_is_dc_of_mirrored_images(data):
    mirror = DSAConfig(strategies=("flip",), flip=1.0)
    flipped = in_float64(learner_of(data, DSA, dsa=mirror))
    straight = in_float64(learner_of(data, DC))
    inputs = straight.sampler.as_inputs
    straight.sampler.as_inputs = lambda images: inputs(images).flip(-1)
    images = flipped.learned["images"].detach().double()
    torch.testing.assert_close(
        flipped.matched(images), straight.matched(images.flip(-1)), rtol=1e-6, atol=0
    )


def test_compiled_narrow_step_agrees_with_the_eager_one(data, traced):
    """Traced and differentiated by the compiler, its graph then run as it is."""
    values = {}
    for how, precision in (("off", "float32"), ("on", "bfloat16")):
        learner = learner_of(data, DSA, compile=how, precision=precision, width=16)
        images = learner.learned["images"]
        learner.matched(images)
        learner.inner.epoch(images)
        loss = learner.matched(images)  # of a network that has learned since it was traced
        values[how] = loss, images.grad.flatten()
    for function in (learner._loss, learner._real, learner.inner._loss):
        assert function.fast is not None
    assert float(values["on"][0]) == pytest.approx(float(values["off"][0]), rel=0.01)
    assert F.cosine_similarity(values["on"][1], values["off"][1], dim=0) > 0.99


def test_batch_norms_statistics_are_of_sixteen_real_images_per_class(make_data):
    learner, seen = learner_of(make_data(counts=(20, 20, 20)), norm="batch"), []
    learner.network.register_forward_pre_hook(
        lambda network, given: seen.append((network.training, len(given[0])))
    )
    learner._set_statistics()
    assert seen == [(True, 48)] and not learner.network.training


# A life


def test_published_loops_and_the_pattern_beside_them(data):
    published = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    assert {ipc: loops(ipc) for ipc in published} == published
    assert loops(5) == (5, 100)
    assert loops(25) == (25, 20)
    assert loops(5000) == (5000, 1)
    asked = DC(ipc=5, outer=2).resolve(data)
    assert (asked.outer, asked.inner) == (2, 100)


def test_epochs_stand_between_image_steps_only(data, monkeypatch):
    learner, order = learner_of(data, outer=3, inner=2), []
    monkeypatch.setattr(learner, "matched", lambda _: order.append("step"))
    monkeypatch.setattr(learner.inner, "epoch", lambda _: order.append("epoch"))
    assert len(list(learner.life())) == 3
    assert order == ["step", "epoch", "epoch", "step", "epoch", "epoch", "step"]


def test_with_one_image_step_the_number_of_epochs_moves_no_byte(data):
    one, seven = (made(data, outer=1, inner=inner) for inner in (1, 7))
    assert torch.equal(one.trained, seven.trained)
    assert not torch.equal(one.trained, made(data, outer=2, inner=1).trained)


def test_dsa_without_strategies_is_dc(data):
    off = DSAConfig(strategies=())
    assert torch.equal(
        made(data, DSA, dsa=off, init="noise", outer=2).trained, made(data, DC, outer=2).trained
    )
    assert not torch.equal(made(data, DSA, init="noise").trained, made(data, DC).trained)


@pytest.mark.parametrize("method", [DC, DSA])
def test_an_epoch_is_plain_sgd_on_the_images(data, method):
    learner = learner_of(data, method, network_batch=4, network_lr=0.1)
    twin, images = learner_of(data, method), learner.learned["images"].detach()
    learner.inner.epoch(images)
    chance = stream(0, "inner")
    flat, labels = images.flatten(0, 1), torch.tensor([0, 0, 1, 1, 2, 2])
    optimizer = torch.optim.SGD(twin.network.requires_grad_().parameters(), lr=0.1)
    for rows in torch.randperm(6, generator=chance).split(4):
        batch = flat[rows]
        if method is DSA:
            drawn = draw(len(rows), 8, learner.method.dsa, chance, one_strategy=True)
            batch = torch.cat(
                [
                    plain.augment(batch[i : i + 1], plain.group(drawn, i), learner.method.dsa)
                    for i in range(len(rows))
                ]
            )
        optimizer.zero_grad()
        F.cross_entropy(twin.network(batch), labels[rows]).backward()
        optimizer.step()
    for ours, theirs in zip(learner.network.parameters(), twin.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-6)
        assert not ours.requires_grad and ours.grad is None


# The run


@pytest.mark.parametrize("method", [DC, DSA])
def test_same_seed_same_bytes_whatever_torchs_own_seed(data, method):
    torch.manual_seed(1)
    one = made(data, method, outer=2, inner=1)
    torch.manual_seed(2)
    assert torch.equal(one.trained, made(data, method, outer=2, inner=1).trained)
    assert not torch.equal(one.trained, made(data, method, outer=2, inner=1, seed=1).trained)


@pytest.mark.parametrize("method", [DC, DSA])
def test_goes_on_to_the_same_bytes(data, method, tmp_path, bookmarks_always):
    asked = method(**{**SMALL, "ipc": 2, "iterations": 4, "outer": 2, "inner": 1})
    file = tmp_path / "run"
    run = trajectory(data, asked, (2,), device="cpu", progress=False, resume=file)
    next(run)
    run.close()
    assert file.exists()
    went_on = distill(data, asked, device="cpu", progress=False, resume=file)
    assert torch.equal(went_on.trained, distill(data, asked, device="cpu", progress=False).trained)


def test_divergence_names_the_rates(data, complains):
    with complains("loss is nan", "image_lr (now 1e+30)", "network_lr", kind=DivergedError):
        made(data, norm="none", image_lr=1e30, iterations=3)


def test_a_life_learns_what_the_gradients_say():
    """From noise, images of digits come to match on networks they never met."""
    digits = load_dataset("digits")
    settings = {"ipc": 1, "depth": 2, "real_batch": 8, "image_lr": 1.0}
    learner = learner_of(digits, **settings)
    start = learner.learned["images"].detach().clone()
    for _ in range(10):
        learner.iterate()

    def loss(images):
        other = learner_of(digits, **settings, seed=1)
        return float(other.matched(images))

    assert loss(learner.images()) < 0.95 * loss(start)


def test_operations_are_counted(make_data):
    """methods of a width and a batch: a gradient by weights costs a little below three forwards
    (the first layer hands nothing down), the way back to the images below eight in all."""
    data = make_data(size=32)
    method = DC(real_batch=6, ipc=1).resolve(data)
    forward = 3 * operations(method, data)
    one_life = method.operations(data)
    assert one_life / forward == pytest.approx(6 * 2.93 + 7.79, rel=0.01)
    longer = method.but(outer=3, inner=2).operations(data)
    assert longer / forward == pytest.approx(3 * (6 * 2.93 + 7.79) + 4 * 2.93, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"outer": 0}, ("outer is 0", "greater than or equal to 1")),
        ({"inner": -1}, ("inner is -1",)),
        ({"network_lr": 0.0}, ("network_lr is 0.0",)),
        ({"image_lr": math.nan}, ("image_lr is nan",)),
        ({"dsa": {"strategies": ["flip"]}}, ("unknown setting 'dsa'",)),
        ({"loss_scale": 2.0}, ("unknown setting 'loss_scale'",)),
        ({"ipc": 7}, ("ipc is 7", "1 to 6")),
    ],
)
def test_bad_settings_are_told_before_any_work(data, complains, settings, parts):
    with complains(*parts):
        DC(**settings).resolve(data)
