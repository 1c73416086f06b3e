"""The ConvNet against its layers written out; its initialisation against the definition."""

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from atomlib.errors import SettingError
from atomlib.models.build import build_model, reset_parameters
from atomlib.models.convnet import ACTIVATIONS, NORMS, POOLINGS


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def convnet(size=32, classes=10, channels=3, seed=0, **settings):
    return build_model(
        "convnet",
        in_channels=channels,
        image_size=size,
        num_classes=classes,
        generator=seeded(seed),
        **settings,
    )


def test_encoder_of_the_paper_has_320010_parameters():
    assert sum(p.numel() for p in convnet().parameters()) == 320_010


def standardised(x, dims):
    mean = x.mean(dim=dims, keepdim=True)
    variance = (x - mean).square().mean(dim=dims, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def plain_norm(x, name):
    if name == "group":
        return standardised(x.unflatten(1, (4, -1)), (2, 3, 4)).flatten(1, 2)
    dims = {"batch": (0, 2, 3), "layer": (1, 2, 3), "instance": (2, 3)}
    return standardised(x, dims[name]) if name in dims else x


PLAIN_ACTIVATIONS = {
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "relu": lambda x: x * (x > 0),
    "leakyrelu": lambda x: torch.where(x > 0, x, 0.01 * x),
}


def plain_pooling(x, name):
    if name == "none":
        return x
    corners = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)])
    return corners.amax(dim=0) if name == "max" else corners.mean(dim=0)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_every_network_of_the_search_space_computes_what_it_is_called(
    depth, norm, activation, pooling
):
    settings = {"depth": depth, "norm": norm, "activation": activation, "pooling": pooling}
    network = convnet(width=16, **settings).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=seeded(1))
    maps, output = network.features(x)
    assert len(maps) == depth
    for index, (block, got) in enumerate(zip(network.blocks, maps, strict=True)):
        side = 32 if pooling == "none" else 32 >> index
        assert got.shape == (2, 16, side, side)
        x = F.conv2d(x, block["conv"].weight, block["conv"].bias, padding=1)
        x = PLAIN_ACTIVATIONS[activation](plain_norm(x, norm))
        torch.testing.assert_close(got, x)
        x = plain_pooling(x, pooling)
    torch.testing.assert_close(output, x.flatten(1))
    scores = network(torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=seeded(1)))
    expected = output @ network.classifier.weight.T + network.classifier.bias
    assert scores.shape == (2, 10)
    torch.testing.assert_close(scores, expected)


@pytest.mark.parametrize("norm", [n for n in NORMS if n != "none"])
def test_norm_has_a_learned_scale_and_shift_for_each_channel(norm):
    module = convnet(width=16, norm=norm).blocks[0]["norm"]
    with torch.no_grad():
        module.weight.fill_(2)
        module.bias.fill_(3)
    x = torch.randn(2, 16, 32, 32, generator=seeded(1))
    torch.testing.assert_close(module(x), 2 * plain_norm(x, norm) + 3, rtol=1e-4, atol=1e-4)


def test_tinyimagenet_network_takes_64_pixels_and_200_classes():
    network = build_model("convnet", in_channels=3, image_size=64, num_classes=200, depth=4)
    maps, output = network.features(torch.zeros(2, 3, 64, 64))
    assert [m.shape[-1] for m in maps] == [64, 32, 16, 8]
    assert output.shape == (2, 128 * 4 * 4)
    assert network.classifier.weight.shape == (200, 2048)


def fan_in(module):
    if isinstance(module, nn.Linear):
        return module.in_features
    return module.in_channels * module.kernel_size[0] * module.kernel_size[1]


def drawn_layers(network):
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


def test_weights_and_biases_are_uniform_within_one_over_the_root_of_fan_in():
    layers = drawn_layers(convnet())
    assert [fan_in(m) for m in layers] == [27, 1152, 1152, 2048]
    for module in layers:
        bound = 1 / math.sqrt(fan_in(module))
        for values in (module.weight.detach().flatten(), module.bias.detach()):
            assert values.abs().max() <= bound
            # Of large tensors a part will do.
            assert stats.kstest(values[:5000] / bound, "uniform", args=(-1, 2)).pvalue > 1e-3


@pytest.mark.parametrize("norm", NORMS)
def test_reset_draws_everything_anew_and_in_place(norm):
    network = convnet(width=16, norm=norm)
    state = network.state_dict()
    places = {name: tensor.data_ptr() for name, tensor in state.items()}
    for tensor in state.values():
        tensor.fill_(7)
    reset_parameters(network, seeded(3))
    fresh = convnet(width=16, norm=norm, seed=3).state_dict()
    for name, tensor in network.state_dict().items():
        assert tensor.data_ptr() == places[name]
        assert torch.equal(tensor, fresh[name]) and (tensor != 7).all()


def test_reset_gives_norms_scale_one_and_no_shift_and_clears_running_statistics():
    network = convnet(width=16, norm="batch")
    network(torch.randn(4, 3, 32, 32, generator=seeded()))
    reset_parameters(network, seeded())
    for block in network.blocks:
        values = {
            name: tensor.unique().tolist() for name, tensor in block["norm"].state_dict().items()
        }
        assert values == {
            "weight": [1],
            "bias": [0],
            "running_mean": [0],
            "running_var": [1],
            "num_batches_tracked": [0],
        }


def test_reset_refuses_a_layer_that_it_cannot_draw():
    with pytest.raises(TypeError, match="PReLU"):
        reset_parameters(nn.Sequential(nn.Linear(2, 2), nn.PReLU()), seeded())


def test_a_layer_with_a_buffer_of_its_own_is_refused_too():
    """Its values are not drawn, and networks are built without any."""
    layer = nn.Identity()
    layer.register_buffer("table", torch.arange(3))
    with pytest.raises(TypeError, match="Identity"):
        reset_parameters(nn.Sequential(layer), None)


def test_the_generators_seed_decides_the_weights():
    first, again, other = (convnet(width=16, seed=seed) for seed in (0, 0, 1))
    for one, same, another in zip(*map(drawn_layers, (first, again, other)), strict=True):
        assert torch.equal(one.weight, same.weight) and torch.equal(one.bias, same.bias)
        assert (one.weight != another.weight).any() and (one.bias != another.bias).any()


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("convnte", {}, "'convnet'"),
        ("convnet", {"dept": 3}, "'depth'"),
        ("convnet", {"norm": "instnace"}, "'instance'"),
        ("convnet", {"activation": "leaky"}, "'leakyrelu'"),
        ("convnet", {"pooling": "avg"}, "'average'"),
        ("convnet", {"norm": "group", "width": 10}, "multiples of 4"),
        ("convnet", {"depth": 0}, "1 to 64"),
        ("convnet", {"width": 10**9}, "1 to 16384"),
        ("convnet", {"width": 8.5}, "1 to 16384"),
        ("convnet", {"width": True}, "1 to 16384"),
        ("convnet", {"depth": None}, "1 to 64"),
        ("convnet", {"depth": "3"}, "1 to 64"),
    ],
)
def test_wrong_name_or_setting_is_told_what_is_allowed(name, settings, named):
    with pytest.raises(SettingError, match=named):
        build_model(name, in_channels=3, image_size=32, num_classes=10, **settings)


@pytest.mark.parametrize("norm", ["none", "instance"])
@pytest.mark.parametrize(("size", "fits"), [(8, 3), (12, 3), (32, 5)])
def test_deepest_network_has_one_pixel_left_and_no_deeper_one_is_built(size, fits, norm):
    network = convnet(size=size, width=8, depth=fits, norm=norm)
    assert network.features(torch.zeros(1, 3, size, size))[1].shape == (1, 8)
    with pytest.raises(SettingError, match=rf"depth is {fits + 1}; .* at most {fits}\b"):
        convnet(size=size, width=8, depth=fits + 1, norm=norm)


@pytest.mark.parametrize("norm", ["none", "instance"])
def test_refusal_of_far_too_deep_a_network_names_a_depth_that_builds(norm):
    with pytest.raises(SettingError, match=r"depth is 9; .* at most 3\b"):
        convnet(size=8, width=8, depth=9, norm=norm)


def test_depth_is_free_without_pooling():
    assert convnet(size=8, width=4, depth=6, pooling="none")(torch.zeros(2, 3, 8, 8)).shape == (
        2,
        10,
    )


@pytest.mark.parametrize("part", ["in_channels", "image_size", "num_classes"])
@pytest.mark.parametrize("value", [0, -1, None, "8", 8.0, (8, 8), True, 10**12])
def test_shapes_that_no_network_has_are_told(complains, part, value):
    shape = {"in_channels": 3, "image_size": 8, "num_classes": 3, part: value}
    with complains(f"{part} is", "1 to 1,000,000"):
        build_model("convnet", **shape, depth=2, width=8)
