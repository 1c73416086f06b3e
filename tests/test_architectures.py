"""The networks of cross-architecture evaluation against their layers written out."""

import math

import pytest
import torch
from scipy import stats
from test_models import fan_in, plain_norm, seeded
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from atomlib.methods import METHODS
from atomlib.models.architectures import RESNET_NORMS, Dropout
from atomlib.models.build import MODELS, build_model, operations, reset_parameters
from atomlib.models.convnet import NORMS
from atomlib.runtime.device import Execution
from atomlib.training import EvalConfig, Trainer

OTHERS = ("alexnet", "vgg11", "resnet18", "vit")


def without_values(name, size=32, channels=3, classes=10, **settings):
    """A network of shapes alone: it costs no arithmetic to build or to run."""
    with torch.device("meta"):
        return build_model(
            name, in_channels=channels, image_size=size, num_classes=classes, **settings
        )


def build(name, size=32, *, seed=0, **settings):
    """What build_model gives with this seed; None draws from PyTorch's global generator."""
    about = {"in_channels": settings.pop("channels", 3), "num_classes": settings.pop("classes", 10)}
    generator = None if seed is None else seeded(seed)
    return build_model(name, image_size=size, generator=generator, **about, **settings)


@pytest.fixture(scope="module")
def vit():
    """One for the tests that draw it anew: 8 pixels, so that it has five tokens."""
    return build("vit", 8)


def images(n=2, size=8, channels=3, dtype=torch.float32):
    return torch.randn(n, channels, size, size, dtype=dtype, generator=seeded(1))


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("convnet", 320_010),
        ("alexnet", 1_872_202),
        ("vgg11", 9_231_114),
        ("resnet18", 11_173_962),
        ("vit", 9_532_938),
    ],
)
def test_parameter_count_is_the_published_one(name, count):
    assert sum(p.numel() for p in without_values(name).parameters()) == count
    assert f"{count:,}" in MODELS[name].__doc__.replace("\n", " ")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_scores_images_of_both_sides_in_grey_and_colour(name, size, channels):
    network = without_values(name, size, channels, 7)
    for training in (True, False):
        network.train(training)
        assert network(torch.empty(2, channels, size, size, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", OTHERS)
def test_operations_are_counted_without_computing(name, make_data):
    # Two for each weight that a convolution or linear layer uses at each of its places.
    network, uses = without_values(name), []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(
                lambda m, _, out: uses.append(
                    m.weight.numel() * (out[0, 0].numel() if out.ndim == 4 else out[..., 0].numel())
                )
            )
    network(torch.empty(1, 3, 32, 32, device="meta"))
    if name == "vit":
        # Hooks do not see inside attention: 65 tokens, their projections and products.
        uses.append(6 * (65 * 4 * 512 * 512 + 2 * 65 * 65 * 512))
    # The data has three classes, the network here ten.
    head = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    counted = operations(EvalConfig(model=name), make_data(size=32))
    assert counted == 2 * sum(uses) - 2 * 7 * head.in_features


# What each network is.


def plan(layers):
    """AlexNet and VGG-11 in one line: channels and kernel of convolutions, M for pooling."""
    words = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            assert layer.stride == (1, 1)
            assert layer.padding == (layer.kernel_size[0] // 2, layer.kernel_size[1] // 2)
            words.append(f"{layer.out_channels}/{layer.kernel_size[0]}x{layer.kernel_size[1]}")
        elif isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.stride) == (2, 2)
            words.append("M")
    return " ".join(words)


def test_alexnet_and_vgg11_have_the_layers_of_the_facts():
    alexnet, vgg = without_values("alexnet"), without_values("vgg11")
    assert plan(alexnet.layers) == "128/5x5 M 192/5x5 M 256/3x3 192/3x3 192/3x3 M"
    assert plan(vgg.layers).replace("/3x3", "") == "64 M 128 M 256 256 M 512 512 M 512 512 M"
    assert alexnet.classifier.in_features == 192 * 4 * 4
    assert vgg.classifier.in_features == 512
    assert without_values("vgg11", 64).classifier.in_features == 512 * 2 * 2


def plainly(network, x, norm):
    """AlexNet and VGG-11: each convolution, its norm and ReLU, and max pooling of corners."""
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias, padding=layer.padding)
            x = plain_norm(x, norm).clamp(min=0)
        elif isinstance(layer, nn.MaxPool2d):
            x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]
            x = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(dim=0)
    return x.flatten(1) @ network.classifier.weight.T + network.classifier.bias


@pytest.mark.parametrize("size", [8, 28])
def test_alexnet_computes_its_layers_written_out(size):
    x = images(2, size, dtype=torch.float64)
    network = build("alexnet", size).double()
    torch.testing.assert_close(network(x), plainly(network, x, "none"))


@pytest.mark.parametrize("norm", NORMS)
def test_vgg11_computes_its_layers_written_out(norm):
    x = images(2, 32, dtype=torch.float64)
    network = build("vgg11", norm=norm).double()
    torch.testing.assert_close(network(x), plainly(network, x, norm))


def plain_resnet(network, x, norm):
    """conv, norm, ReLU; eight blocks relu(x' + norm(conv(relu(norm(conv(x)))))); mean; linear."""
    weights = {k: v for k, v in network.network.state_dict().items() if v.ndim > 1}
    x = plain_norm(F.conv2d(x, weights["conv1.weight"], padding=1), norm).clamp(min=0)
    for stage in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, weights[f"{at}.conv1.weight"], stride=stride, padding=1)
            y = plain_norm(y, norm).clamp(min=0)
            y = plain_norm(F.conv2d(y, weights[f"{at}.conv2.weight"], padding=1), norm)
            if stride == 2:
                x = F.conv2d(x, weights[f"{at}.downsample.0.weight"], stride=2)
                x = plain_norm(x, norm)
            x = (x + y).clamp(min=0)
    return x.mean(dim=(2, 3)) @ weights["fc.weight"].T + network.network.fc.bias


@pytest.mark.parametrize("norm", RESNET_NORMS)
def test_resnet18_computes_its_blocks_written_out(norm):
    x = images(2, 16, dtype=torch.float64)
    network = build("resnet18", 16, norm=norm).double()
    torch.testing.assert_close(network(x), plain_resnet(network, x, norm))


def test_vit_has_the_widths_and_depths_of_the_facts():
    network = without_values("vit").network
    assert network.conv_proj.kernel_size == network.conv_proj.stride == (4, 4)
    assert network.class_token.shape == (1, 1, 512)
    assert network.encoder.pos_embedding.shape == (1, 65, 512)
    assert len(network.encoder.layers) == 6
    for block in network.encoder.layers:
        assert (block.self_attention.num_heads, block.self_attention.head_dim) == (8, 64)
        assert block.self_attention.dropout == 0
        assert [m.weight.shape for m in block.mlp if isinstance(m, nn.Linear)] == [(512, 512)] * 2
    dropouts = [m for m in network.modules() if isinstance(m, nn.Dropout)]
    # After the embedding; in each layer after attention and after both parts of the MLP.
    assert len(dropouts) == 1 + 3 * 6
    assert all(type(m) is Dropout and m.p == 0.1 for m in dropouts)


def plain_vit(network, x):
    """Patches, class token and positions; six times attention and MLP; the class token's score."""
    network = network.network

    def layer_norm(x, module):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        return (x - mean) / (variance + 1e-6).sqrt() * module.weight + module.bias

    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = F.linear(patches, network.conv_proj.weight.flatten(1), network.conv_proj.bias)
    x = torch.cat([network.class_token.expand(len(x), 1, 512), x], dim=1)
    x = x + network.encoder.pos_embedding
    for block in network.encoder.layers:
        attention = block.self_attention
        joint = F.linear(
            layer_norm(x, block.ln_1), attention.in_proj_weight, attention.in_proj_bias
        )
        query, key, value = joint.unflatten(-1, (3, 8, 64)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-1, -2) / math.sqrt(64)).softmax(-1)
        heads = (weights @ value).transpose(1, 2).flatten(2)
        x = x + F.linear(heads, attention.out_proj.weight, attention.out_proj.bias)
        y = F.linear(layer_norm(x, block.ln_2), block.mlp[0].weight, block.mlp[0].bias)
        x = x + F.linear(F.gelu(y), block.mlp[3].weight, block.mlp[3].bias)
    token = layer_norm(x, network.encoder.ln)[:, 0]
    return F.linear(token, network.heads.head.weight, network.heads.head.bias)


def test_vit_computes_its_layers_written_out_and_as_torchvision_does(vit):
    reset_parameters(vit, seeded())
    vit.eval()
    x = images()
    with torch.no_grad():
        scores = vit(x)
        torch.testing.assert_close(scores, plain_vit(vit, x), rtol=1e-4, atol=1e-5)
        theirs = VisionTransformer(8, 4, 6, 8, 512, 512, num_classes=10).eval()
        theirs.load_state_dict(vit.network.state_dict())
        torch.testing.assert_close(scores, theirs(x))


# Drawing the weights.


@pytest.mark.parametrize("name", OTHERS)
def test_reset_draws_everything_from_the_generator_alone_and_in_place(name):
    size = 32 if name == "vgg11" else 16
    network = build(name, size)
    built = build_model(name, in_channels=3, image_size=size, num_classes=10, generator=seeded(3))
    places = {key: tensor.data_ptr() for key, tensor in network.state_dict().items()}
    first = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    for tensor in network.state_dict().values():
        tensor.fill_(7)
    before = torch.get_rng_state()
    reset_parameters(network, seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    again = built.state_dict()
    for key, tensor in network.state_dict().items():
        assert tensor.data_ptr() == places[key]
        assert torch.equal(tensor, again[key]) and (tensor != 7).all()
        if tensor.ndim > 1 and tensor.any():  # not the class token, which starts from zero
            assert not torch.equal(tensor, first[key])


@pytest.mark.parametrize("name", OTHERS)
def test_linear_layers_and_convolutions_are_uniform_within_one_over_the_root_of_fan_in(name):
    network = build(name, 32 if name == "vgg11" else 16)
    # The last layer of attention has PyTorch's bias of zero instead.
    unlike = {
        id(m.out_proj.bias) for m in network.modules() if isinstance(m, nn.MultiheadAttention)
    }
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for parameter in module.parameters():
                if id(parameter) not in unlike:
                    values = parameter.detach().flatten()[:5000] * math.sqrt(fan_in(module))
                    assert values.abs().max() <= 1
                    assert stats.kstest(values, "uniform", args=(-1, 2)).pvalue > 1e-4


def test_attention_and_embeddings_are_drawn_as_pytorch_and_torchvision_draw_them(vit):
    reset_parameters(vit, seeded())
    bound = math.sqrt(6 / (512 + 3 * 512))
    for block in vit.network.encoder.layers:
        attention = block.self_attention
        values = attention.in_proj_weight.detach().flatten()[::300] / bound
        assert values.abs().max() <= 1
        assert stats.kstest(values, "uniform", args=(-1, 2)).pvalue > 1e-4
        assert not attention.in_proj_bias.any() and not attention.out_proj.bias.any()
    assert not vit.network.class_token.any()
    positions = vit.network.encoder.pos_embedding.detach().flatten() / 0.02
    assert stats.kstest(positions, "norm").pvalue > 1e-4


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_without_a_generator_weights_have_the_same_distribution(name):
    """torchvision's own start, zeros in ViT's classifier for one, is not what is trained."""
    torch.manual_seed(0)
    network = build_model(name, in_channels=3, image_size=16, num_classes=10)
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    values = last.weight.detach().flatten() * math.sqrt(last.in_features)
    assert stats.kstest(values[:5000], "uniform", args=(-1, 2)).pvalue > 1e-4


@pytest.mark.parametrize(
    "layer",
    [
        nn.MultiheadAttention(8, 2, add_bias_kv=True),
        nn.MultiheadAttention(8, 2, kdim=4),
        nn.Bilinear(2, 2, 2),
    ],
)
def test_reset_refuses_parameters_that_it_cannot_draw(layer):
    with pytest.raises(TypeError, match=type(layer).__name__):
        reset_parameters(nn.Sequential(layer), seeded())


# Dropout.


def dropout(p=0.25, seed=0):
    module = Dropout(p)
    module.reseed(seeded(seed))
    return module


def test_dropout_zeroes_a_fraction_p_and_keeps_the_mean():
    x = torch.full((40_000,), 3.0)
    out = dropout()(x)
    assert set(out.unique().tolist()) == {0, 4}
    # Within four standard deviations of a count of 40,000.
    assert abs(float((out == 0).float().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 40_000)
    assert abs(float(out.mean()) - 3) < 4 * 4 * math.sqrt(0.25 * 0.75 / 40_000)


def test_dropout_passes_gradient_where_it_passes_the_value():
    x = torch.ones(1000, requires_grad=True)
    out = dropout()(x)
    out.sum().backward()
    assert torch.equal(x.grad, out.detach())


def test_dropout_is_the_identity_in_eval_mode():
    x = torch.randn(10)
    assert dropout().eval()(x) is x


def test_dropouts_masks_go_by_its_seed_and_move_on_with_every_use():
    x = torch.ones(1000)
    module, same = dropout(), dropout()
    masks = [module(x) for _ in range(3)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert all(torch.equal(mask, same(x)) for mask in masks)
    assert torch.equal(torch.get_rng_state(), before)
    others = [*masks, dropout(seed=1)(x)]
    agreement = [(a == b).float().mean() for i, a in enumerate(others) for b in others[:i]]
    # Independent masks agree where both keep or both drop: 0.75^2 + 0.25^2 of the time.
    assert all(abs(share - 0.625) < 0.1 for share in agreement)
    module.reseed(seeded())
    assert torch.equal(module(x), masks[0])


def test_dropout_never_reseeded_follows_the_global_generator():
    x, module = torch.ones(1000), dropout()
    module.reseed(None)
    outs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outs.append(module(x))
    assert torch.equal(outs[0], outs[1]) and not torch.equal(outs[0], outs[2])


def test_dropout_keeps_the_number_type_and_takes_tensors_without_values():
    assert dropout()(torch.ones(4, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert Dropout(0.1)(torch.empty(3, 4, device="meta")).shape == (3, 4)


def test_dropout_gives_the_same_masks_within_a_compiled_function():
    layers = [nn.Sequential(nn.Linear(8, 8), dropout(), nn.Linear(8, 8)) for _ in range(2)]
    for layer in layers:
        reset_parameters(layer, seeded())
    compiled = torch.compile(layers[1], dynamic=False, backend="eager")
    for _ in range(3):
        torch.testing.assert_close(compiled(images(2, 8)), layers[0](images(2, 8)))


def test_vits_dropouts_have_masks_of_their_own(vit):
    reset_parameters(vit, seeded())
    seeds = [m.seed for m in vit.modules() if isinstance(m, Dropout)]
    assert len(set(seeds)) == len(seeds) == 19


# Training and testing.


def test_training_forward_is_a_function_of_the_generator(vit):
    x, scores = images(), []
    vit.train()
    for seed, state in ((0, 1), (0, 2), (1, 1)):
        reset_parameters(vit, seeded(seed))
        torch.manual_seed(state)
        before = torch.get_rng_state()
        with torch.no_grad():
            scores.append(torch.stack([vit(x), vit(x)]))
        assert torch.equal(torch.get_rng_state(), before)
    first, same, other = scores
    assert torch.equal(first, same)
    assert not torch.allclose(first[0], first[1])  # the masks move on
    assert not torch.allclose(first, other)


def test_testing_drops_nothing(vit):
    reset_parameters(vit, seeded())
    x = images()
    with torch.no_grad():
        dropped, kept, again = vit.train()(x), vit.eval()(x), vit(x)
        for module in vit.modules():
            if isinstance(module, Dropout):
                module.p = 0.0
        whole = vit.train()(x)
        for module in vit.modules():
            if isinstance(module, Dropout):
                module.p = 0.1
    assert torch.equal(kept, again)
    torch.testing.assert_close(kept, whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(kept, dropped, rtol=1e-2)


@pytest.mark.parametrize("name", ["alexnet", "vit"])
def test_trained_weights_are_a_function_of_the_generator(name, make_data):
    data = make_data(counts=(2, 2, 2))
    config = EvalConfig(model=name, epochs=1).resolve(8)
    network = build(name, 8, classes=3)
    trainer = Trainer(network, config, Execution(config, torch.device("cpu"), 0))
    trained = []
    for state in (1, 2):
        torch.manual_seed(state)
        trainer.train(images(6), data.train_labels, [seeded()])
        trained.append([p.detach().clone() for p in trainer.network.parameters()])
    assert all(map(torch.equal, *trained))


@pytest.mark.parametrize("norm", NORMS)
def test_vgg11_normalises_no_map_of_a_single_pixel(norm):
    network, sides = without_values("vgg11", norm=norm), []
    for layer in network.layers:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda m, x, out: sides.append(out.shape[-1]))
    network(torch.empty(1, 3, 32, 32, device="meta"))
    assert sides == [32, 16, 8, 8, 4, 4, 2, 2]


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_smallest_resnet18_still_tells_one_image_from_another(norm):
    network = build("resnet18", 9, norm=norm)
    one, two = images(2, 9).split(1)
    assert (network(one) - network(two)).abs().max() > 1e-3


# What cannot work.


@pytest.mark.parametrize(
    ("name", "size", "norm", "allowed"),
    [
        ("alexnet", 7, None, "image_size is 7; allowed with model 'alexnet': 8 or more"),
        ("vgg11", 8, "none", "image_size is 8; allowed with model 'vgg11': 32 or more"),
        ("vgg11", 31, "instance", "image_size is 31; allowed with model 'vgg11': 32 or more"),
        (
            "resnet18",
            8,
            "instance",
            "image_size is 8; allowed with model 'resnet18' and norm 'instance': 9 or more",
        ),
        (
            "resnet18",
            8,
            "batch",
            "image_size is 8; allowed with model 'resnet18' and norm 'batch': 9 or more",
        ),
        ("vit", 30, None, "image_size is 30; allowed with model 'vit': multiples of 4"),
        ("vit", 0, None, "image_size is 0; allowed: 1 to 1,000,000"),
    ],
)
def test_images_that_do_not_fit_are_refused(complains, name, size, norm, allowed):
    with complains(allowed):
        build(name, size, **({} if norm is None else {"norm": norm}))


@pytest.mark.parametrize(
    ("name", "size", "norm"),
    [("alexnet", 8, None), ("vgg11", 33, "instance"), ("resnet18", 8, "group"), ("vit", 4, None)],
)
def test_images_just_large_enough_are_taken(name, size, norm):
    network = without_values(name, size, **({} if norm is None else {"norm": norm}))
    assert network(torch.empty(1, 3, size, size, device="meta")).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "settings", "parts"),
    [
        ("vgg11", {"norm": "instnace"}, ["norm is 'instnace'", "'instance'"]),
        (
            "resnet18",
            {"norm": "layer"},
            ["norm of model 'resnet18' is 'layer'; allowed: none, batch, instance, group"],
        ),
        ("alexnet", {"norm": "batch"}, ["setting of model 'alexnet' is 'norm'"]),
        ("vit", {"depth": 3}, ["setting of model 'vit' is 'depth'"]),
        ("resnet1", {}, ["model is 'resnet1'", "did you mean 'resnet18'"]),
    ],
)
def test_wrong_setting_is_told_what_is_allowed(complains, name, settings, parts):
    with complains(*parts):
        build(name, **settings)


@pytest.mark.parametrize("method", ["random", "atom"])
@pytest.mark.parametrize("name", OTHERS)
def test_distillation_is_refused_to_networks_without_features(complains, make_data, name, method):
    with complains(
        f"model is {name!r}; allowed for distillation: 'convnet'; other networks serve evaluation"
    ):
        METHODS[method](model=name).resolve(make_data(size=32))
