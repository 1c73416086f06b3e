"""Methods: found by name or by place, the paper's constants, and what None becomes."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from atomlib.datasets import known, load_dataset
from atomlib.methods import (
    ATOM,
    DM,
    METHODS,
    DataDAM,
    KCenter,
    Method,
    RandomImages,
    colour,
    find,
    label,
    place,
)
from atomlib.methods.coreset import Coreset
from atomlib.methods.learned_images import LearnedImages
from atomlib.models.build import network_for
from atomlib.training import EvalConfig
from tests import plain
from tests.test_edges import small

CPU = torch.device("cpu")
LEARNED = [name for name, method in METHODS.items() if issubclass(method, LearnedImages)]


def test_defaults_are_table_1():
    distilling, training = ATOM(), EvalConfig()
    table = {
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
        # All six, where the data does not say which of them suit it.
        assert config.dsa.resolve(None).model_dump() == dsa


@pytest.mark.parametrize(
    ("method", "published"),
    [
        ("atom", {"init_epochs": 30}),
        ("herding", {"feature_epochs": 30}),
        ("kcenter", {"feature_epochs": 30}),
        ("forgetting", {"feature_epochs": 200}),
        ("dq", {"feature_epochs": 10}),
        ("dc", {"iterations": 1000, "real_batch": 256, "network_batch": 256, "network_lr": 0.01}),
        ("dsa", {"iterations": 1000, "real_batch": 256, "network_batch": 256, "network_lr": 0.01}),
        ("cafe", {"iterations": 2000, "real_batch": 256, "query": 128, "most_epochs": 100}),
        ("cafe_dsa", {"iterations": 2000, "real_batch": 256, "query": 128, "most_epochs": 100}),
    ],
)
def test_defaults_of_other_papers_are_those_of_the_docs(method, published):
    """docs/facts.md and docs/methods.md; MTT's and GLaD's are in their own tests."""
    config = METHODS[method]()
    assert {key: getattr(config, key) for key in published} == published


def test_digits_are_never_mirrored():
    digits = load_dataset("digits")
    for config in (EvalConfig(), *(method() for method in METHODS.values())):
        if "dsa" in type(config).model_fields:
            found = set(config.resolve(digits).dsa.strategies)
            assert found == {"color", "crop", "cutout", "scale", "rotate"}, config


@pytest.mark.parametrize("name", LEARNED)
def test_every_random_stream_goes_by_the_seed(make_data, name):
    data, how = make_data(), {"ipc": 2}
    if "prior" in METHODS[name].model_fields:
        how |= {"prior": "random", "fit_steps": 1}
    one, same, other = (
        small(name, seed=seed, **how).resolve(data).learner(data, CPU, progress=False)
        for seed in (0, 0, 1)
    )
    one, same, other = (
        {stream: generator.get_state() for stream, generator in learner.generators().items()}
        for learner in (one, same, other)
    )
    for stream, state in one.items():
        assert torch.equal(state, same[stream]) and not torch.equal(state, other[stream]), stream


@pytest.mark.parametrize("name", LEARNED)
def test_weight_decay_shrinks_the_images_or_latents_alone(make_data, name):
    how = {"image_lr": 0.5, "image_weight_decay": 0.25, "ipc": 2, "fit_steps": 1, "rate": 0.01}
    data, how = make_data(), {k: v for k, v in how.items() if k in METHODS[name].model_fields}
    learner = small(name, **how).resolve(data).learner(data, CPU, progress=False)
    images, *others = learner.learned.values()  # MTT learns a rate too
    before = [tensor.detach().clone() for tensor in (images, *others)]
    for tensor in learner.learned.values():
        tensor.grad = torch.zeros_like(tensor)
    learner.optimizer.step()
    torch.testing.assert_close(images.detach(), before[0] * (1 - 0.5 * 0.25))
    assert all(torch.equal(a.detach(), b) for a, b in zip(others, before[1:], strict=True))


def matched(method, data):
    """Names and weights of a method's terms, told by their values in the plain definition."""
    maps, output = network_for(method, data).features(torch.rand(4, 3, 8, 8))
    names = {}
    for weight, found in method.terms(maps, output):
        known = {"output": output}
        for block, features in enumerate(maps, 1):
            known[f"spatial {block}"] = plain.spatial_attention(features, 4.0)
            known[f"channel {block}"] = plain.channel_attention(features, 4.0)
        (name,) = [
            name
            for name, values in known.items()
            if values.shape == found.shape and torch.allclose(values, found, atol=1e-6)
        ]
        names[name] = weight
    return names


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        (DM, {"output"}),
        (DataDAM, {"output", "spatial 1"}),
        (ATOM, {"output", "spatial 1", "channel 1"}),
    ],
)
def test_a_method_matches_its_terms(make_data, method, terms):
    data = make_data()
    assert set(matched(method(width=16).resolve(data), data)) == terms


def test_a_switch_of_atom_takes_its_term_away(make_data):
    data = make_data()
    config = ATOM(channel=False, width=16).resolve(data)
    assert set(matched(config, data)) == {"output", "spatial 1"}
    assert matched(config, data) == matched(DataDAM(width=16).resolve(data), data)


@pytest.mark.parametrize("method", [RandomImages, KCenter])
def test_a_method_that_chooses_has_no_iterations_and_no_learner(make_data, method):
    data = make_data()
    chosen = method().resolve(data)
    assert chosen.length == 0
    assert chosen.learner(data, torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("method", "size", "balance"),
    [(ATOM, 32, 0.01), (ATOM, 64, 0.02), (DataDAM, 32, 0.01), (DataDAM, 64, 0.02), (DM, 32, 1)],
)
def test_lambda_follows_method_and_image_size(make_data, method, size, balance):
    """DM's own loss has no other term to balance."""
    data = make_data(size=size, counts=(1, 1, 1))
    made = method(width=16).resolve(data)
    maps, output = network_for(made, data).features(torch.rand(2, 3, size, size))
    *_, (weight, last) = made.terms(maps, output)
    assert weight == balance and last is output


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
    assert config.unset() == []
    left = [key for key, value in config.model_dump().items() if value is None]
    assert left == list(config.may_stay_none)
    assert left == (["layers"] if issubclass(METHODS[method], DataDAM) else [])
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
        ({"spatial": False, "channel": False, "output": False}, ["all off", "one loss term on"]),
        ({"model": "vit"}, ["model is 'vit'", "'convnet'"]),
    ],
)
def test_settings_that_the_data_cannot_serve_are_one_sentence(
    make_data, complains, settings, parts
):
    data = make_data(counts=(6, 2, 4))
    with complains("allowed", *parts):
        ATOM(**settings).resolve(data)


@pytest.mark.parametrize("method", [DM, RandomImages])
def test_a_switch_is_no_setting_of_a_method_without_terms_to_switch(complains, method):
    with complains("unknown setting 'output'", "allowed: "):
        method(output=False)


def test_each_method_is_found_by_its_name_and_by_its_class():
    chosen, learned = (
        ["random", "herding", "kcenter", "forgetting", "dq"],
        ["dm", "datadam", "atom"],
    )
    assert list(METHODS)[: len(chosen)] == chosen and list(METHODS)[-len(learned) :] == learned
    for position, (name, method) in enumerate(METHODS.items()):
        assert find(name) is find(method) is method
        assert (method.name, place(name), label(name)) == (name, position, method.label)
        assert colour(name) == method.colour
    assert len({method.colour for method in METHODS.values()}) == len(METHODS)


def test_every_methods_colour_is_seen_on_white():
    for method in METHODS.values():
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in to_rgb(method.colour)
        ]
        luminance = np.dot([0.2126, 0.7152, 0.0722], linear)  # contrast as WCAG defines it
        assert 1.05 / (luminance + 0.05) > 2, method.name


def test_a_method_is_found_by_its_place():
    assert find("atomlib.methods.dm:DM") is DM


def test_a_strangers_name_stands_for_itself_after_ours():
    assert place("theirs") == len(METHODS) and label("theirs") == "theirs"
    assert colour("theirs") == Method.colour


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("atmo", ["method is 'atmo'", "did you mean 'atom'", "datadam"]),
        ("a\nb", ["method is 'a\\nb'", "atom"]),
        (1, ["method is 1", "atom"]),
        ("no_such_module:Mine", ["'no_such_module:Mine'", "could not be imported"]),
        ("atomlib.methods:NoSuch", ["'atomlib.methods:NoSuch'", "could not be imported"]),
        (":DM", ["':DM'", "could not be imported"]),
        ("pathlib:Path", ["'pathlib:Path'", "atomlib.methods.Method"]),
        ("pathlib:PurePath.joinpath", ["could not be imported"]),
        (int, ["int", "atomlib.methods.Method"]),
        (Method, ["Method has no name"]),
        (Coreset, ["Coreset has no name"]),
    ],
)
def test_what_is_no_method_is_refused_in_one_sentence(complains, name, parts):
    with complains("allowed: ", *parts):
        find(name)


@pytest.mark.parametrize("part", ["name", "label", "source", "revision"])
def test_a_method_without_a_part_is_refused(complains, part):
    given = {"name": "mine", "label": "Mine", "source": "me", "revision": 1}
    del given[part]
    mine = type("Mine", (Method,), given)
    with complains(f"Mine has no {part}", "allowed: "):
        find(mine)


def test_a_name_of_ours_is_refused_to_a_stranger(complains):
    mine = type("Mine", (ATOM,), {})
    with complains("Mine", "'atom'", "allowed: one of its own"):
        find(mine)


def test_a_module_that_breaks_while_it_is_imported_is_named(tmp_path, monkeypatch, complains):
    (tmp_path / "broken_method.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with complains("broken_method:Mine", "no_such_library", "allowed: "):
        find("broken_method:Mine")
    assert "broken_method" not in sys.modules


@pytest.mark.parametrize("name", [None, 5, True, [1], {}, ("atom",), b"atom", DM(), ""])
def test_what_names_no_method_is_told(complains, name):
    with complains("method is", "allowed: random"):
        find(name)
