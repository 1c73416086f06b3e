"""DQ against its definition, summed anew for every image, and worked values."""

import math

import pytest
import torch
from torch.nn import functional as F

from atomlib.full_data import trained_network
from atomlib.methods import DatasetQuantization, RandomImages
from atomlib.methods.dataset_quantization import (
    graph_cut,
    last_layer_gradient,
    sample,
    shares,
    similarity,
)
from atomlib.preprocess import training_images

CPU = torch.device("cpu")
SMALL = {"width": 8, "feature_epochs": 1, "precision": "float32", "compile": "off"}


@pytest.fixture
def data(make_data):
    return make_data(counts=(9, 7, 8))


def points(n=12, f=3, seed=0):
    return torch.randn(n, f, generator=torch.Generator().manual_seed(seed)).double()


def at(*degrees):
    """Vectors of length 1 at angles."""
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def plain_similarity(one, other):
    return 0.5 + 0.5 * float(one @ other) / float(one.norm() * other.norm())


def plain_gains(features, pool, taken):
    """gain(j) of each j of ``pool`` that is not yet in the bin."""
    return {
        j: sum(plain_similarity(features[i], features[j]) for i in pool)
        - 2 * sum(plain_similarity(features[i], features[j]) for i in taken)
        for j in pool
        if j not in taken
    }


def plain_bins(features, sizes, gains=plain_gains):
    pool, found = list(range(len(features))), []
    for size in sizes[:-1]:
        taken = []
        for _ in range(size):
            now = gains(features, pool, taken)
            taken.append(max(now, key=now.get))
        pool = [row for row in pool if row not in taken]
        found.append(taken)
    return [*found, pool]


def bins(features, number):
    return graph_cut(similarity(features), number)


def rows_of(found):
    return [one.tolist() for one in found]


def test_four_directions_go_into_the_bins_worked_out_by_hand():
    vectors = at(0, 10, 20, 90)
    empty = similarity(vectors).sum(dim=1)
    torch.testing.assert_close(
        empty, torch.tensor([3.4623, 3.5716, 3.6333, 2.7578]).double(), atol=5e-5, rtol=0
    )
    after = empty - 2 * similarity(vectors)[2]
    torch.testing.assert_close(
        after[[0, 1, 3]], torch.tensor([1.5226, 1.5868, 1.4158]).double(), atol=5e-5, rtol=0
    )
    assert rows_of(bins(vectors, 2)) == [[2, 1], [0, 3]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("number", "sizes"), [(1, [12]), (3, [4, 4, 4]), (5, [3, 3, 2, 2, 2])])
def test_bins_are_those_of_gains_summed_anew(seed, number, sizes):
    features = points(seed=seed)
    found = rows_of(bins(features, number))
    assert [len(one) for one in found] == sizes  # equal, the first ones larger
    assert sorted(row for one in found for row in one) == list(range(12))  # each image once
    assert found == plain_bins(features, sizes)


def test_the_papers_rule_chooses_alike_where_features_have_unit_length():
    def papers(features, pool, taken):
        """Far from what the bin has, near to what it has not."""
        left = [row for row in pool if row not in taken]
        return {
            j: sum(float((features[i] - features[j]).square().sum()) for i in taken)
            - sum(float((features[i] - features[j]).square().sum()) for i in left)
            for j in left
        }

    features = F.normalize(points(n=20), dim=1)
    assert rows_of(bins(features, 4)) == plain_bins(features, [5] * 4, papers)


def test_later_bins_lie_farther_out():
    features = points(n=400, f=8, seed=3) + 1  # not around zero, as after a ReLU
    far = (F.normalize(features, dim=1) - F.normalize(features, dim=1).mean(dim=0)).norm(dim=1)
    means = [float(far[one].mean()) for one in bins(features, 4)]
    assert means == sorted(means) and means[-1] > 1.3 * means[0]


@pytest.mark.parametrize("value", [1.0, 0.0, 0.3])
def test_of_copies_the_first_comes_first(value):
    assert rows_of(bins(torch.full((7, 5), value), 3)) == [[0, 1, 2], [3, 4], [5, 6]]


def test_a_copy_of_an_image_waits_for_those_that_differ():
    twice = at(0, 0, 60, 300)
    assert rows_of(bins(twice, 2)) == plain_bins(twice.double(), [2, 2])
    assert bins(twice, 2)[0][0] == 0


def test_bins_that_cannot_be_are_one_sentence(complains):
    for number in (0, 13):
        with complains(f"number is {number}", "allowed: 1 to 12"):
            bins(points(), number)
    with complains("features", "allowed: finite"):
        bins(torch.full((3, 2), torch.nan), 2)


def test_each_bin_gives_its_share_by_the_largest_score():
    assert shares(10, 10) == [1] * 10 and shares(50, 10) == [5] * 10 and shares(5, 3) == [2, 2, 1]
    parts = [torch.tensor([4, 0, 2]), torch.tensor([1, 3])]
    score = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    assert sample(parts, score, 3).tolist() == [4, 2, 3]


def test_a_draw_from_a_bin_is_uniform():
    parts, counts = [torch.tensor([0, 1, 2]), torch.tensor([3, 4])], torch.zeros(5)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        counts[sample(parts, torch.rand(5, generator=generator), 2)] += 1
    expected = torch.tensor([1000.0, 1000, 1000, 1500, 1500])
    assert ((counts - expected).abs() < 4 * 30).all()


def test_the_gradient_is_the_last_layers_and_its_cosines_need_no_forming():
    output, labels = points(n=6, f=4), torch.tensor([0, 2, 1, 0, 2, 2])
    layer = torch.nn.Linear(4, 3).double()
    formed = []
    for one, label in zip(output, labels, strict=True):
        loss = F.cross_entropy(layer(one)[None], label[None])
        formed.append(
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, layer.parameters())])
        )
    factors = last_layer_gradient(layer(output).detach(), output, labels)
    torch.testing.assert_close(
        similarity(*factors), similarity(torch.stack(formed)), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("features", ["output", "gradient"])
def test_rows_are_drawn_from_the_bins_of_each_class(data, features):
    config = DatasetQuantization(ipc=5, bins=2, features=features, **SMALL).resolve(data)
    rows = config.rows(data, CPU, progress=False)
    network = trained_network(data, config.training(), zca=False, device=CPU, progress=False)
    images = training_images(data, False, CPU)
    for label, size in enumerate((5, 4, 4)):
        own = (data.train_labels == label).nonzero().flatten()
        with torch.no_grad():
            output = network.features(images[own])[1]
            if features == "gradient":
                gradients = last_layer_gradient(
                    network(images[own]), output, data.train_labels[own]
                )
                parts = graph_cut(similarity(*gradients), 2)
            else:
                parts = bins(output, 2)
        assert len(parts[0]) == size
        first, second = set(own[parts[0]].tolist()), set(own[parts[1]].tolist())
        drawn = rows[label].tolist()
        assert set(drawn[:3]) <= first and set(drawn[3:]) <= second and len(set(drawn)) == 5
    assert not torch.equal(rows, config.but(seed=1).rows(data, CPU, progress=False))


def test_one_bin_is_random_and_trains_nothing(data, monkeypatch):
    monkeypatch.setattr("atomlib.methods.dataset_quantization.features_of", None)
    for ipc, asked in ((1, None), (4, 1)):
        config = DatasetQuantization(ipc=ipc, bins=asked, seed=7, **SMALL).resolve(data)
        random = RandomImages(ipc=ipc, seed=7, zca=False).resolve(data)
        assert config.bins == 1
        assert torch.equal(config.rows(data, CPU), random.rows(data, CPU))
    score = torch.rand(9, generator=torch.Generator().manual_seed(0))  # as drawn from any bins
    assert torch.equal(sample(bins(points(n=9), 1), score, 4), score.topk(4).indices)


def test_bins_follow_ipc_and_none_is_left_without_an_image(make_data, complains):
    data = make_data(counts=(60, 60))
    assert [DatasetQuantization(ipc=k).resolve(data).bins for k in (1, 3, 10, 50)] == [1, 3, 10, 10]
    with complains("bins is 5", "allowed: 1 to 3", "ipc"):
        DatasetQuantization(ipc=3, bins=5).resolve(data)


def test_a_class_too_large_for_the_memory_is_refused_before_any_work(data, monkeypatch, complains):
    monkeypatch.setattr("atomlib.methods.dataset_quantization.memory", lambda _: 1000)
    with complains("bins is 2", "9 images", "allowed"):
        DatasetQuantization(ipc=2).resolve(data).check_room(data, CPU)
    DatasetQuantization(ipc=2, bins=1).resolve(data).check_room(data, CPU)
