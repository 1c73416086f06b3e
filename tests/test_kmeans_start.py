"""The start by k-means: images nearest to centres, against plain versions."""

import pytest
import torch

from atomlib.distill import distill
from atomlib.full_data import features_of
from atomlib.methods import ATOM, DC, DM, check_method, kmeans_start
from atomlib.methods.coreset import feature_training
from atomlib.methods.kmeans_start import centres, nearest
from atomlib.preprocess import training_images

CPU = torch.device("cpu")
SMALL = {"width": 8, "precision": "float32", "compile": "off", "init": "kmeans"}
SMALL |= {"init_epochs": 1, "iterations": 1, "real_batch": 2}


@pytest.fixture
def data(make_data):
    return make_data(counts=(9, 7, 8))


def points(n=30, f=4, seed=0):
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed)).double()


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def plain_nearest(features, centres):
    chosen = []
    for centre in centres:
        left = [row for row in range(len(features)) if row not in chosen]
        chosen.append(min(left, key=lambda row: float((features[row] - centre).norm())))
    return chosen


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [1, 3, 10])
def test_each_centre_takes_its_nearest_image(seed, count):
    features, around = points(seed=seed), points(n=count, seed=seed + 10)
    assert nearest(features, around).tolist() == plain_nearest(features, around)


def test_an_image_nearest_to_two_centres_is_taken_once_and_ties_go_to_the_first():
    features = torch.tensor([[5.0], [1.0], [-1.0], [9.0]])
    assert nearest(features, torch.tensor([[5.0], [5.0], [0.0]]).double()).tolist() == [0, 1, 2]
    assert nearest(features, torch.tensor([[0.1 * 3 - 0.3], [7.0]]).double()).tolist() == [1, 0]


@pytest.mark.parametrize("count", [1, 4])
def test_centres_are_the_means_of_the_images_nearest_to_them(count):
    features = points()
    found = centres(features, count, chance())
    own = torch.cdist(features, found).argmin(dim=1)
    for label in range(count):
        torch.testing.assert_close(found[label], features[own == label].mean(dim=0))
    assert torch.equal(found, centres(features, count, chance()))


def test_groups_give_an_image_each():
    groups = (torch.arange(4)[:, None] * 100 + points(n=4, f=6)).flatten()[:, None]
    assert sorted((nearest(groups, centres(groups, 4, chance())) // 6).tolist()) == [0, 1, 2, 3]


def test_of_copies_each_is_taken_once(recwarn):
    copies = torch.ones(5, 3)
    assert sorted(nearest(copies, centres(copies, 4, chance())).tolist()) == [0, 1, 2, 3]
    assert not recwarn


def test_ipc_1_is_the_image_nearest_the_class_mean_of_features(data):
    config = ATOM(ipc=1, **SMALL).resolve(data)
    features = features_of(data, feature_training(config, 1), config.zca, CPU, progress=False)
    rows = config.rows(data, CPU, progress=False).flatten().tolist()
    for label, row in enumerate(rows):
        own = (data.train_labels == label).nonzero().flatten()
        around = features[own].double().mean(dim=0)
        assert row == own[(features[own] - around).norm(dim=1).argmin()]


def test_a_run_starts_from_them_and_methods_of_one_seed_alike(data):
    config = ATOM(ipc=3, **SMALL).resolve(data)
    rows = config.rows(data, CPU, progress=False)
    assert (data.train_labels[rows] == torch.arange(3)[:, None]).all()
    assert len(rows.unique()) == 9
    made = distill(data, config.but(iterations=0), progress=False)
    expected = training_images(data, False, CPU)[rows.flatten()]
    torch.testing.assert_close(made.trained, expected)
    for other in (DM(ipc=3, **SMALL), DC(ipc=3, **SMALL)):  # DC augments nothing
        assert torch.equal(other.resolve(data).rows(data, CPU, progress=False), rows)
    real = config.but(init="real").rows(data, CPU)
    assert not torch.equal(real, rows)


def test_k_means_draws_by_the_seed(data, monkeypatch):
    drawn, plain = [], kmeans_start.centres

    def centres(features, count, chance):
        drawn.append(chance.get_state())
        return plain(features, count, chance)

    monkeypatch.setattr(kmeans_start, "centres", centres)
    for seed in (0, 0, 1):
        DM(**SMALL, seed=seed).resolve(data).rows(data, CPU, progress=False)
    first, same, other = drawn[::3]  # of three classes
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_the_contract_holds_from_this_start_too():
    check_method(ATOM(ipc=2, **SMALL))


def test_features_that_are_no_numbers_are_one_sentence(data, monkeypatch, complains):
    monkeypatch.setattr(
        "atomlib.methods.kmeans_start.features_of",
        lambda *_, **__: torch.full((len(data.train_labels), 2), torch.nan),
    )
    with complains("init is 'kmeans'", "allowed: 'real'"):
        ATOM(**SMALL).resolve(data).rows(data, CPU)
