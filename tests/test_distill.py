"""The loop: what it draws, what it descends, and that the same seed gives the same bytes."""

from copy import deepcopy

import plain
import pytest
import torch
from torch.nn import functional as F

from atomlib.augmentation import Draw, DSAConfig, draw
from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.datasets.load import load_dataset
from atomlib.distill import DivergedError, checkpoints, distill, trajectory
from atomlib.methods import ATOM, DM, METHODS, feature_matching
from atomlib.methods.feature_matching import (
    FeatureMatcher,
    LearnedImages,
    RealSampler,
    class_chunks,
)
from atomlib.preprocess import Preprocess
from atomlib.randomness import stream
from tests.gpu import pretend_gpu

CPU = torch.device("cpu")
COUNTS = (9, 6, 7)
BATCH = 4


def made_up(counts=COUNTS, side=8):
    """Classes of unequal size in mixed order; every image is unlike the others."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    shape = (len(labels), 3, side, side)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    names = tuple(f"class {k}" for k in range(len(counts)))
    return ImageData("made-up", images, labels, images[:5], labels[:5], names)


@pytest.fixture(scope="module")
def data():
    return made_up()


def config_for(data, method="atom", **settings):
    small = {"width": 16, "ipc": 2, "iterations": 3, "real_batch": BATCH}
    known = {k: v for k, v in small.items() if k in METHODS[method].model_fields}
    return METHODS[method](**known | settings).resolve(data)


def run(data, **settings):
    return distill(data, config_for(data, **settings), device="cpu", progress=False)


def test_same_seed_gives_the_same_bytes_whatever_torchs_own_seed(data, tmp_path):
    written = []
    for number in (1, 2):
        torch.manual_seed(number)
        written.append(run(data, seed=5).save(tmp_path / f"{number}.safetensors").read_bytes())
    assert written[0] == written[1]


def test_another_seed_gives_other_images_even_from_the_same_start(data, monkeypatch):
    zeros = torch.zeros(3, 2, 3, 8, 8)
    monkeypatch.setattr(LearnedImages, "start", lambda *_, **__: zeros.clone())
    assert not torch.equal(run(data, seed=5).trained, run(data, seed=6).trained)


@pytest.mark.parametrize("init", ["real", "noise"])
def test_every_method_starts_from_the_images_that_random_keeps(data, init):
    """From noise, which Random has none of, all start alike too."""

    def first(seed=0):
        if init == "real":
            return run(data, method="random", seed=seed)
        return run(data, method="dm", init="noise", iterations=0, seed=seed)

    start = first()
    for method in ("dm", "datadam", "atom"):
        # Neither the number of steps nor the real batch moves the start.
        for real_batch in (2, BATCH):
            other = run(data, method=method, init=init, iterations=0, real_batch=real_batch)
            assert torch.equal(other.trained, start.trained)
    assert not torch.equal(first(seed=1).trained, start.trained)


def test_start_images_are_different_real_images_of_their_classes(data):
    kept = run(data, method="random", ipc=min(COUNTS))
    assert kept.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    pixels = (kept.images * 255).round().to(torch.uint8)
    same = (pixels[:, None] == data.train_images).flatten(2).all(dim=2)
    assert (same.sum(dim=1) == 1).all() and (same.sum(dim=0) <= 1).all()
    assert torch.equal(data.train_labels[same.int().argmax(dim=1)], kept.labels)


def test_pixels_are_the_trained_images_transformed_back_and_clipped(data):
    made = run(data, image_lr=100.0)
    back = Preprocess.fit(data, zca=False).inverse(made.trained)
    assert (back < 0).any() and (back > 1).any()
    torch.testing.assert_close(made.images, back.clamp(0, 1))


def test_rows_by_class_lists_each_training_image_once(data):
    rows, present = rows_by_class(data)
    for k in range(len(COUNTS)):
        expected = [i for i, label in enumerate(data.train_labels.tolist()) if label == k]
        assert rows[k][present[k]].tolist() == expected


def test_real_images_are_drawn_without_replacement_from_their_class(data):
    config = config_for(data, real_batch=min(COUNTS))
    sampler = RealSampler(data, config, CPU)
    seen = torch.zeros(len(data.train_labels))
    for _ in range(300):
        rows = sampler.draw()
        assert rows.shape == (3, 6)
        assert (data.train_labels[rows] == torch.arange(3)[:, None]).all()
        assert len(rows.unique()) == 18
        seen[rows.flatten()] += 1 / 300
    # Each image of a class of n comes with probability 6 / n.
    expected = 6 / torch.tensor(COUNTS)[data.train_labels]
    torch.testing.assert_close(seen, expected, rtol=0, atol=0.1)


def next_of_streams(data, config):
    """Draws and real images of each iteration in turn, from the config's seed."""
    draws, sampler = stream(config.seed, "dsa"), RealSampler(data, config, CPU)
    while True:
        drawn = draw(data.num_classes, data.image_size, config.dsa, draws)
        yield drawn, sampler.as_inputs(sampler.images[sampler.draw()])


@pytest.mark.parametrize("classes_a_chunk", [1, 3])
@pytest.mark.parametrize("method", ["dm", "datadam", "atom"])
def test_step_is_the_plain_one_with_the_same_network_draw_and_images(
    data, method, classes_a_chunk, monkeypatch
):
    chunks = [slice(k, k + classes_a_chunk) for k in range(0, 3, classes_a_chunk)]
    monkeypatch.setattr(feature_matching, "class_chunks", lambda *_: chunks)
    config = config_for(data, method=method)
    learner, streams = config.learner(data, CPU), next_of_streams(data, config)
    images = config.start(data, CPU).requires_grad_()
    for _ in range(4):
        loss = learner.loss(images)
        drawn, real = next(streams)
        expected = plain.plain_step(learner.network, real, images, drawn, config)
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-4, atol=0)
        (wanted,) = torch.autograd.grad(expected, images)
        size = float(wanted.abs().max())
        torch.testing.assert_close(images.grad, wanted, rtol=1e-3, atol=1e-4 * size)


def test_step_without_strategies_does_not_augment(data):
    config = config_for(data, dsa=DSAConfig(strategies=()))
    learner, sampler = config.learner(data, CPU), RealSampler(data, config, CPU)
    images = config.start(data, CPU)
    loss, real = learner.loss(images), sampler.as_inputs(sampler.images[sampler.draw()])
    expected = plain.plain_step(learner.network, real, images, None, config)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=0)


def test_each_iteration_has_a_network_of_its_own(data):
    config = config_for(data)
    learner = config.learner(data, CPU)
    images, seen = config.start(data, CPU), []
    for _ in range(3):
        learner.loss(images)
        seen.append(torch.cat([p.flatten() for p in learner.network.parameters()]).clone())
    drawn = seen[0] != seen[1]
    assert torch.equal(drawn, seen[1] != seen[2])
    norms = 2 * 16 * len(learner.network.blocks)  # scales and shifts stay 1 and 0
    assert int(drawn.sum()) == drawn.numel() - norms


def test_images_follow_sgd_with_momentum_and_weight_decay(data):
    settings = {"image_lr": 2.0, "image_momentum": 0.7, "image_weight_decay": 0.01}
    config = config_for(data, **settings)
    learner, images = config.learner(data, CPU), config.start(data, CPU)
    velocity = torch.zeros_like(images)
    for _ in range(config.iterations):
        images.requires_grad_()
        learner.loss(images)
        gradient, images = images.grad, images.detach()
        velocity = 0.7 * velocity + gradient + 0.01 * images
        images = images - 2.0 * velocity
    torch.testing.assert_close(run(data, **settings).trained, images.flatten(0, 1))


@pytest.mark.parametrize("method", ["dm", "datadam", "atom"])
def test_distilled_images_match_better_on_networks_they_never_met(method):
    digits = load_dataset("digits")
    settings = {"method": method, "init": "noise", "ipc": 1, "depth": 2, "real_batch": 16}
    config = config_for(digits, seed=1, **settings)

    def mean_loss(made):
        learner, images = config.learner(digits, CPU), made.trained.unflatten(0, (10, 1))
        return sum(float(learner.loss(images)) for _ in range(10)) / 10

    start, end = (run(digits, iterations=n, **settings) for n in (0, 30))
    assert mean_loss(end) < 0.7 * mean_loss(start)


def test_images_that_run_away_stop_the_run_and_the_iteration_is_named(data):
    with pytest.raises(DivergedError, match=r"loss is nan at iteration 2; .*image_lr \(now 1e\+30"):
        run(data, norm="none", image_lr=1e30, iterations=5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_first_loss_that_is_no_number_is_the_one_named(data, monkeypatch, bad):
    plain_call, calls = FeatureMatcher.loss, []

    def call(self, images):
        calls.append(1)
        return plain_call(self, images) * (bad if len(calls) == 4 else 1)

    monkeypatch.setattr(FeatureMatcher, "loss", call)
    with pytest.raises(DivergedError, match=f"loss is {bad} at iteration 4;"):
        run(data, iterations=9)
    assert len(calls) == 4


def many_classes(classes, side):
    labels = torch.arange(classes)
    images = torch.zeros(classes, 1, side, side, dtype=torch.uint8)
    return ImageData("many", images, labels, images, labels, tuple(map(str, range(classes))))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("classes", "side"), [(10, 32), (7, 32), (100, 32), (200, 64), (3, 8)])
def test_chunks_are_equal_and_cover_each_class_once(classes, side, device):
    data = many_classes(classes, side)
    with pretend_gpu():
        chunks = class_chunks(data, ATOM().resolve(data), torch.device(device), 128)
    covered = [list(range(classes))[chunk] for chunk in chunks]
    assert [k for part in covered for k in part] == list(range(classes))
    assert len({len(part) for part in covered}) == 1


@pytest.mark.parametrize(("classes", "side", "at_once"), [(10, 32, 2), (7, 32, 1), (10, 8, 10)])
def test_chunk_on_a_cpu_is_256_images_of_32_pixels_at_most(classes, side, at_once):
    chunk, *_ = class_chunks(many_classes(classes, side), ATOM(), CPU, 128)
    assert chunk == slice(0, at_once)


def test_batch_norm_sees_all_classes_at_once():
    config = ATOM(norm="batch")
    assert class_chunks(many_classes(100, 32), config, CPU, 128) == [slice(0, 100)]


def test_compiled_step_agrees_with_the_eager_one(data, traced):
    """Traced and differentiated by the compiler, its graph then run as it is: no C++ compiler
    is needed, and no minute to wait for one."""
    values = {}
    for how in ("off", "on"):
        config = config_for(data, compile=how, precision="float32")
        learner, images = config.learner(data, CPU), config.start(data, CPU)
        images.requires_grad_()
        learner.loss(images)
        loss = learner.loss(images)  # the second, whose network is not the one it was traced with
        values[how] = loss, images.grad
    assert learner._loss.fast is not None and learner._real.fast is not None
    for eager, compiled in zip(values["off"], values["on"], strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-4 * float(eager.abs().max()))


def assert_is_the_definition(data, **settings):
    """Loss within 1 % of the float64 definition's, gradient at a cosine above 0.99 to its."""
    config = config_for(data, precision="bfloat16", compile="off", **settings)
    learner, streams = config.learner(data, CPU), next_of_streams(data, config)
    images = config.start(data, CPU).requires_grad_()
    for _ in range(2):
        loss = learner.loss(images)
        drawn, real = next(streams)
        drawn = Draw(*(v.double() if v.is_floating_point() else v for v in drawn))
        network, exact = (
            deepcopy(learner.network).double(),
            images.detach().double().requires_grad_(),
        )
        expected = plain.plain_step(network, real.double(), exact, drawn, config)
        (wanted,) = torch.autograd.grad(expected, exact)
        assert float(loss) == pytest.approx(expected.item(), rel=0.01)
        cosine = F.cosine_similarity(images.grad.double().flatten(), wanted.flatten(), dim=0)
        assert cosine > 0.99


@pytest.mark.parametrize("ipc", [1, 3])
@pytest.mark.parametrize("method", ["dm", "datadam", "atom"])
def test_narrow_step_of_every_method_is_the_definition_in_float64(data, method, ipc):
    assert_is_the_definition(data, method=method, ipc=ipc)


@pytest.mark.parametrize("power", [1.0, 2.0, 8.0])
def test_narrow_step_at_any_power_is_the_definition_in_float64(data, power):
    assert_is_the_definition(data, spatial_power=power, channel_power=power)


def test_images_are_learned_alike_in_chunks_and_at_once(data, monkeypatch):
    whole = run(data, iterations=5)
    chunks = [slice(k, k + 1) for k in range(3)]
    monkeypatch.setattr(feature_matching, "class_chunks", lambda *_: chunks)
    torch.testing.assert_close(run(data, iterations=5).trained, whole.trained)


def test_images_rest_as_bytes_where_they_are_not_whitened(data):
    forms = {False: torch.uint8, True: torch.float32, "unit": torch.float32}
    for zca, kind in (forms | {"computed": torch.float32}).items():
        config = config_for(data, zca=zca)
        sampler = RealSampler(data, config, CPU)
        assert sampler.images.dtype == kind
        inputs = sampler.as_inputs(sampler.images[sampler.draw()])
        rows = RealSampler(data, config, CPU).draw()
        expected = Preprocess.fit(data, zca=zca)(data.train_images)[rows]
        torch.testing.assert_close(inputs, expected)


# Checkpoints


def test_a_checkpoint_is_the_set_that_so_many_iterations_make(data):
    config = config_for(data, iterations=6, compile="off")
    found = list(trajectory(data, config, (0, 2, 5), progress=False))
    assert [made.method.iterations for made in found] == [0, 2, 5, 6]
    assert [made.method.variant for made in found] == ["it0", "it2", "it5", ""]
    for made in found:
        alone = distill(data, config.but(iterations=made.method.iterations), progress=False)
        assert torch.equal(made.trained, alone.trained)
        assert torch.equal(made.images, alone.images)
        assert made.history == alone.history
    assert found[-1].method == config


def test_checkpoints_beyond_the_run_are_refused_before_it(data, complains):
    for wrong in (7, -1):
        with complains(f"at has {wrong}", "0 to 6"):
            trajectory(data, config_for(data, iterations=6), (2, wrong))


@pytest.mark.parametrize(
    ("iterations", "count", "expected"),
    [(100, 1, [100]), (100, 4, [25, 50, 75, 100]), (2, 5, [0, 1, 2]), (0, 3, [0])],
)
def test_checkpoints_are_evenly_spaced_and_end_with_the_last(iterations, count, expected):
    assert checkpoints(iterations, count) == expected
    assert checkpoints(iterations, count, start=True) == sorted({0, *expected})


def test_checkpoints_that_are_named_are_those_and_the_last():
    for start in (False, True):
        assert checkpoints(100, [50, 0, 500], start=start) == [0, 50, 100]
    assert checkpoints(100, [50], start=True) == [50, 100]


def test_no_checkpoint_at_all_is_refused(complains):
    with complains("checkpoints is 0", "1 or more"):
        checkpoints(10, 0)


def test_a_checkpoints_name_keeps_the_variants():
    config = ATOM(iterations=10, variant="ps4.pc2")
    assert config.at(5).variant == "ps4.pc2.it5"
    assert config.at(10) == config


@pytest.mark.parametrize("at", [[1.5], ["1"], "1", [True], 5, None, [-1], [None], [10**6]])
def test_iterations_that_are_none_are_refused_before_the_run(data, complains, at):
    with complains("at"):
        trajectory(data, DM(iterations=2, width=8), at, progress=False)


@pytest.mark.parametrize("wanted", [0, -1, True, 1.5, "2", None, [1.5], ["1"], [True], {1: 2}])
def test_checkpoints_that_are_none_are_told(complains, wanted):
    with complains("checkpoints is"):
        checkpoints(4, wanted)
