"""The matching loss against the class-by-class one, in float64."""

from itertools import product

import plain
import pytest
import torch

from atomlib.methods import ATOM, DM, DataDAM
from atomlib.methods.feature_matching import class_means, matching_loss
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


def atom(**settings):
    return ATOM(**{"task_balance": 0.01} | settings)


def means_of(features, images, method):
    """Weights and class means of images [k, m, c, s, s]."""
    return class_means(method, *features(images.flatten(0, 1)), len(images))


def loss_of(network, images, method):
    real, synthetic = (means_of(network.features, x, method) for x in images)
    assert real[0] == synthetic[0]
    return matching_loss(real[0], real[1], synthetic[1], method.loss_scale)


@pytest.mark.parametrize(
    "method",
    [
        *(atom(**dict(zip(("spatial", "channel", "output"), s, strict=True))) for s in SWITCHES),
        atom(spatial_power=1, channel_power=8),
        atom(spatial_power=3, channel_power=2),
        atom(layers=(1,)),
        atom(layers=(2, 3)),
        atom(attention_norm="none"),
        atom(loss_scale=100),
        atom(task_balance=3.0),
        atom(task_balance=0.0, loss_scale=0.5),
        DM(),
        DM(loss_scale=3.0),
        DataDAM(task_balance=0.02),
        DataDAM(task_balance=0.5, spatial_power=2, layers=(1, 3), attention_norm="none"),
    ],
    ids=lambda method: f"{method.name} {method.model_dump(exclude_defaults=True)}",
)
def test_loss_and_gradient_are_those_summed_class_by_class(network, images, method):
    real, synthetic = images
    synthetic.requires_grad_()
    expected = plain.plain_step(network, real, synthetic, None, method)
    got = loss_of(network, images, method)
    torch.testing.assert_close(got, expected)
    gradients = (torch.autograd.grad(loss, synthetic)[0] for loss in (got, expected))
    torch.testing.assert_close(*gradients)


def test_dm_is_the_squared_distance_of_mean_outputs(network, images):
    means = [network.features(x.flatten(0, 1))[1].view(*x.shape[:2], -1).mean(1) for x in images]
    expected = (means[0] - means[1]).square().sum()
    torch.testing.assert_close(loss_of(network, images, DM()), expected)


def test_atom_is_the_sum_of_its_three_terms(network, images):
    one = {"spatial": False, "channel": False, "output": False}
    parts = [loss_of(network, images, atom(**(one | {term: True}))) for term in one]
    torch.testing.assert_close(loss_of(network, images, atom()), sum(parts))
    assert all(part > 0 for part in parts)


def test_attention_leaves_out_the_last_block_unless_asked_for(network, images):
    default = loss_of(network, images, atom(output=False))
    but_last = loss_of(network, images, atom(output=False, layers=(1, 2)))
    everything = loss_of(network, images, atom(output=False, layers=(1, 2, 3)))
    assert default == but_last < everything


def test_identical_sets_have_no_loss(network, images):
    real, _ = images
    assert loss_of(network, (real, real), atom()) == 0


def test_repeating_the_synthetic_images_changes_nothing(network, images):
    """Means are matched, not sums: the number of images per class may differ."""
    real, synthetic = images
    twice = torch.cat((synthetic, synthetic), dim=1)
    expected = loss_of(network, (real, synthetic), atom())
    torch.testing.assert_close(loss_of(network, (real, twice), atom()), expected)


def test_class_means_in_chunks_of_classes_are_the_whole(network, images):
    real, _ = images
    _, whole = means_of(network.features, real, atom())
    pieces = [means_of(network.features, real[k : k + 1], atom())[1] for k in range(CLASSES)]
    for term, parts in zip(whole, zip(*pieces, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(parts), term)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_class_means_of_narrow_features_are_float32(dtype, images):
    def network(x):
        return [x.to(dtype), x.to(dtype)], x.flatten(1).to(dtype)

    real = images[0].to(dtype)
    weights, terms = means_of(network, real, atom())
    _, expected = means_of(network, real.double(), atom())
    assert weights == [1.0, 1.0, 0.01]
    assert [term.dtype for term in terms] == [torch.float32] * 3
    for term, close in zip(terms, expected, strict=True):
        torch.testing.assert_close(term, close, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention_norm", ["l2", "none"])
def test_gradient_of_the_images_is_the_finite_difference(network, images, attention_norm):
    real, synthetic = images
    method = atom(attention_norm=attention_norm, task_balance=1)
    weights, target = means_of(network.features, real, method)
    target = [term.detach()[:1] for term in target]
    # One class of one image: every pixel is moved twice.
    start = synthetic[:1, :1].clone().requires_grad_()

    def loss(x):
        _, mine = means_of(network.features, x, method)
        return matching_loss(weights, target, mine, method.loss_scale)

    assert torch.autograd.gradcheck(loss, start)
