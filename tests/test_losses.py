"""The matching loss against the class-by-class one, in float64."""

from itertools import product

import plain
import pytest
import torch
from atomlib.losses import Matching, matching_loss, signature

from atomlib.models.build import build_model

CLASSES, REAL, IPC = 3, 6, 2
SWITCHES = [switches for switches in product((True, False), repeat=3) if any(switches)]


@pytest.fixture
def network():
    """Smooth, so that finite differences mean something."""
    generator = torch.Generator().manual_seed(0)
    return build_model(
        "convnet",
        in_channels=2,
        image_size=8,
        num_classes=CLASSES,
        generator=generator,
        width=8,
        activation="sigmoid",
    ).double()


@pytest.fixture
def images():
    """Real and synthetic images, by class."""
    generator = torch.Generator().manual_seed(1)
    shape = (2, 8, 8)
    real = torch.randn(CLASSES, REAL, *shape, dtype=torch.float64, generator=generator)
    synthetic = torch.randn(CLASSES, IPC, *shape, dtype=torch.float64, generator=generator)
    return real, synthetic


def loss_of(network, images, matching):
    return matching_loss(*(signature(network.features, x, matching) for x in images), matching)


@pytest.mark.parametrize(
    "settings",
    [
        *(dict(zip(("spatial", "channel", "output"), s, strict=True)) for s in SWITCHES),
        {"spatial_power": 1, "channel_power": 8},
        {"spatial_power": 3, "channel_power": 2},
        {"layers": (1,)},
        {"layers": (2, 3)},
        {"normalize": False},
        {"scale": 100},
        {"task_balance": 3.0},
        {"task_balance": 0.0, "scale": 0.5},
    ],
    ids=str,
)
def test_loss_and_gradient_are_those_summed_class_by_class(network, images, settings):
    matching, (real, synthetic) = Matching(**settings), images
    synthetic.requires_grad_()
    expected = plain.plain_step(network, real, synthetic, None, None, matching)
    got = loss_of(network, images, matching)
    torch.testing.assert_close(got, expected)
    gradients = (torch.autograd.grad(loss, synthetic)[0] for loss in (got, expected))
    torch.testing.assert_close(*gradients)


def test_dm_is_the_squared_distance_of_mean_outputs(network, images):
    matching = Matching(spatial=False, channel=False, task_balance=1)
    means = [network.features(x.flatten(0, 1))[1].view(*x.shape[:2], -1).mean(1) for x in images]
    expected = (means[0] - means[1]).square().sum()
    torch.testing.assert_close(loss_of(network, images, matching), expected)


def test_atom_is_the_sum_of_its_three_terms(network, images):
    one = {"spatial": False, "channel": False, "output": False}
    parts = [loss_of(network, images, Matching(**(one | {term: True}))) for term in one]
    torch.testing.assert_close(loss_of(network, images, Matching()), sum(parts))
    assert all(part > 0 for part in parts)


def test_attention_leaves_out_the_last_block_unless_asked_for(network, images):
    attention = Matching(output=False)
    default = loss_of(network, images, attention)
    but_last = loss_of(network, images, Matching(output=False, layers=(1, 2)))
    everything = loss_of(network, images, Matching(output=False, layers=(1, 2, 3)))
    assert default == but_last < everything


def test_identical_sets_have_no_loss(network, images):
    real, _ = images
    assert loss_of(network, (real, real), Matching()) == 0


def test_repeating_the_synthetic_images_changes_nothing(network, images):
    """Means are matched, not sums: the number of images per class may differ."""
    real, synthetic = images
    twice = torch.cat((synthetic, synthetic), dim=1)
    expected = loss_of(network, (real, synthetic), Matching())
    torch.testing.assert_close(loss_of(network, (real, twice), Matching()), expected)


def test_signature_in_chunks_of_classes_is_the_whole_signature(network, images):
    real, _ = images
    whole = signature(network.features, real, Matching())
    pieces = [signature(network.features, real[k : k + 1], Matching()) for k in range(CLASSES)]
    for term, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), term)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_signature_of_narrow_features_is_float32(dtype, images):
    def network(x):
        return [x.to(dtype), x.to(dtype)], x.flatten(1).to(dtype)

    real = images[0].to(dtype)
    terms = signature(network, real, Matching())
    expected = signature(network, real.double(), Matching())
    assert [term.dtype for term in terms] == [torch.float32] * 3
    for term, close in zip(terms, expected, strict=True):
        torch.testing.assert_close(term, close, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_gradient_of_the_images_is_the_finite_difference(network, images, normalize):
    real, synthetic = images
    matching = Matching(normalize=normalize, task_balance=1)
    target = signature(network.features, real, matching)
    target = [term.detach() for term in target]
    # One class of one image: every pixel is moved twice.
    start = synthetic[:1, :1].clone().requires_grad_()

    def loss(x):
        mine = signature(network.features, x, matching)
        return matching_loss([term[:1] for term in target], mine, matching)

    assert torch.autograd.gradcheck(loss, start)
