"""Settings: copies, JSON, and one sentence for anything wrong."""

import json
from typing import Annotated

import pytest
from pydantic import Field

from atomlib.augmentation import DSAConfig
from atomlib.methods import ATOM, DM
from atomlib.training import EvalConfig

NAN = float("nan")


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
        ({"zca": 1}, ["zca is 1", "True, False, 'unit' or 'computed'"]),
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
        ({"variant": "a\nb"}, ["variant is 'a\\nb'", "lower-case letters"]),
        (
            {"variant": "My Variant"},
            ["variant is 'My Variant'; allowed: lower-case letters, digits, '.', '_' and '+'"],
        ),
        ({"variant": "a" * 101}, ["; allowed: at most 100 characters"]),
        ({"variant": 1}, ["variant is 1; allowed: a string"]),
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


class Own(DM):
    weight: float
    word: Annotated[str, Field(pattern="^x*$")] = ""
    pair: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(), max_length=2, strict=False)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "weight of Own is not given; allowed: a value, it has no default"),
        ({"weight": 1.0, "word": "y"}, "word is 'y'; allowed: text of the pattern '^x*$'"),
        ({"weight": 1.0, "pair": (1, 2, 3)}, "; allowed: at most 2 items"),
    ],
)
def test_settings_of_ones_own_are_as_plain(complains, settings, sentence):
    with complains(sentence):
        Own(**settings)
    with complains(sentence):
        Own.from_json(json.dumps(settings))


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
        ATOM.from_json(text)
