"""The batched augmentation against one class, or one image, at a time."""

import math

import plain
import pytest
import torch
from scipy import stats

from atomlib import augmentation
from atomlib.augmentation import STRATEGIES, DSAConfig, augment, draw

SIDE = 16
MANY = 12_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(groups, per_group, side=SIDE):
    return torch.randn(groups, per_group, 3, side, side, generator=seeded(1))


def one_by_one(x, drawn, config):
    return torch.stack([plain.augment(x[g], plain.group(drawn, g), config) for g in range(len(x))])


def assert_as_plain(x, drawn, config):
    torch.testing.assert_close(
        augment(x, drawn, config), one_by_one(x, drawn, config), rtol=1e-5, atol=1e-5
    )


@pytest.fixture(scope="module")
def drawn_many():
    return draw(MANY, SIDE, DSAConfig(), seeded())


@pytest.mark.parametrize("side", [8, 15, 16])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_images_of_a_class_share_its_draw(strategy, side):
    config = DSAConfig(strategies=(strategy,))
    x, drawn = images(12, 3, side), draw(12, side, config, seeded())
    assert_as_plain(x, drawn, config)
    changed = (augment(x, drawn, config) - x).abs().amax(dim=(1, 2, 3, 4)) > 1e-4
    assert changed.sum() >= 3  # else the comparison above says little


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_images_of_a_batch_share_the_strategy_alone(strategy):
    config = DSAConfig(strategies=(strategy,))
    assert_as_plain(images(12, 1), draw(12, SIDE, config, seeded(), one_strategy=True), config)


def test_classes_of_all_strategies_pass_together():
    drawn = draw(24, SIDE, DSAConfig(), seeded())
    assert len(drawn.strategy.unique()) == 6
    assert_as_plain(images(24, 2), drawn, DSAConfig())


def test_strengths_other_than_the_defaults_are_heeded():
    config = DSAConfig(
        brightness=0.3, saturation=0.7, contrast=0.1, crop=0.3, cutout=0.2, scale=2.0, rotate=90.0
    )
    assert_as_plain(images(24, 2), draw(24, SIDE, config, seeded()), config)


def test_stages_of_other_strategies_leave_an_image_as_it_was_to_the_bit():
    """A square of no pixels changes nothing, so what is left is what the other stages did."""
    config = DSAConfig(cutout=0.0)
    x, drawn = images(24, 2), draw(24, SIDE, config, seeded())
    mine = drawn.strategy == STRATEGIES.index("cutout")
    assert 0 < mine.sum() < 24
    assert torch.equal(augment(x, drawn, config)[mine], x[mine])


def test_a_groups_result_does_not_depend_on_the_other_groups():
    x, drawn = images(24, 2), draw(24, SIDE, DSAConfig(), seeded())
    whole = augment(x, drawn, DSAConfig())
    for g in range(24):
        alone = type(drawn)(*(value[g : g + 1] for value in drawn))
        torch.testing.assert_close(augment(x[g : g + 1], alone, DSAConfig())[0], whole[g])


def test_gradient_is_that_of_the_plain_augmentation():
    x, drawn = images(24, 2).requires_grad_(), draw(24, SIDE, DSAConfig(), seeded())
    weights = torch.randn(x.shape, generator=seeded(2))
    (got,) = torch.autograd.grad((weights * augment(x, drawn, DSAConfig())).sum(), x)
    (wanted,) = torch.autograd.grad((weights * one_by_one(x, drawn, DSAConfig())).sum(), x)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_resampling_is_an_operator_that_the_compiler_can_trust():
    x = images(3, 1)[:, 0].requires_grad_()
    grid = torch.rand(3, SIDE, SIDE, 2, generator=seeded()) * 2.4 - 1.2
    torch.library.opcheck(augmentation._resample, (x, grid))


def uniform_on(values, low, high):
    return stats.kstest(values, "uniform", args=(low, high - low)).pvalue > 1e-3


def equally_often(values, allowed):
    counts = [int((values == value).sum()) for value in allowed]
    return sum(counts) == values.numel() and stats.chisquare(counts).pvalue > 1e-3


def test_strategies_are_equally_likely(drawn_many):
    assert STRATEGIES == plain.STRATEGIES
    assert equally_often(drawn_many.strategy, range(6))


@pytest.mark.parametrize(
    ("strategy", "name", "low", "high"),
    [
        ("color", "brightness", -0.5, 0.5),
        ("color", "saturation", 0, 2),
        ("color", "contrast", 0.5, 1.5),
        ("scale", "scale", 1 / 1.2, 1.2),
        ("rotate", "angle", -math.radians(15), math.radians(15)),
    ],
)
def test_strength_is_uniform_on_its_range(drawn_many, strategy, name, low, high):
    """Looked at where it is used, so that it may not hang on the strategy either."""
    used = drawn_many.strategy == STRATEGIES.index(strategy)
    for values in getattr(drawn_many, name)[used].reshape(int(used.sum()), -1).T:
        assert low <= values.min() and values.max() <= high
        assert uniform_on(values, low, high)


@pytest.mark.parametrize(
    ("strategy", "name", "allowed"),
    [("crop", "shift", range(-2, 3)), ("cutout", "centre", range(SIDE))],
)
def test_pixel_is_any_of_its_range_equally_often(drawn_many, strategy, name, allowed):
    used = drawn_many.strategy == STRATEGIES.index(strategy)
    across, down = getattr(drawn_many, name)[used].T
    assert equally_often(across, allowed) and equally_often(down, allowed)
    assert abs(stats.pearsonr(across, down).statistic) < 0.1


@pytest.mark.parametrize(("side", "most"), [(8, 1), (20, 3), (32, 4), (64, 8)])
def test_crop_shifts_by_up_to_an_eighth_of_the_side_rounded(side, most):
    shift = draw(2000, side, DSAConfig(), seeded()).shift
    assert sorted(shift.unique().tolist()) == list(range(-most, most + 1))


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flip_happens_with_its_probability(probability):
    drawn = draw(MANY, SIDE, DSAConfig(flip=probability, strategies=("flip",)), seeded())
    assert abs(drawn.flip.double().mean() - probability) <= 0.02 * (0 < probability < 1)


def test_parameters_of_one_strategy_are_independent(drawn_many):
    pairs = [
        (drawn_many.brightness, drawn_many.saturation),
        (drawn_many.brightness, drawn_many.contrast),
        (drawn_many.saturation, drawn_many.contrast),
        tuple(drawn_many.scale.T),
    ]
    for one, other in pairs:
        assert abs(stats.pearsonr(one, other).statistic) < 0.05


def test_one_strategy_holds_for_all_and_parameters_do_not():
    picked = set()
    for seed in range(40):
        drawn = draw(8, SIDE, DSAConfig(), seeded(seed), one_strategy=True)
        assert len(drawn.strategy) == 8
        picked |= {tuple(drawn.strategy.unique().tolist())}
        for values in (drawn.brightness, drawn.saturation, drawn.contrast, drawn.angle):
            assert len(values.unique()) == 8
        assert len(drawn.scale.unique()) == 16
    assert picked == {(strategy,) for strategy in range(6)}


@pytest.mark.parametrize("one_strategy", [False, True])
def test_only_the_strategies_asked_for_are_drawn(one_strategy):
    config, generator = DSAConfig(strategies=("rotate", "color")), seeded()
    picked = [draw(9, SIDE, config, generator, one_strategy=one_strategy) for _ in range(20)]
    picked = torch.cat([drawn.strategy for drawn in picked])
    assert {STRATEGIES[index] for index in picked.tolist()} == {"rotate", "color"}


@pytest.mark.parametrize(
    ("strategies", "generators", "parts"),
    [
        ((), [torch.Generator()], ("strategies is ()", "color, crop, cutout")),
        (("crop",), [], ("generators is ()", "one torch.Generator or more")),
        (("crop",), [0], ("generators is (0,)", "one torch.Generator or more")),
    ],
)
def test_what_cannot_be_drawn_is_told(complains, strategies, generators, parts):
    with complains(*parts):
        draw(4, 8, DSAConfig(strategies=strategies), *generators)


def test_what_augment_does_not_do_raises_as_it_says():
    x, config = images(4, 1), DSAConfig()
    drawn = draw(4, SIDE, config, seeded())

    def size(x):
        return augment(x, drawn, config).square().sum()

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(size(leaf), leaf, create_graph=True)
    for wrong in (
        lambda: slope.sum().backward(),
        lambda: torch.func.grad(size)(x),
        lambda: size(x.double()),
        lambda: size(x[:3]),
        lambda: size(x[..., 1:]),
    ):
        with pytest.raises(RuntimeError):
            wrong()


def test_the_seed_decides_the_draw():
    first, again, other = (draw(9, SIDE, DSAConfig(), seeded(seed)) for seed in (0, 0, 1))
    for one, same, another in zip(first, again, other, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, another)
