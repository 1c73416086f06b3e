"""Random settings, good and bad mixed: each is a correct run or one sentence that names one.

What is good is written down here a second time, setting by setting, as an oracle: a mixture with
a bad setting must be refused when it is built, by a sentence that names a bad one.
"""

import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atomlib.augmentation import DSAConfig
from atomlib.distill import DivergedError, distill
from atomlib.distilled_set import DistilledSet
from atomlib.errors import SettingError
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, DM, METHODS, DataDAM, Herding, KCenter, RandomImages
from atomlib.runs import parameters
from atomlib.runs.grid import DISAGREEMENTS, cells, disagreements
from atomlib.runs.profiles import read_profile
from atomlib.training import EvalConfig
from tests.conftest import often


def tries(torture: int, short: int):
    """So many examples, each with the test's own fixtures, however long one takes."""
    slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=often(torture, short), suppress_health_check=slow)


# Values that some setting or other must refuse; which one does is for `Kind.allows` to say.
ODD = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 1.5, -0.5, 1e308, 2**31, 2**63, 10**30, 10**400]),
    st.sampled_from(["", "1", "atmo", "Convnet", "relu ", "auto\n", "x" * 5000, "\0", b"off", 1j]),
    st.sampled_from([math.nan, math.inf, -math.inf, object(), (), [], {}, float, range(3)]),
    st.sampled_from([{"flip": 2}, {1: 2}, [1, 0], ("crop",), [["deep"]] * 3, torch.ones(3, 4)]),
    st.sampled_from([1, -1]).map(lambda sign: sign * 10**5000),  # which repr() refuses to write
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(-2, 5), max_size=3),
)


class Kind(NamedTuple):
    """What a setting may be: some good values that are quick to run, and what is good at all."""

    good: st.SearchStrategy
    allows: Any

    def or_none(self) -> "Kind":
        return Kind(st.none() | self.good, lambda v: v is None or self.allows(v))


def choice(*names):
    return Kind(st.sampled_from(names), lambda v: isinstance(v, str) and v in names)


def whole(least, quick, most=10**6):
    return Kind(st.integers(least, quick), lambda v: type(v) is int and least <= v <= most)


def real(least, most, open_least=False, open_most=False):
    def allows(v):
        if type(v) not in (int, float) or not -1e308 <= v <= 1e308:  # nor NaN
            return False
        above = v > least if open_least else v >= least
        return above and (v < most if open_most else v <= most)

    good = st.floats(least, min(most, 10), exclude_min=open_least, exclude_max=open_most)
    return Kind(good | st.just(most).filter(allows), allows)


SWITCH = Kind(st.booleans(), lambda v: type(v) is bool)
SEED = whole(0, 2**63 - 1, 2**63 - 1)
STRATEGIES = ("color", "crop", "cutout", "flip", "scale", "rotate")

DSA = {
    "strategies": Kind(
        st.lists(st.sampled_from(STRATEGIES), max_size=3),
        lambda v: (
            isinstance(v, list | tuple) and all(type(s) is str and s in STRATEGIES for s in v)
        ),
    ).or_none(),
    "brightness": real(0, 100),
    "saturation": real(0, 100),
    "contrast": real(0, 1),
    "crop": real(0, 1),
    "cutout": real(0, 1),
    "flip": real(0, 1),
    "scale": real(1, 100),
    "rotate": real(0, 180),
}


def allows_dsa(value) -> bool:
    if isinstance(value, DSAConfig):
        return True
    known = isinstance(value, dict) and all(key in DSA for key in value)
    return known and all(DSA[key].allows(one) for key, one in value.items())


NETWORK = {
    "depth": whole(1, 4, 64).or_none(),
    "width": whole(1, 16, 2**14),
    "norm": choice("none", "batch", "layer", "instance", "group"),
    "activation": choice("sigmoid", "relu", "leakyrelu"),
    "pooling": choice("none", "max", "average"),
    "precision": choice("auto", "float32", "bfloat16"),
    "graphs": Kind(  # YAML reads on and off as booleans
        st.sampled_from(("auto", "on", "off", True, False)),
        lambda v: type(v) is bool or v in ("auto", "on", "off"),
    ),
    "recipe": choice("text", "code"),
    "seed": SEED,
    "dsa": Kind(
        st.builds(DSAConfig)
        | st.fixed_dictionaries({}, optional={k: v.good for k, v in DSA.items()}),
        allows_dsa,
    ),
}
MATCHING_AND_CHOOSING = (RandomImages, Herding, KCenter, DM, DataDAM, ATOM)
MODELS = ("convnet", "alexnet", "vgg11", "resnet18", "vit")
DISTILL = NETWORK | {
    "model": choice(*MODELS),
    "ipc": whole(1, 4),
    "variant": Kind(
        st.from_regex(r"[a-z0-9.+]{0,9}", fullmatch=True),
        lambda v: (
            type(v) is str
            and len(v) <= 100
            and all(c in "abcdefghijklmnopqrstuvwxyz0123456789.+" for c in v)
        ),
    ),
    "iterations": whole(0, 2),
    "real_batch": whole(1, 200),
    "feature_epochs": whole(1, 2),
    "init": choice("real", "noise", "kmeans", "rewhitened"),
    "init_epochs": whole(1, 2),
    "zca": SWITCH.or_none(),
    "spatial": SWITCH,
    "channel": SWITCH,
    "output": SWITCH,
    "spatial_power": real(1, 16),
    "channel_power": real(1, 16),
    "attention_norm": choice("l2", "none"),
    "layers": Kind(
        st.lists(st.integers(1, 4), max_size=3).map(tuple),
        lambda v: (
            isinstance(v, list | tuple) and all(type(one) is int and 1 <= one <= 10**6 for one in v)
        ),
    ).or_none(),
    "task_balance": real(0, 1e30).or_none(),
    "loss_scale": real(0, 1e30, open_least=True),
    "image_lr": real(0, 1e30, open_least=True).or_none(),
    "image_momentum": real(0, 1, open_most=True),
    "image_weight_decay": real(0, 1e30),
}
EVAL = NETWORK | {
    "model": Kind(st.sampled_from(("convnet",) * 12 + MODELS), choice(*MODELS).allows),
    "networks": whole(1, 2),
    "together": whole(1, 3).or_none(),
    "epochs": whole(1, 2),
    "batch_size": whole(1, 300),
    "lr": real(0, 1e30, open_least=True),
    "momentum": real(0, 1, open_most=True),
    "weight_decay": real(0, 1e30),
    "schedule": choice("halfway", "step", "constant"),
    "step_size": whole(1, 3),
    "step_decay": real(0, 1, open_least=True),
}
UNKNOWN = ("ipcs", "loss_scal", "Width", "dsa.flip", "method ", "a\nb", "", "epoch", "x" * 500)
# Small and quick, unless the mixture says otherwise; with compilation a run takes a minute.
QUICK = {"compile": "off", "width": 8}
QUICK_DISTILL = QUICK | {"iterations": 2, "feature_epochs": 1, "init_epochs": 1}
QUICK_EVAL = QUICK | {"networks": 1, "epochs": 1}


@st.composite
def mixtures(draw, kinds, unknown=UNKNOWN):
    """(settings, which of them are bad): mostly good ones, and now and then a bad one or two."""
    names = draw(st.lists(st.sampled_from(sorted(kinds)), unique=True, max_size=12))
    mixture = {name: draw(kinds[name].good) for name in names}
    bad = set()
    for name in draw(st.lists(st.sampled_from([*sorted(kinds), *unknown]), max_size=2)):
        if draw(st.integers(0, 2)):
            continue
        allows = kinds[name].allows if name in kinds else lambda _: False
        mixture[name] = draw(ODD.filter(lambda value, allows=allows: not allows(value)))
        bad.add(name)
    return mixture, bad


def is_one_sentence(error: SettingError) -> str:
    sentence = str(error)
    assert "\n" not in sentence and len(sentence) < 2500, sentence
    assert "allowed" in sentence or isinstance(error, DivergedError), sentence
    return sentence


def built(config, mixture, bad):
    """The config, or None where it was rightly refused by a sentence that names a bad setting."""
    try:
        made = config(**mixture)
    except SettingError as error:
        sentence = is_one_sentence(error)
        assert bad, sentence
        # A name that is unknown is shown as Python would write it, and cut where it is long.
        assert any(name in sentence or repr(name)[:20] in sentence for name in bad), sentence
        return None
    assert not bad, f"{bad} of {mixture} passed"
    return made


SHAPES = {
    "plain": {},
    "one class": {"counts": (4,)},
    "uneven": {"counts": (1, 5, 2)},
    "grey": {"channels": 1},
    "two channels": {"channels": 2},
    "4 pixels": {"size": 4},
    "7 pixels": {"size": 7},
    "3 pixels": {"size": 3},
    "2 pixels": {"size": 2},
}


@pytest.fixture
def data_of(make_data):
    return cache(lambda shape: make_data(f"toy-{shape.replace(' ', '-')}", **SHAPES[shape]))


def names_a_setting(sentence, config):
    return any(name in sentence for name in config.model_fields)


@pytest.mark.torture
@tries(500, 60)
@given(
    drawn=st.data(),
    method=st.sampled_from(MATCHING_AND_CHOOSING),
    shape=st.sampled_from(sorted(SHAPES)),
)
def test_any_distillation_is_a_set_or_one_sentence(data_of, tally, drawn, method, shape):
    tally("random distillation settings, run or refused")
    own = {name: kind for name, kind in DISTILL.items() if name in method.model_fields}
    others = sorted(DISTILL.keys() - own.keys())  # another method's settings are none of this one
    given_settings, bad = drawn.draw(mixtures(own, (*UNKNOWN, *others)))
    data = data_of(shape)
    quick = {name: value for name, value in QUICK_DISTILL.items() if name in own}
    config = built(method, QUICK | quick | given_settings, bad)
    if config is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            made = distill(data, config, device="cpu", progress=False)
            path = made.save(Path(folder, f"{made.stem}.safetensors"))
        except SettingError as error:
            assert names_a_setting(is_one_sentence(error), method), error
            assert not list(Path(folder).iterdir())
            return
        assert list(Path(folder).iterdir()) == [path]
        read = DistilledSet.load(path)
    shape = (data.num_classes * config.ipc, *data.train_images.shape[1:])
    assert made.images.shape == made.trained.shape == shape
    assert made.trained.isfinite().all()
    assert (made.images >= 0).all() and (made.images <= 1).all()
    assert torch.equal(read.images, made.images) and torch.equal(read.trained, made.trained)
    assert read.method == made.method == config.resolve(data)
    assert len(made.history) == made.method.length


@pytest.mark.torture
@tries(400, 40)
@given(
    mixture=mixtures(EVAL),
    shape=st.sampled_from(sorted(SHAPES)),
    device=st.sampled_from(["cpu"] * 20 + ["cuda:99", "gpu", "", "cpu\n", 5, (), "cpu:7"]),
)
def test_any_evaluation_is_accuracies_or_one_sentence(data_of, tally, mixture, shape, device):
    tally("random evaluation settings, run or refused")
    data, (given_settings, bad) = data_of(shape), mixture
    config = built(EvalConfig, QUICK_EVAL | given_settings, bad)
    if config is None:
        return
    chosen = distill(data, RandomImages(zca=False), progress=False)
    try:
        accuracies = evaluate(chosen, data, config, device=device, progress=False)
    except SettingError as error:
        sentence = is_one_sentence(error)
        assert any(name in sentence for name in (*EvalConfig.model_fields, "device", "image_size"))
        assert device == "cpu" or "device" in sentence or names_a_setting(sentence, EvalConfig)
        return
    assert device == "cpu"
    assert accuracies.shape == (config.networks,)
    assert ((accuracies >= 0) & (accuracies <= 100)).all()


LISTS = {
    "datasets": st.just(["digits"]),
    "methods": st.lists(st.sampled_from(sorted(METHODS)), min_size=1, max_size=2),
    "ipcs": st.lists(st.integers(1, 3), min_size=1, max_size=2),
    "seeds": st.lists(st.integers(0, 3), min_size=1, max_size=2),
}
MAPS = {
    "settings": st.dictionaries(
        st.sampled_from(["width", "depth", "ipcs", "norm"]), ODD, max_size=2
    ),
    "evaluation": st.dictionaries(st.sampled_from(["epochs", "lr", "model"]), ODD, max_size=2),
    "method_settings": st.dictionaries(
        st.sampled_from(sorted(METHODS)) | ODD.filter(lambda v: getattr(v, "__hash__", None)),
        st.dictionaries(st.sampled_from(["ipc", "layers"]), ODD, max_size=1) | ODD,
        max_size=2,
    ),
    "variants": st.dictionaries(
        st.sampled_from(["a", "b.c", "Bad Name", "\n"]) | st.integers(),
        st.dictionaries(
            st.sampled_from(["settings", "evaluation", "seting"]),
            st.dictionaries(st.sampled_from(["width", "epochs"]) | st.integers(), ODD) | ODD,
            max_size=2,
        )
        | ODD,
        max_size=2,
    ),
}


@pytest.mark.torture
@tries(400, 40)
@given(data=st.data())
def test_any_grid_is_cells_or_one_sentence(tally, data):
    tally("random grids, built or refused")
    asked = {name: data.draw(good) for name, good in LISTS.items()}
    for name in data.draw(st.lists(st.sampled_from([*LISTS, *MAPS]), max_size=2)):
        good = (LISTS | MAPS)[name]
        asked[name] = data.draw(st.one_of(good, good, ODD, st.lists(ODD, max_size=2)))
    try:
        made = cells(**asked)
    except SettingError as error:
        is_one_sentence(error)
        return
    variants = asked.get("variants") or {"": {}}
    assert len(made) == math.prod(len(asked[name]) for name in LISTS) * len(variants)
    for cell in made:
        assert cell.method == cell.method.resolve(cell.data)


@pytest.mark.torture
@tries(300, 40)
@given(
    values=st.dictionaries(st.sampled_from(["ipcs", "seed", "full_data", "ipc", "_", "x"]), ODD),
    first=st.booleans(),
)
def test_any_parameters_pass_or_are_one_sentence(tally, values, first):
    tally("random notebook parameters, passed or refused")
    parameters._first_call = first
    try:
        types = {"ipcs": list[int], "seed": int, "full_data": dict | None}
        parameters.check({**values, "__annotations__": types})
    except SettingError as error:
        assert "parameter" in is_one_sentence(error)
        return
    finally:
        parameters._first_call = True
    assert type(values["seed"]) is int and all(type(one) is int for one in values["ipcs"])
    assert values["full_data"] is None or type(values["full_data"]) is dict
    assert not first or not {"ipc", "x"} & {k for k, v in values.items() if is_plain(v)}


def is_plain(value):
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)


@tries(60, 20)
@given(
    recipe=st.sampled_from(["text", "code"]) | ODD,
    names=st.lists(st.sampled_from([*DISAGREEMENTS, "nrom"]) | ODD, max_size=3),
)
def test_any_disagreements_are_variants_or_one_sentence(recipe, names):
    try:
        made = disagreements(recipe, names)
    except SettingError as error:
        assert is_one_sentence(error).startswith(("disagreement is", "recipe is"))
        return
    assert set(made) == {"", *names} and set(names) <= set(DISAGREEMENTS)


@pytest.mark.torture
@tries(200, 30)
@given(
    text=st.one_of(
        st.binary(max_size=40),
        st.text("abc:[]{}-&*!|>'\"#%@ \n\t019.,?", max_size=40).map(str.encode),
        st.sampled_from([b"", b"5", b"- 00_one", b"00_one:", b"00_one: 5", b"00_one: [number]"]),
        st.sampled_from([b"1: {}", b"00_one: {numbr: 1}", b"00_on: {}", b"00_one: {1: 2}"]),
        st.sampled_from([b"? [a]\n: 1", b"a: &a [*a]", b"00_one: &a {number: *a}", b"\xff\xfe"]),
        st.sampled_from([b"[" * 5000, b"a: 2001-02-30", b"!!python/x 1", b"00_one: {number: 2}"]),
    )
)
def test_any_profile_is_parameters_or_one_sentence(profiles, tally, text):
    tally("random profiles, read or refused")
    (profiles / "odd.yaml").write_bytes(text)
    try:
        profile = read_profile("odd")
    except SettingError as error:
        is_one_sentence(error)
        return
    assert all(name == "00_one" and set(given) <= {"number"} for name, given in profile.items())


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """A folder for profiles beside one notebook, whose one parameter is a number."""
    nbformat = pytest.importorskip("nbformat")
    cell = nbformat.v4.new_code_cell("number = 1", metadata={"tags": ["parameters"]})
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "notebooks" / "00_one.ipynb")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "notebooks" / "profiles"
