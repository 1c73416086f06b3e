"""Networks trained side by side are the networks that each would be alone."""

from contextlib import contextmanager
from functools import partial

import pytest
import torch

from atomlib import evaluate as protocol
from atomlib.augmentation import DSAConfig, augment, draw
from atomlib.distill import distill
from atomlib.evaluate import evaluate
from atomlib.methods import RandomImages
from atomlib.models.build import MODELS, network_for, reset_parameters
from atomlib.models.convnet import NORMS
from atomlib.models.ensemble import Ensemble, can_stack
from atomlib.runtime.device import Execution
from atomlib.runtime.progress import Bar
from atomlib.training import EnsembleTrainer, EvalConfig, Trainer, side_by_side
from tests.gpu import pretend_gpu

CPU = torch.device("cpu")
SEEDS = (3, 4, 5)
# 9 images: batches of 4, 4 and 1. Rates and passes are few, so that no rounding can grow.
SMALL = {"width": 16, "epochs": 3, "batch_size": 4, "compile": "off", "precision": "float32"}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def data(make_data):
    return make_data(counts=(3, 3, 3))


def chances(seeds=SEEDS):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def real_set(data):
    config = RandomImages(ipc=3, width=16)
    return distill(data, config, device="cpu", progress=False)


def config_for(data, **settings):
    return EvalConfig(**(SMALL | settings)).resolve(data)


def alone(data, config, seeds=SEEDS):
    """State and test scores of each network, trained by a Trainer of its own."""
    trained = []
    for chance in chances(seeds):
        network = network_for(config, data)
        trainer = Trainer(network, config, Execution(config, CPU, 0))
        trainer.train(*training(data), [chance])
        with torch.no_grad():
            scores = network.eval()(training(data)[0])
        trained.append(({k: v.clone() for k, v in network.state_dict().items()}, scores))
    return trained


def ensemble_trainer(data, config, size=3):
    ensemble = Ensemble(network_for(config, data), size)
    return EnsembleTrainer(ensemble, config, Execution(config, CPU, 0))


def together(data, config, seeds=SEEDS):
    trainer = ensemble_trainer(data, config, len(seeds))
    trainer.train(*training(data), chances(seeds))
    trainer.network.eval()
    with torch.no_grad():
        return trainer.network, trainer.network(training(data)[0])


def training(data):
    kept = real_set(data)
    return kept.trained, kept.labels


def assert_same(ensemble, scores, solo):
    for index, (state, expected) in enumerate(solo):
        assert set(ensemble.state_dict()) == set(state)
        for name, value in state.items():
            torch.testing.assert_close(ensemble.state_dict()[name][index], value, **CLOSE)
        torch.testing.assert_close(scores[index], expected, rtol=1e-3, atol=1e-4)


def assert_told_apart(solo):
    """The comparison says something only where the networks are not each other."""
    (one, _), (other, _) = solo[:2]
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-2


@pytest.mark.parametrize(
    "settings",
    [
        *({"norm": norm} for norm in NORMS),
        {"activation": "sigmoid"},
        {"activation": "leakyrelu"},
        {"pooling": "none"},
        {"pooling": "max"},
        {"dsa": DSAConfig(strategies=())},
        {"norm": "batch", "schedule": "step", "step_size": 1, "lr": 0.02},
        # Pass 4 of 0 to 5 is the one that starts without momentum.
        {"epochs": 5, "momentum": 0.95, "lr": 0.02, "weight_decay": 0.05},
    ],
    ids=str,
)
def test_each_network_is_what_it_is_alone(data, settings):
    config = config_for(data, **settings)
    solo = alone(data, config)
    assert_told_apart(solo)
    assert_same(*together(data, config), solo)


@pytest.mark.parametrize(
    ("name", "size", "norm"),
    [
        ("resnet18", 9, "batch"),
        ("resnet18", 8, "group"),
        ("alexnet", 8, "none"),
        ("vgg11", 32, "group"),
    ],
)
def test_so_it_is_with_the_other_networks_that_can_be_stacked(make_data, name, size, norm):
    """With norms that do not magnify rounding: InstanceNorm of their maps of 2 x 2 pixels does."""
    data = make_data(counts=(3, 3, 3), size=size)
    config = config_for(data, model=name, norm=norm, epochs=1, lr=0.001, batch_size=6)
    solo = alone(data, config, SEEDS[:2])
    assert_same(*together(data, config, SEEDS[:2]), solo)


@contextmanager
def recorded(kind):
    """What the training steps of ``kind`` see: images, labels, draw."""
    seen, plain_loss = [], kind._training_loss

    def loss(self, images, labels, drawn):
        seen.append((images, labels, drawn))
        return plain_loss(self, images, labels, drawn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "_training_loss", loss)
        yield seen


def test_each_network_sees_the_images_and_augmentation_that_it_sees_alone(data):
    config = config_for(data)
    with recorded(EnsembleTrainer) as steps:
        together(data, config)
    with recorded(Trainer) as solo_steps:
        alone(data, config)
    assert len(steps) == 3 * (config.epochs + 1) and len(solo_steps) == len(SEEDS) * len(steps)
    orders, strategies = set(), set()
    for index in range(len(SEEDS)):
        for step, solo in zip(steps, solo_steps[index * len(steps) :], strict=False):
            images, labels, drawn = step
            assert torch.equal(images[index], solo[0]) and torch.equal(labels[index], solo[1])
            for mine, own in zip(drawn, solo[2], strict=True):
                assert torch.equal(mine.unflatten(0, labels.shape)[index], own)
        orders.add(tuple(torch.cat([labels[index] for _, labels, _ in steps]).tolist()))
        strategies.add(tuple(int(d.strategy.unflatten(0, y.shape)[index, 0]) for _, y, d in steps))
    assert len(orders) == len(strategies) == len(SEEDS)


def test_one_draw_of_several_generators_is_theirs_one_after_the_other():
    for one_strategy in (False, True):
        both = draw(5, 8, DSAConfig(), *chances((1, 2)), one_strategy=one_strategy)
        single = [draw(5, 8, DSAConfig(), g, one_strategy=one_strategy) for g in chances((1, 2))]
        for got, parts in zip(both, zip(*single, strict=True), strict=True):
            assert torch.equal(got, torch.cat(parts))
        assert not torch.equal(single[0].brightness, single[1].brightness)


@pytest.mark.parametrize("schedule", ["halfway", "step"])
def test_rate_and_momentum_go_as_they_do_alone(data, schedule, steps):
    config = config_for(data, schedule=schedule, step_size=2, epochs=5)
    together(data, config)
    of_group = steps.copy()
    steps.clear()
    alone(data, config, SEEDS[:1])
    assert of_group == steps
    assert len(dict(steps)) > 1 and sum(fresh for _, fresh in steps) == 1 + (schedule == "halfway")


def test_a_group_inherits_nothing_from_the_one_trained_before_it(data):
    """Weights, running statistics and momentum: the same tensors are used again."""
    config = config_for(data, norm="batch")
    trainer = ensemble_trainer(data, config)
    for seeds in ((7, 8, 9), SEEDS):
        trainer.train(*training(data), chances(seeds))
        trainer.accuracies(*training(data))
    fresh, _ = together(data, config)
    again, fresh = trainer.network.state_dict(), fresh.state_dict()
    assert all(torch.equal(again[name], fresh[name]) for name in fresh)


def test_accuracies_are_the_shares_given_their_label(data, monkeypatch):
    """Batches that do not divide the test set, a different accuracy each."""
    monkeypatch.setattr("atomlib.training.TEST_BATCH", 4)
    config = config_for(data, norm="batch", epochs=4, lr=0.05)
    images, labels = training(data)
    trainer = ensemble_trainer(data, config)
    trainer.train(images, labels, chances())
    got = trainer.accuracies(images, labels)
    expected = []
    for index in range(len(SEEDS)):
        network = network_for(config, data)
        network.load_state_dict({k: v[index] for k, v in trainer.network.state_dict().items()})
        network.eval()
        said = torch.cat([network(image[None]).argmax(dim=1) for image in images])
        expected.append(100 * (said == labels).float().mean().item())
    assert got == pytest.approx(expected)
    assert len(set(got)) > 1


# Through evaluate


@pytest.fixture
def sizes(monkeypatch):
    """How many networks each call of a trainer trains."""
    seen, plain = [], Trainer.passes

    def passes(self, images, labels, generators, state):
        seen.append(len(generators))
        return plain(self, images, labels, generators, state)

    monkeypatch.setattr(Trainer, "passes", passes)
    return seen


def accuracies(data, **settings):
    config = EvalConfig(**(SMALL | {"networks": 3, "epochs": 20, "lr": 0.05} | settings))
    return evaluate(real_set(data), data, config, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [(None, [1, 1, 1, 1, 1]), (1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (3, [3, 2]), (9, [5])],
)
def test_accuracies_do_not_depend_on_the_groups(make_data, sizes, asked, expected):
    data = make_data(counts=(30, 30, 30))
    test = data.train_images, data.train_labels  # more of them than there are test images
    data = type(data)(data.name, *test, *test, data.class_names)
    got = accuracies(data, networks=5, together=asked)
    assert sizes == expected
    assert torch.equal(got, accuracies(data, networks=5, together=1))
    assert len(got.unique()) > 3


def test_one_after_another_is_the_plain_training_to_the_bit(data, monkeypatch):
    """Written out: what is drawn, in which order, and what each step does."""
    built, plain_network_for = [], protocol.network_for

    def kept_network(*args):
        built.append(plain_network_for(*args))
        return built[-1]

    monkeypatch.setattr(protocol, "network_for", kept_network)
    settings = {"networks": 1, "epochs": 2, "norm": "batch", "together": 1}
    accuracies(data, **settings, schedule="constant")
    config = config_for(data, **(settings | {"lr": 0.05}))
    chance, network = protocol.stream(0, "evaluate", 0), plain_network_for(config, data)
    reset_parameters(network, chance)
    images, labels = training(data)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for _ in range(config.epochs + 1):
        for rows in torch.randperm(len(images), generator=chance).split(4):
            drawn = draw(len(rows), 8, config.dsa, chance, one_strategy=True)
            seen = augment(images[rows][:, None], drawn, config.dsa)[:, 0]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(seen), labels[rows]).backward()
            optimizer.step()
    state, expected = built[0].state_dict(), network.state_dict()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_network_with_dropout_trains_alone_whatever_is_asked(data, sizes):
    settings = {"model": "vit", "networks": 2, "epochs": 1, "lr": 0.01}
    got = accuracies(data, **settings, together=2)
    assert sizes == [1, 1]
    assert torch.equal(got, accuracies(data, **settings, together=1))


def test_only_networks_with_dropout_cannot_be_stacked(make_data):
    data = make_data(size=32)
    with torch.device("meta"):
        found = {
            name: can_stack(network_for(EvalConfig(model=name).resolve(32), data))
            for name in MODELS
        }
    assert found == {name: name != "vit" for name in MODELS}


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [(None, "cpu", 1), (None, "cuda", 5), (2, "cpu", 2), (2, "cuda", 2), (1, "cuda", 1)],
)
def test_all_go_together_on_a_gpu_and_none_on_a_cpu(data, asked, device, expected):
    config = config_for(data, networks=5, together=asked)
    with pretend_gpu():
        assert side_by_side(config, data, torch.device(device), images=9) == expected


def test_the_bar_counts_a_groups_networks(data, monkeypatch):
    seen = []

    class Seen(Bar):
        def __init__(self, **settings):
            seen.append(settings["total"])
            super().__init__(**settings)

        def update(self, n=1):
            seen.append(n)

    monkeypatch.setattr(protocol, "Bar", Seen)
    accuracies(data, epochs=1, together=2)
    assert seen == [3 * 2, 2, 2, 1, 1]


# How arithmetic runs


def test_compiled_agrees_with_eager(data, traced, monkeypatch):
    """Traced and differentiated by the compiler, its graph then run as it is."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, fullgraph=True))
    config = config_for(data, norm="batch", epochs=1, compile="on")
    solo = alone(data, config.but(compile="off"), SEEDS[:2])
    trainer = ensemble_trainer(data, config, 2)
    trainer.train(*training(data), chances(SEEDS[:2]))
    trainer.accuracies(*training(data))
    assert trainer._loss.fast is not None and trainer._scores.fast is not None
    with torch.no_grad():
        assert_same(trainer.network, trainer.network(training(data)[0]), solo)


def test_bfloat16_products_are_those_of_networks_alone(data):
    """As near as its 8 bits allow; a wide product would be nearer to a wide one alone."""
    config = config_for(data, precision="bfloat16")
    narrow, _ = together(data, config)
    wide, _ = together(data, config.but(precision="float32"))
    for index, (state, _) in enumerate(alone(data, config)):
        for name, value in state.items():
            got = narrow.state_dict()[name][index]
            torch.testing.assert_close(got, value, rtol=0.02, atol=0.005)
    narrow, wide = narrow.state_dict(), wide.state_dict()
    moved = [(narrow[name] - wide[name]).abs().max() for name in wide]
    assert max(moved) > 1e-3
