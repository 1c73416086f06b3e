"""Settings: the paper's constants, what None becomes, and one sentence for anything wrong."""

from dataclasses import replace

import pytest

from atomlib.augmentation import DSAConfig
from atomlib.datasets import known
from atomlib.methods import ATOM, METHODS, Method, RandomImages
from atomlib.training import EvalConfig

NAN = float("nan")


def test_defaults_are_table_1():
    distilling, training = ATOM(), EvalConfig()
    table = {
        "method": "atom",
        "iterations": 8000,
        "real_batch": 128,
        "init": "real",
        "spatial_power": 4,
        "channel_power": 4,
        "attention_norm": "l2",
        "loss_scale": 1,
        "image_momentum": 0.5,
        "image_weight_decay": 0,
    }
    assert {key: getattr(distilling, key) for key in table} == table
    table = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "step_decay": 0.5, "step_size": 15}
    table |= {"batch_size": 256, "epochs": 1000}
    assert {key: getattr(training, key) for key in table} == table
    encoder = {
        "model": "convnet",
        "width": 128,
        "norm": "instance",
        "activation": "relu",
        "pooling": "average",
    }
    dsa = {
        "strategies": ("color", "crop", "cutout", "flip", "scale", "rotate"),
        "brightness": 1.0,
        "saturation": 2.0,
        "contrast": 0.5,
        "crop": 0.125,
        "cutout": 0.5,
        "flip": 0.5,
        "scale": 1.2,
        "rotate": 15,
    }
    for config in (distilling, training):
        assert {key: getattr(config, key) for key in encoder} == encoder
        assert config.dsa.model_dump() == dsa


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("random", (False, False, False)),
        ("dm", (False, False, True)),
        ("datadam", (True, False, True)),
        ("atom", (True, True, True)),
    ],
)
def test_a_method_is_its_spatial_channel_and_output_switches(make_data, method, terms):
    config = METHODS[method]().resolve(make_data())
    assert (config.spatial, config.channel, config.output) == terms
    matching = config.matching()
    assert (matching.spatial, matching.channel, matching.output) == terms


def test_a_switch_given_overrides_the_method(make_data):
    config = ATOM(channel=False).resolve(make_data())
    assert (config.spatial, config.channel, config.output) == (True, False, True)


@pytest.mark.parametrize(
    ("method", "size", "balance"),
    [
        ("atom", 32, 0.01),
        ("atom", 64, 0.02),
        ("datadam", 32, 0.01),
        ("datadam", 64, 0.02),
        ("dm", 32, 1),
        ("dm", 64, 1),
    ],
)
def test_lambda_follows_method_and_image_size(make_data, method, size, balance):
    data = make_data(size=size, counts=(1, 1, 1))
    assert METHODS[method]().resolve(data).task_balance == balance


@pytest.mark.parametrize(("ipc", "rate"), [(1, 1), (50, 1), (51, 10)])
def test_image_learning_rate_follows_ipc(make_data, ipc, rate):
    data = make_data(counts=(51, 51, 51))
    assert ATOM(ipc=ipc).resolve(data).image_lr == rate


@pytest.mark.parametrize("about", [*known.OFFICIAL, *known.AS_LOADED], ids=lambda k: k.name)
def test_zca_is_on_for_cifar_only(make_data, about):
    data = replace(make_data(), fingerprint=about.fingerprint, zca=None)
    assert ATOM().resolve(data).zca is about.name.startswith("cifar")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar10-jpeg", "my-cifar"])
def test_zca_is_not_on_for_what_is_only_called_so(make_data, name):
    assert ATOM().resolve(make_data(name)).zca is False


@pytest.mark.parametrize(("size", "depth"), [(8, 2), (16, 2), (28, 3), (32, 3), (64, 4), (128, 5)])
def test_depth_follows_the_image_size(make_data, size, depth):
    data = make_data(size=size, counts=(1, 1, 1))
    assert ATOM().resolve(data).depth == depth
    assert EvalConfig().resolve(size).depth == depth


@pytest.mark.parametrize("method", METHODS)
def test_resolve_leaves_no_none(make_data, method):
    config = METHODS[method]().resolve(make_data())
    assert [key for key, value in config.model_dump().items() if value is None] == ["layers"]
    config = EvalConfig().resolve(8)
    assert [key for key, value in config.model_dump().items() if value is None] == ["together"]


@pytest.mark.parametrize("method", METHODS)
def test_resolving_twice_changes_nothing(make_data, method):
    data = make_data("cifar10")
    once = METHODS[method](ipc=2).resolve(data)
    assert once.resolve(data) == once
    assert EvalConfig().resolve(64).resolve(64) == EvalConfig().resolve(64)


@pytest.mark.parametrize(
    "given",
    [
        {"task_balance": 0.5},
        {"image_lr": 0.1},
        {"zca": False},
        {"depth": 3},
        {"layers": (2,)},
        {"iterations": 0},
        {"real_batch": 2},
    ],
)
def test_resolve_keeps_what_was_given(make_data, given):
    config = ATOM(**given).resolve(make_data("cifar10"))
    assert {key: getattr(config, key) for key in given} == given


def test_real_batch_is_capped_at_the_smallest_class(make_data):
    assert ATOM().resolve(make_data(counts=(6, 4, 9))).real_batch == 4


def test_random_has_no_iterations(make_data):
    assert RandomImages().resolve(make_data()).iterations == 0


def test_json_round_trip_is_equal(make_data):
    dsa = DSAConfig(strategies=("flip", "crop"), flip=0.25)
    config = ATOM(ipc=3, layers=(1, 2), loss_scale=0.1, seed=2**63 - 1, dsa=dsa)
    for one in (config, config.resolve(make_data()), EvalConfig(dsa=dsa)):
        assert type(one).from_json(one.model_dump_json()) == one


def test_but_changes_a_copy():
    config = ATOM(ipc=2)
    assert config.but(seed=1, dsa=DSAConfig(flip=0)) == ATOM(ipc=2, seed=1, dsa=DSAConfig(flip=0))
    assert config == ATOM(ipc=2)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"ipc": 0}, ["ipc is 0", "1"]),
        ({"ipc": -3}, ["ipc is -3", "1"]),
        ({"ipc": "1"}, ["ipc is '1'", "integer"]),
        ({"ipc": 1.5}, ["ipc is 1.5", "integer"]),
        ({"ipc": True}, ["ipc is True", "integer"]),
        ({"ipc": None}, ["ipc is None", "integer"]),
        ({"zca": 1}, ["zca is 1", "boolean"]),
        ({"spatial_power": NAN}, ["spatial_power is nan", "finite"]),
        ({"spatial_power": "4"}, ["spatial_power is '4'", "number"]),
        ({"channel_power": 0}, ["channel_power is 0", "1"]),
        ({"image_lr": 0}, ["image_lr is 0", "greater than 0"]),
        ({"image_lr": float("inf")}, ["image_lr is inf", "finite"]),
        ({"image_momentum": 1.0}, ["image_momentum is 1.0", "less than 1"]),
        ({"task_balance": -0.01}, ["task_balance is -0.01", "0"]),
        ({"seed": -1}, ["seed is -1", "0"]),
        ({"layers": (1, 0)}, ["layers.1 is 0", "1"]),
        ({"layers": 2}, ["layers is 2", "tuple"]),
        ({"method": "atmo"}, ["method is 'atmo'", "did you mean 'atom'", "'datadam'"]),
        ({"method": "a\nb"}, ["method is 'a\\nb'", "'atom'"]),
        ({"model": "convnt"}, ["model is 'convnt'", "did you mean 'convnet'"]),
        ({"norm": "instnce"}, ["norm is 'instnce'", "did you mean 'instance'", "'batch'"]),
        ({"loss_scal": 1.0}, ["'loss_scal'", "did you mean 'loss_scale'", "image_lr"]),
        ({"dsa": "color"}, ["dsa is 'color'", "DSAConfig"]),
    ],
)
def test_a_bad_setting_is_one_sentence(complains, settings, parts):
    with complains("allowed: ", *parts):
        ATOM(**settings)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"networks": 0}, ["networks is 0", "1"]),
        ({"together": 0}, ["together is 0", "1"]),
        ({"together": "all"}, ["together is 'all'", "integer"]),
        ({"epochs": 2.5}, ["epochs is 2.5", "integer"]),
        ({"schedule": "halfwy"}, ["schedule is 'halfwy'", "did you mean 'halfway'", "'step'"]),
        ({"step_decay": 0}, ["step_decay is 0", "greater than 0"]),
        ({"epoch": 5}, ["'epoch'", "did you mean 'epochs'", "batch_size"]),
    ],
)
def test_a_bad_setting_of_the_evaluation_is_one_sentence(complains, settings, parts):
    with complains("allowed: ", *parts):
        EvalConfig(**settings)


BAD_DSA = [
    ({"strategies": ("crop", "colour")}, ["strategies.1 is 'colour'", "did you mean 'color'"]),
    ({"strategies": "color"}, ["strategies is 'color'", "tuple"]),
    ({"colr": 1}, ["colr'", "brightness"]),
    ({"cutot": 0.5}, ["cutot'", "did you mean 'cutout'"]),
    ({"crop": 2}, ["crop is 2", "less than or equal to 1"]),
    ({"scale": 0.5}, ["scale is 0.5", "greater than or equal to 1"]),
    ({"flip": NAN}, ["flip is nan", "finite"]),
]


@pytest.mark.parametrize(("settings", "parts"), BAD_DSA)
def test_a_bad_setting_of_dsa_is_one_sentence(complains, settings, parts):
    with complains("allowed: ", *parts):
        DSAConfig(**settings)


@pytest.mark.parametrize(("settings", "parts"), BAD_DSA)
def test_a_bad_setting_nested_in_dsa_is_one_sentence(complains, settings, parts):
    with complains("allowed: ", "dsa", *parts):
        ATOM(dsa=settings)


def test_a_bad_change_is_one_sentence(complains):
    with complains("'loss_scal'", "did you mean 'loss_scale'"):
        ATOM().but(loss_scal=2.0)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["JSON"]),
        ('{"ipc":\n', ["JSON"]),
        ("[]", ["object"]),
        ('{"ipc": "1"}', ["ipc is '1'", "integer"]),
        ('{"loss_scal": 1}', ["'loss_scal'", "did you mean 'loss_scale'"]),
        ('{"dsa": {"flip": 2}}', ["flip is 2", "less than or equal to 1"]),
    ],
)
def test_bad_json_is_one_sentence(complains, text, parts):
    with complains(*parts):
        Method.from_json(text)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"ipc": 3}, ["ipc is 3", "1 to 2", "'bee'", "toy"]),
        ({"depth": 3, "layers": (1, 4)}, ["layers has 4", "1 to 3"]),
        ({"depth": 2, "layers": (3,)}, ["layers has 3", "1 to 2"]),
        ({"layers": (1, 1)}, ["layers has 1", "once"]),
        ({"layers": ()}, ["layers is empty", "at least one"]),
        ({"depth": 1}, ["depth is 1", "2 or more"]),
        ({"spatial": False, "channel": False, "output": False}, ["spatial, channel and output"]),
        ({"method": "dm", "output": False}, ["output", "off"]),
        ({"method": "random", "output": True}, ["'random'", "no loss term"]),
    ],
)
def test_settings_that_the_data_cannot_serve_are_one_sentence(
    make_data, complains, settings, parts
):
    data = make_data(counts=(6, 2, 4))
    with complains("allowed", *parts):
        ATOM(**settings).resolve(data)
