"""The protocol: passes, schedule, what is counted, and where chance comes from."""

from dataclasses import replace

import plain
import pytest
import torch
from torch.nn import functional as F

from atomlib import evaluate as protocol
from atomlib.augmentation import DSAConfig, draw
from atomlib.datasets.image_data import ImageData
from atomlib.distill import distill
from atomlib.errors import DivergedError, SettingError
from atomlib.evaluate import evaluate
from atomlib.full_data import full_data_accuracies
from atomlib.methods import Forgetting, Herding, KCenter, RandomImages
from atomlib.models.build import network_for
from atomlib.preprocess import Preprocess, fitted
from atomlib.runtime.device import Execution
from atomlib.training import EvalConfig, Trainer

SIDE = 8
CLASSES = 3
OFF = DSAConfig(strategies=())
LONG_ENOUGH = {"ipc": 20, "epochs": 20}


def striped(noise=40, seed=0):
    """Across, down and chequered: patterns that a small network tells apart at once."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.arange(SIDE) // 2 % 2
    across, down = line[:, None].expand(SIDE, SIDE), line.expand(SIDE, SIDE)
    patterns = torch.stack((across, down, across ^ down))

    def split(n):
        labels = torch.arange(n) % CLASSES
        clean = 60 + 130 * patterns[labels][:, None].expand(n, 3, SIDE, SIDE)
        return (clean + noise * torch.randn(clean.shape, generator=generator)), labels

    (train, train_labels), (test, test_labels) = split(60), split(90)
    train, test = (x.clamp(0, 255).to(torch.uint8) for x in (train, test))
    names = ("across", "down", "chequered")
    return ImageData("striped", train, train_labels, test, test_labels, names)


@pytest.fixture(scope="module")
def data():
    return striped()


@pytest.fixture(scope="module")
def hard():
    """Noisy enough for accuracies between chance and 100 %, which tell networks apart."""
    return striped(noise=200)


def real_set(data, ipc=3):
    config = RandomImages(ipc=ipc, width=16)
    return distill(data, config, device="cpu", progress=False)


def accuracies(data, ipc=3, **settings):
    config = EvalConfig(**({"width": 16, "networks": 1, "epochs": 2, "lr": 0.1} | settings))
    return evaluate(real_set(data, ipc), data, config, device="cpu", progress=False)


@pytest.fixture
def batches(monkeypatch):
    """What each training step sees: images, labels, draw."""
    seen, plain_loss = [], Trainer._training_loss

    def loss(self, images, labels, drawn):
        seen.append((images, labels, drawn))
        return plain_loss(self, images, labels, drawn)

    monkeypatch.setattr(Trainer, "_training_loss", loss)
    return seen


def test_learning_rate_falls_to_a_tenth_halfway_and_momentum_is_lost_there(data, steps):
    """After epoch E // 2 + 1, counted from 0; of E + 1 passes in all."""
    accuracies(data, epochs=10, lr=0.01)
    rates, fresh = zip(*steps, strict=True)
    assert rates == pytest.approx([0.01] * 7 + [0.001] * 4)
    assert [epoch for epoch, new in enumerate(fresh) if new] == [0, 7]


def test_learning_rate_falls_every_so_many_epochs_and_momentum_is_kept(data, steps):
    accuracies(data, epochs=7, lr=0.01, schedule="step", step_size=3, step_decay=0.5)
    rates, fresh = zip(*steps, strict=True)
    assert rates == pytest.approx([0.01] * 3 + [0.005] * 3 + [0.0025] * 2)
    assert [epoch for epoch, new in enumerate(fresh) if new] == [0]


def test_learning_rate_can_stay(data, steps):
    accuracies(data, epochs=4, lr=0.02, schedule="constant")
    assert [rate for rate, _ in steps] == [0.02] * 5


def test_momentum_and_weight_decay_reach_the_optimiser(data, monkeypatch):
    made, plain_init = [], torch.optim.SGD.__init__

    def init(self, *args, **settings):
        made.append(settings)
        plain_init(self, *args, **settings)

    monkeypatch.setattr(torch.optim.SGD, "__init__", init)
    accuracies(data, networks=2, lr=0.02, momentum=0.8, weight_decay=0.003)
    assert made == [{"lr": 0.02, "momentum": 0.8, "weight_decay": 0.003}] * 2


def test_each_of_e_plus_one_passes_sees_every_image_once_in_a_new_order(data, batches):
    distilled, passes = real_set(data), 5
    accuracies(data, epochs=passes - 1, batch_size=4, dsa=OFF)
    assert [len(labels) for _, labels, _ in batches] == [4, 4, 1] * passes
    images, labels = (torch.cat(part) for part in list(zip(*batches, strict=True))[:2])
    same = (images[:, None] == distilled.trained).flatten(2).all(dim=2)
    rows = same.int().argmax(dim=1)
    assert torch.equal(labels, distilled.labels[rows])
    orders = [tuple(order) for order in rows.view(passes, 9).tolist()]
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len(set(orders)) == passes


def test_a_batch_has_one_strategy_and_each_image_its_own_strength(data, batches):
    accuracies(data, epochs=20, batch_size=4)
    strategies = [drawn.strategy.unique().tolist() for _, _, drawn in batches]
    assert all(len(found) == 1 for found in strategies)
    assert {found[0] for found in strategies} == set(range(6))
    for images, _, drawn in batches:
        assert len(drawn.strategy) == len(images) == len(drawn.angle.unique())


@pytest.mark.parametrize("strategy", plain.STRATEGIES)
def test_training_loss_is_the_cross_entropy_of_each_image_augmented_by_its_own_draw(data, strategy):
    config = EvalConfig(width=16, dsa=DSAConfig(strategies=(strategy,))).resolve(SIDE)
    network = network_for(config, data, torch.Generator().manual_seed(0))
    trainer = Trainer(network, config, Execution(config, torch.device("cpu"), 0))
    kept = real_set(data)
    drawn = draw(9, SIDE, config.dsa, torch.Generator().manual_seed(0), one_strategy=True)
    seen = [
        plain.augment(kept.trained[i : i + 1], plain.group(drawn, i), config.dsa) for i in range(9)
    ]
    expected = F.cross_entropy(network(torch.cat(seen)), kept.labels)
    got = trainer._training_loss(kept.trained, kept.labels, drawn)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    # The comparison says something only where the augmentation moves the loss.
    assert abs(F.cross_entropy(network(kept.trained), kept.labels) - got) > 1e-4


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_accuracy_is_the_share_of_test_images_given_their_label(hard, norm, monkeypatch):
    """Counted image by image on the network as training left it; also in batches that do not
    divide the test set."""
    built, plain_network_for = [], protocol.network_for

    def network_for(*args):
        built.append(plain_network_for(*args))
        return built[-1]

    monkeypatch.setattr(protocol, "network_for", network_for)
    monkeypatch.setattr("atomlib.training.TEST_BATCH", 7)
    (got,) = accuracies(hard, **LONG_ENOUGH, norm=norm).tolist()
    network = built[0].eval()
    images = Preprocess.fit(hard, zca=False)(hard.test_images)
    said = [int(network(image[None]).argmax()) for image in images]
    right = sum(one == label for one, label in zip(said, hard.test_labels.tolist(), strict=True))
    assert len(set(said)) > 1 and right < 90
    assert got == pytest.approx(100 * right / 90)


@pytest.mark.parametrize("zca", [True, "unit"])
def test_networks_are_tested_on_images_whitened_as_the_set_was(data, monkeypatch, zca):
    made = distill(data, RandomImages(ipc=2, zca=zca), progress=False)
    seen, plain_rescaled = {}, protocol._rescaled

    def accuracies(self, images, labels, first=None):
        seen["tested on"] = images
        return [0.0]

    def rescaled(images, real):
        seen["scaled to"] = real
        return plain_rescaled(images, real)

    monkeypatch.setattr(Trainer, "accuracies", accuracies)
    monkeypatch.setattr(protocol, "_rescaled", rescaled)
    config = EvalConfig(width=8, networks=1, epochs=1, rescale=True)
    evaluate(made, data, config, device="cpu", progress=False)
    whitened = Preprocess.fit(data, zca=zca)
    torch.testing.assert_close(seen["tested on"], whitened(data.test_images))
    torch.testing.assert_close(seen["scaled to"], whitened(data.train_images))


def test_real_images_of_separable_classes_train_a_near_perfect_network(data):
    assert (accuracies(data, ipc=20, networks=2, epochs=60) > 95).all()


WILD = EvalConfig(networks=3, epochs=3, width=8, lr=1e20)


@pytest.mark.parametrize("together", [1, 2])
def test_a_network_without_numbers_has_no_accuracy(data, complains, together):
    with complains("network 0 diverged", "smaller lr (now 1e+20)", kind=DivergedError):
        evaluate(real_set(data), data, WILD.but(together=together), progress=False)
    with complains("network 0 diverged", "smaller lr (now 1e+20)", kind=DivergedError):
        full_data_accuracies(data, WILD, zca=False, progress=False)


@pytest.mark.parametrize("together", [1, 2, 3])
def test_the_network_that_diverged_is_named(data, complains, monkeypatch, together):
    """Scores of one network only are no numbers, and of one test image only."""
    plain, tested = Trainer._test_scores, []

    def one_wrong(self, images):
        scores = plain(self, images)
        stacked = scores if scores.dim() == 3 else scores[None]
        for network in stacked:
            if len(tested) == 2:
                network[7, 1] = torch.inf
            tested.append(1)
        return scores

    monkeypatch.setattr(Trainer, "_test_scores", one_wrong)
    with complains("network 2 diverged", kind=DivergedError):
        config = EvalConfig(networks=4, epochs=1, width=8, together=together, compile="off")
        evaluate(real_set(data), data, config, progress=False)


def test_a_sigmoid_network_at_a_wild_rate_has_numbers(data):
    """Its weights are large and finite: what argmax says is its accuracy."""
    config = WILD.but(activation="sigmoid", norm="none", lr=1e3, weight_decay=0.0)
    assert evaluate(real_set(data), data, config, progress=False).isfinite().all()


@pytest.mark.parametrize("method", [Herding, KCenter, Forgetting])
def test_no_coreset_is_chosen_by_a_network_without_numbers(
    data, complains, monkeypatch, tmp_path, method
):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path))
    monkeypatch.setattr(method, "training", lambda self: WILD.but(networks=1).resolve(SIDE))
    with complains("not finite", "another norm (now 'instance')", kind=DivergedError):
        distill(data, method(ipc=2, width=8, feature_epochs=3), progress=False)


def test_set_made_from_other_data_is_refused(data, hard):
    with pytest.raises(SettingError, match="allowed: the data it was made from"):
        evaluate(real_set(data), hard, EvalConfig(width=16), progress=False)


def test_seed_decides_the_accuracies_and_networks_differ(hard):
    results = []
    for torchs_own_seed in (1, 2):
        torch.manual_seed(torchs_own_seed)
        results.append(accuracies(hard, networks=3, **LONG_ENOUGH))
    assert torch.equal(*results)
    assert len(results[0].unique()) > 1
    assert not torch.equal(accuracies(hard, networks=3, seed=1, **LONG_ENOUGH), results[0])


def test_a_networks_accuracy_does_not_depend_on_how_many_there_are(hard):
    one, two = (accuracies(hard, networks=n, **LONG_ENOUGH) for n in (1, 2))
    assert one[0] == two[0]


def test_a_network_inherits_nothing_from_the_one_trained_before_it(hard):
    """Weights, running statistics and momentum: the same tensors are used again."""
    kept = real_set(hard)
    config = EvalConfig(width=16, norm="batch", epochs=2).resolve(SIDE)

    def trained(seeds):
        network = network_for(config, hard)
        trainer = Trainer(network, config, Execution(config, torch.device("cpu"), 0))
        for seed in seeds:
            chance = torch.Generator().manual_seed(seed)
            trainer.train(kept.trained, kept.labels, [chance])
            trainer.accuracies(kept.trained, kept.labels)
        return network.state_dict()

    second, alone = trained([1, 2]), trained([2])
    assert all(torch.equal(second[name], alone[name]) for name in alone)


def test_images_that_grew_are_brought_back_to_the_deviation_of_real_ones(hard):
    made = real_set(hard)
    grown = replace(made, trained=4 * made.trained)  # a power of two rounds nothing
    small = {"networks": 2, "epochs": 20, "width": 16, "norm": "batch"}

    def reached(distilled, **more):
        config = EvalConfig(**small, **more)
        return evaluate(distilled, hard, config, device="cpu", progress=False).tolist()

    assert reached(grown, rescale=True) == reached(made, rescale=True) != reached(grown)
    real = fitted(hard, made.zca, torch.device("cpu"))(hard.train_images)
    found = protocol._rescaled(grown.trained, real)
    assert float(found.std()) == pytest.approx(float(real.std()), rel=1e-5)
    torch.testing.assert_close(found / found.std(), made.trained / made.trained.std())
    assert not protocol._rescaled(torch.zeros(2, 3, 4, 4), real).any()
