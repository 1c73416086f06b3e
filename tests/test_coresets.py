"""Coresets against slow plain versions of their definitions, and the network they go by."""

import pytest
import torch

from atomlib import full_data
from atomlib.distill import distill
from atomlib.evaluate import evaluate
from atomlib.full_data import features_of, full_data_accuracies, trained_network
from atomlib.methods import METHODS, Herding, KCenter, RandomImages
from atomlib.methods.coreset import feature_training
from atomlib.training import EvalConfig

CPU = torch.device("cpu")
herding, k_center = Herding().choose, KCenter().choose
SMALL = {"width": 16, "feature_epochs": 2, "compile": "off"}


@pytest.fixture
def data(make_data):
    return make_data(counts=(9, 7, 8))


def features(n=12, f=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, f, generator=generator)


def plain_herding(points, count):
    """At step i the point that brings the running sum closest to (i + 1) m."""
    points = points.double()
    chosen = []
    for i in range(count):
        wanted = (i + 1) * points.mean(dim=0)
        left = [row for row in range(len(points)) if row not in chosen]
        sums = {row: points[[*chosen, row]].sum(dim=0) for row in left}
        chosen.append(min(left, key=lambda row: float((sums[row] - wanted).norm())))
    return chosen


def plain_k_center(points, count):
    """First the point nearest the mean, then the farthest from its nearest centre."""
    points = points.double()
    chosen = [min(range(len(points)), key=lambda r: float((points[r] - points.mean(0)).norm()))]
    while len(chosen) < count:
        left = [row for row in range(len(points)) if row not in chosen]
        chosen.append(
            max(left, key=lambda r: min(float((points[r] - points[c]).norm()) for c in chosen))
        )
    return chosen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 4, 12])
def test_both_are_as_defined(seed, count):
    points = features(seed=seed)
    assert herding(points, count).tolist() == plain_herding(points, count)
    assert k_center(points, count).tolist() == plain_k_center(points, count)


def test_herding_nears_the_mean_and_k_center_covers():
    points = features(n=200, seed=7)
    near = (points[herding(points, 10)].mean(dim=0) - points.mean(dim=0)).norm()
    random = [
        (points[torch.randperm(200, generator=torch.Generator().manual_seed(s))[:10]].mean(dim=0))
        for s in range(50)
    ]
    assert near < min((mean - points.mean(dim=0)).norm() for mean in random)
    far = torch.cdist(points, points[k_center(points, 10)]).min(dim=1).values.max()
    assert far < torch.cdist(points, points[herding(points, 10)]).min(dim=1).values.max()


def test_equal_images_are_not_taken_twice():
    points = torch.zeros(4, 2)
    for select in (herding, k_center):
        assert sorted(select(points, 4).tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["herding", "kcenter"])
def test_a_coreset_is_real_images_of_each_class_chosen_by_features(data, method):
    config = METHODS[method](ipc=3, **SMALL).resolve(data)
    rows = config.rows(data, CPU)
    assert rows.shape == (3, 3) and len(rows.unique()) == 9
    assert (data.train_labels[rows] == torch.arange(3)[:, None]).all()
    seen = features_of(data, config.training(), config.zca, CPU)
    own = (data.train_labels == 1).nonzero().flatten()
    plain = plain_herding if method == "herding" else plain_k_center
    assert rows[1].tolist() == own[plain(seen[own], 3)].tolist()
    made = distill(data, config, progress=False)
    pixels = data.train_images[rows.flatten()].float() / 255
    torch.testing.assert_close(made.images, pixels, atol=1e-5, rtol=0)
    assert made.method.length == 0 and not made.history


def test_features_are_the_trained_networks_flattened_output(data):
    config = Herding(ipc=2, **SMALL).resolve(data)
    training = EvalConfig(networks=1, epochs=2, width=16, depth=config.depth, compile="off")
    network = trained_network(data, training, zca=False, device=CPU, progress=False)
    from atomlib.preprocess import training_images

    expected = network.features(training_images(data, False, CPU))[1].detach()
    torch.testing.assert_close(features_of(data, config.training(), config.zca, CPU), expected)


def test_feature_epochs_are_settings_of_these_methods_alone(data, complains):
    for method in ("random", "dm", "atom"):
        with complains("unknown setting 'feature_epochs'"):
            METHODS[method](feature_epochs=3)
    assert Herding(feature_epochs=3).resolve(data).feature_epochs == 3


def test_a_coreset_takes_no_loss_term(complains):
    with complains("unknown setting 'output'", "feature_epochs"):
        KCenter(output=True)


# Networks trained on the whole set


def test_training_on_all_is_evaluation_on_a_set_of_all_images(make_data):
    data = make_data(counts=(6, 6, 6))
    config = EvalConfig(networks=2, epochs=3, width=16, compile="off")
    # Every image, in the order of the training split, as if it were a distilled set.
    everything = distill(data, RandomImages(ipc=6, width=16), progress=False)
    order = [
        int((data.train_images == image).flatten(1).all(dim=1).nonzero())
        for image in (everything.images * 255).round().to(torch.uint8)
    ]
    everything.trained = everything.trained[torch.tensor(order).argsort()]
    expected = evaluate(everything, data, config, progress=False)
    torch.testing.assert_close(
        full_data_accuracies(data, config, zca=False, progress=False), expected
    )


def test_a_network_is_trained_once_and_cached_by_data_and_settings(data, monkeypatch):
    trained = []
    train = full_data.Trainer.passes

    def counted(self, *args):
        trained.append(self.config)
        return train(self, *args)

    monkeypatch.setattr(full_data.Trainer, "passes", counted)
    config = EvalConfig(networks=2, epochs=2, width=16, seed=11, norm="batch", compile="off")

    def run(config, data=data):
        return full_data_accuracies(data, config, zca=False, progress=False).tolist()

    first = run(config)
    assert len(trained) == 2
    assert run(config) == first and len(trained) == 2  # BatchNorm's statistics included
    run(config.but(networks=1))
    assert len(trained) == 2  # the first network is the same whatever their number
    run(config.but(together=2))
    assert len(trained) == 2
    run(config.but(networks=1, epochs=1))
    run(config.but(networks=1, lr=0.02))
    assert len(trained) == 4


def test_network_and_features_of_another_whitening_are_others(data):
    training = feature_training(RandomImages(width=8).resolve(data), 1)

    def found(zca):
        network = trained_network(data, training, zca=zca, device="cpu", progress=False)
        weights = torch.nn.utils.parameters_to_vector(network.parameters())
        return weights, features_of(data, training, zca, CPU, progress=False)

    assert not any(torch.equal(*pair) for pair in zip(found(False), found(True), strict=True))


def test_features_are_computed_once_for_a_table(data, monkeypatch):
    asked = []
    monkeypatch.setattr(
        full_data, "trained_network", lambda *a, **k: asked.append(a) or trained_network(*a, **k)
    )
    for method in ("herding", "kcenter"):
        for ipc in (1, 2):
            config = METHODS[method](ipc=ipc, seed=5, **SMALL).resolve(data)
            config.rows(data, CPU)
    assert len(asked) == 1
