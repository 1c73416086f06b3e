"""Candidates packed into groups: each once, shapes unmixed, as many as was asked or fit."""

import pytest
import torch

from atomlib.models.build import FILLS
from atomlib.nas.space import sample, search_space
from atomlib.nas.together import Group, cost, pack
from atomlib.training import EvalConfig

SPACE = search_space()
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def data(make_data):
    return make_data(counts=(3, 3, 3), size=32)


def packed(data, together=None, *, device=CPU, images=256, room=80e9, candidates=SPACE):
    costs = {candidate: float(place % 11 + 1) for place, candidate in enumerate(candidates)}
    config = EvalConfig(together=together)
    return costs, pack(costs, config, data, device, images=images, room=room)


@pytest.mark.parametrize("together", [1, 4, 15, 100])
@pytest.mark.parametrize("count", [7, 100, 720])
def test_every_candidate_is_in_one_group_of_its_shape(data, together, count):
    drawn = sample(SPACE, image_size=32, count=count)
    costs, groups = packed(data, together, candidates=drawn)
    assert sorted(c.name for g in groups for c in g.candidates) == sorted(c.name for c in drawn)
    for group in groups:
        assert len({(c.depth, c.width, c.pooling) for c in group.candidates}) == 1
        assert len(group.candidates) <= together
    assert [cost(g, costs) for g in groups] == sorted(cost(g, costs) for g in groups)[::-1]


def test_all_fifteen_of_a_shape_with_norms_side_by_side(data):
    _, groups = packed(data, 15)
    assert len(groups) == 48
    for group in groups:
        norms = [candidate.norm for candidate in group.candidates]
        assert norms == sorted(norms) and len(set(norms)) == 5


def test_on_a_cpu_each_trains_alone(data):
    _, groups = packed(data)
    assert all(len(group.candidates) == 1 for group in groups) and len(groups) == 720


def sizes(data, **options):
    """The largest group of each shape."""
    _, groups = packed(data, device=GPU, **options)
    found = {}
    for group in groups:
        first = group.candidates[0]
        place = first.depth, first.width, first.pooling
        found[place] = max(found.get(place, 0), len(group.candidates))
    return found


def test_on_a_gpu_small_ones_train_together_and_large_ones_alone(data):
    together = sizes(data)
    assert together[1, 32, "average"] == 15
    assert together[4, 256, "none"] == 1
    # 4 blocks of 3 x 3 at 32 x 32 pixels: 3 to w and three times w to w, two operations a product.
    forward = 2 * 9 * 32**2 * (3 * 64 + 3 * 64**2) + 2 * 10 * 64 * 32**2
    assert together[4, 64, "none"] == max(1, int(FILLS / (3 * 256 * forward)))
    smaller_steps = sizes(data, images=32)
    assert smaller_steps[4, 64, "none"] == int(FILLS / (3 * 32 * forward))
    assert all(smaller_steps[shape] >= count for shape, count in together.items())
    assert smaller_steps[4, 64, "none"] > together[4, 64, "none"]


def test_groups_fit_the_memory_that_is_theirs(data):
    some = [candidate for candidate in SPACE if candidate.width == 32 and candidate.depth < 3]
    whole = sizes(data, images=32, candidates=some)
    small = sizes(data, images=32, candidates=some, room=4e9)
    assert small != whole
    assert all(small[shape] <= whole[shape] for shape in whole)
    assert set(sizes(data, images=32, candidates=some, room=1.0).values()) == {1}
    # In a test of 500 images: what a layer of 32 x 32 x 32 takes, gives out and works with.
    four = 4 * 4.5 * 3 * 4 * 500 * 32**3
    assert sizes(data, images=1, candidates=some, room=four)[1, 32, "none"] == 4


def test_a_group_is_named_by_its_candidate_or_its_shape():
    assert Group(SPACE[:1]).name == "d1-w32-sigmoid-none-none"
    assert Group((SPACE[0], SPACE[3])).name == "d1-w32-none, 2 networks"
