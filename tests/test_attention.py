"""Both attention maps against their definition, position by position, in float64."""

import pytest
import torch

from atomlib.attention import channel_attention, spatial_attention

MAPS = (spatial_attention, channel_attention)
POWERS = (1, 2, 3, 4, 4.5, 8, 16)


def features(n=2, c=3, h=4, w=5, dtype=torch.float64):
    return torch.randn(n, c, h, w, dtype=dtype, generator=torch.Generator().manual_seed(0))


def by_definition(attention, f, power):
    """The maps before their division by the norm, summed one number at a time."""
    n, c, h, w = f.shape
    size = h * w if attention is spatial_attention else c
    maps = torch.zeros(n, size, dtype=torch.float64)
    for i in range(n):
        for k in range(c):
            for y in range(h):
                for x in range(w):
                    where = y * w + x if attention is spatial_attention else k
                    maps[i, where] += abs(float(f[i, k, y, x])) ** power
    return maps


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("attention", MAPS)
def test_map_is_the_definition(attention, power):
    f = features()
    maps = by_definition(attention, f, power)
    torch.testing.assert_close(attention(f, power, normalize=False), maps)
    lengths = maps.square().sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(attention(f, power), maps / lengths)


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("attention", MAPS)
def test_normalised_map_has_unit_length_at_any_scale_of_the_features(attention, power):
    for scale in (0.1, 1, 10):
        lengths = attention(scale * features(dtype=torch.float32), power).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(2))


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("attention", MAPS)
def test_zero_features_give_a_zero_map_and_a_zero_gradient(attention, power):
    f = torch.zeros(1, 3, 4, 4, requires_grad=True)
    maps = attention(f, power)
    assert (maps == 0).all()
    maps.sum().backward()
    assert (f.grad == 0).all()


@pytest.mark.parametrize("attention", MAPS)
def test_one_images_map_does_not_depend_on_the_others(attention):
    f = features()
    torch.testing.assert_close(attention(f, 4)[1:], attention(f[1:], 4))


@pytest.mark.parametrize("attention", MAPS)
def test_bfloat16_features_give_maps_computed_in_float32(attention):
    f = features(c=32, h=8, w=8).bfloat16()
    maps = attention(f, 4)
    assert maps.dtype == torch.float32
    # Powers or sums taken in bfloat16 would be off by about 1e-2.
    torch.testing.assert_close(maps.double(), attention(f.double(), 4), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("power", [1, 1.5, 2, 3, 4, 4.001, 5, 7.3, 8, 12, 16])
@pytest.mark.parametrize("attention", MAPS)
def test_value_and_gradient_hold_over_the_range_that_the_module_states(attention, power, dtype):
    base = features(n=3, c=16, h=8, w=8)
    weights = torch.randn(3, 64 if attention is spatial_attention else 16, dtype=torch.float64)
    for scale in (1e-2, 1, 1e3) if power <= 4 else (1e-6, 1e-4, 1e-2, 1, 1e2, 1e4):
        # Images of one batch may differ by as much: the scale is each one's own.
        f = base * torch.tensor([scale, 1, 1]).view(3, 1, 1, 1)
        f = f.to(dtype).requires_grad_()
        maps = attention(f, power)
        (maps * weights).sum().backward()
        exact = f.detach().double().requires_grad_()
        expected = exact.abs().pow(power)
        expected = (
            expected.sum(1).flatten(1) if attention is spatial_attention else expected.sum((2, 3))
        )
        expected = expected / expected.norm(dim=1, keepdim=True)
        (expected * weights).sum().backward()
        torch.testing.assert_close(maps.double(), expected, rtol=1e-5, atol=1e-7)
        # A gradient is rounded to the type of the features, bfloat16's 8 bits.
        rtol = 1e-4 if dtype == torch.float32 else 1e-2
        for own, true in zip(f.grad.double(), exact.grad, strict=True):
            torch.testing.assert_close(own, true, rtol=rtol, atol=1e-5 * float(true.abs().max()))


@pytest.mark.parametrize("attention", MAPS)
def test_scaling_rounds_no_bit_of_an_eighth_power(attention):
    # What was distilled with power 8 before images were scaled can be made again, byte for byte.
    f = features(dtype=torch.float32)
    maps = attention(f, 8, normalize=False)
    assert torch.equal(attention(f, 8), maps / maps.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("attention", MAPS)
def test_without_normalisation_powers_that_overflow_are_infinite(attention):
    assert attention(1e4 * features(dtype=torch.float32), 16, normalize=False).isinf().any()


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("attention", MAPS)
def test_gradient_is_the_finite_difference(attention, power):
    f = features(n=1, c=2, h=3, w=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention(x, power), f)
