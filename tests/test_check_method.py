"""Methods: the contract each passes, how one is found, and what a file says of a stranger's."""

import sys
from collections.abc import Iterator
from typing import ClassVar

import pytest
import torch

from atomlib.distill import distill
from atomlib.distilled_set import DistilledSet
from atomlib.methods import (
    ATOM,
    DM,
    METHODS,
    Method,
    RandomImages,
    UnknownMethod,
    check_method,
    find,
)
from atomlib.methods.feature_matching import FeatureMatcher

STRANGER = """
from typing import ClassVar
from atomlib.methods import DM


class Mine(DM):
    name: ClassVar[str] = "mine"
    label: ClassVar[str] = "Mine"
    strength: float = 2.0

    def terms(self, maps, output):
        return [(self.strength, output)]
"""


class Mine(DM):
    name: ClassVar[str] = "mine"
    label: ClassVar[str] = "Mine"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_every_method_passes(method):
    check_method(method)


def test_so_does_a_strangers_and_an_object(make_data):
    check_method(Mine)
    check_method(ATOM(iterations=2, width=8, init="noise", norm="batch"), make_data(counts=(4,)))


# Broken ones, a kind each


def of(learner):
    """A method whose distillation is a learner of this class."""

    class Own(Mine):
        def learner(self, data, device, *, progress=True):
            return learner(self, data, device, self.start(data, device)) if self.length else None

    return Own


class Nameless(Method):
    pass


class SameName(DM):
    name: ClassVar[str] = "atom"


class WrongName(Mine):
    name: ClassVar[str] = "Mine/1"


class SameLabel(DM):
    name: ClassVar[str] = "mine"


class NoSource(Mine):
    source: ClassVar[str] = " "


class NoRevision(Mine):
    revision: ClassVar[int] = 0


class LeavesNone(Mine):
    strength: float | None = None


class NeverDone(Mine):
    def resolve(self, data):
        made = super().resolve(data)
        return made.but(loss_scale=2 * made.loss_scale)


class LosesSettings(Mine):
    def recorded(self):
        return super().recorded() | {"iterations": 1}


class NotJSON(Mine):
    def recorded(self):
        return super().recorded() | {"seed": object()}


class ElsewhereStart(Mine):
    def start(self, data, device, *, progress=True):
        return super().start(data, device) + 1


class Unseeded(FeatureMatcher):
    def life(self) -> Iterator[torch.Tensor]:
        yield self.loss(self.learned["images"]) + torch.rand(())


class Forgets(FeatureMatcher):
    def generators(self):
        return {k: v for k, v in super().generators().items() if k != "dsa"}


class RestoresLess(FeatureMatcher):
    def restore(self, state):
        super().restore({k: v for k, v in state.items() if not k.startswith("momentum")})


class Grows(FeatureMatcher):
    """Its state has another shape at each iteration, so a bookmark of it does not fit."""

    steps = 0

    def iterate(self):
        self.steps += 1
        return super().iterate()

    def state(self):
        return super().state() | {"steps": torch.zeros(self.steps)}

    def restore(self, state):
        super().restore(state)
        self.steps = len(state["steps"])


class OtherClass(RandomImages):
    name: ClassVar[str] = "mine"
    label: ClassVar[str] = "Mine"

    def rows(self, data, device, *, progress=True):
        return super().rows(data, device).flip(0)


class Twice(OtherClass):
    def rows(self, data, device, *, progress=True):
        return super().rows(data, device).flip(0)[:, :1].expand(-1, self.ipc)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (Nameless, "has no name"),
        (SameName, "which is atom's"),
        (WrongName, "has the name 'Mine/1'"),
        (SameLabel, "label 'DM' is another method's"),
        (NoSource, "source is ' '"),
        (NoRevision, "revision is 0"),
        (LeavesNone, "resolve leaves strength None"),
        (NeverDone, "changes settings that it has resolved"),
        (LosesSettings, "are others when read from a file"),
        (NotJSON, "cannot be read from a file"),
        (ElsewhereStart, "starts from other images than Random's"),
        (of(Unseeded), "two results at one seed"),
        (of(Forgets), "goes on in another way"),
        (of(RestoresLess), "another state than it was given"),
        (of(Grows), "starts anew after a kill in iteration 2"),
        (OtherClass, "OtherClass cannot be run: rows of OtherClass gave images of other classes"),
        (Twice, "take an image twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_method_fails(complains, broken, sentence):
    with complains(sentence, kind=AssertionError):
        check_method(broken)


@pytest.mark.parametrize("method", [Nameless(), SameName()], ids=["nameless", "same name"])
def test_distill_refuses_a_method_without_a_name_of_its_own(make_data, complains, method):
    with complains("name", "allowed: one of its own"):
        distill(make_data(), method)


WRONG_ROWS = {
    "nothing": (lambda _: None, "gave None; allowed: torch.int64 (3, 2)"),
    "a list": (lambda rows: rows.tolist(), "gave [["),
    "one class after another": (lambda rows: rows.flatten(), "gave torch.int64 (6,)"),
    "too few": (lambda rows: rows[:, :1], "gave torch.int64 (3, 1)"),
    "floats": (lambda rows: rows.float(), "gave torch.float32 (3, 2)"),
    "beyond the images": (lambda rows: rows + 10**6, "gave rows from 10000"),
    "from the end": (lambda rows: rows - 10**6, "gave rows from -"),
    "other classes": (lambda rows: rows.flip(0), "gave images of other classes"),
}


@pytest.mark.parametrize("name", WRONG_ROWS)
def test_rows_that_are_none_are_told_by_distill(make_data, complains, name):
    wrong, sentence = WRONG_ROWS[name]

    class Wrong(Mine):
        def rows(self, data, device, *, progress=True):
            return wrong(super().rows(data, device, progress=progress))

    with complains("rows of Wrong ", sentence, "for each class ipc of its training rows"):
        distill(make_data(), Wrong(ipc=2, iterations=0), device="cpu", progress=False)


WRONG_TERMS = {
    "nothing": (lambda _: None, "gave None; allowed: a list of one pair or more"),
    "no term": (lambda _: [], "gave []; allowed: a list of one pair or more"),
    "no weight": (lambda output: [output], "as a term; allowed: a pair, a weight and a tensor"),
    "a number": (lambda _: [(1.0, 2.0)], "gave (1.0, 2.0) as a term; allowed: a pair"),
    "a weight in quotes": (lambda output: [("1.0", output)], "gave ('1.0', tensor("),
    "whole numbers": (lambda output: [(1.0, output.long())], "allowed: a pair, a weight and a ten"),
    "a mean": (lambda output: [(1.0, output.mean())], "gave a tensor of shape ();"),
    "a mean row": (lambda output: [(1.0, output.mean(dim=0))], "gave a tensor of shape (32,);"),
    "half": (lambda output: [(1.0, output), (1.0, output[::2])], "allowed: one row per image"),
}


@pytest.mark.parametrize("mode", ["off", "on"])
@pytest.mark.parametrize("name", WRONG_TERMS)
def test_terms_that_are_none_are_told_by_distill_and_by_the_check(make_data, complains, name, mode):
    wrong, sentence = WRONG_TERMS[name]

    class Wrong(Mine):
        def terms(self, maps, output):
            return wrong(output)

    with complains("terms of Wrong gave ", sentence):
        method = Wrong(iterations=2, width=8, real_batch=4, compile=mode)
        distill(make_data(), method, device="cpu", progress=False)
    with complains("Wrong cannot be run: terms of Wrong gave ", kind=AssertionError):
        check_method(Wrong)


def test_terms_may_have_rows_of_any_form(make_data):
    class Form(Mine):
        def terms(self, maps, output):
            return [(1.0, maps[0]), (1.0, output.sum(dim=1)), [2, output]]

    distill(make_data(), Form(iterations=1, width=8, real_batch=4), progress=False)


def test_distill_refuses_a_setting_that_stays_none_before_any_work(
    make_data, complains, monkeypatch
):
    """No file could hold such a set, which was made to its end."""
    monkeypatch.setattr(LeavesNone, "learner", lambda *_, **__: pytest.fail("it began"))
    with complains("strength of method 'mine' is None", "allowed: a value, or 'strength' in"):
        distill(make_data(), LeavesNone(iterations=2, width=8, real_batch=4), progress=False)


def test_a_setting_that_may_stay_none_is_saved(make_data, tmp_path):
    class MayStay(LeavesNone):
        may_stay_none: ClassVar[tuple[str, ...]] = ("strength",)

    method = MayStay(iterations=2, width=8, real_batch=4)
    made = distill(make_data(), method, progress=False)
    assert DistilledSet.load(made.save(tmp_path / "set")).method.settings["strength"] is None


# Finding one


def test_a_method_is_found_by_its_name_and_a_class_is_itself():
    assert [find(name) for name in METHODS] == list(METHODS.values())
    assert find(ATOM) is ATOM and find(Mine) is Mine


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """The name of a module that is on nobody's list."""
    (tmp_path / "a_strangers.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    yield "a_strangers"
    sys.modules.pop("a_strangers", None)


def test_a_strangers_is_found_by_module_and_class(stranger):
    found = find(f"{stranger}:Mine")
    assert found.name == "mine" and found().strength == 2.0


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("atmo", ["method is 'atmo'", "did you mean 'atom'", "package.module:Class"]),
        (5, ["method is 5", "allowed: random"]),
        (None, ["method is None", "allowed: random"]),
        ("no_such_module:Mine", ["could not be imported", "no_such_module"]),
        ("a_strangers:Other", ["could not be imported", "Other"]),
        (":Mine", ["could not be imported"]),
        ("math:pi", ["method is 'math:pi'", "a class of atomlib.methods.Method"]),
        ("pathlib:Path", ["method is 'pathlib:Path'", "a class of atomlib.methods.Method"]),
        (Nameless, ["Nameless has no name"]),
        (SameName, ["'atom'", "one of its own"]),
    ],
    ids=str,
)
def test_what_is_no_method_is_told(stranger, complains, name, parts):
    with complains(*parts, "allowed"):
        find(name)


# A stranger's set


def test_a_strangers_set_is_loaded_without_importing_anything(stranger, make_data, tmp_path):
    data = make_data()
    method = find(f"{stranger}:Mine")(ipc=2, iterations=2, width=8, real_batch=4, variant="a.b")
    made = distill(data, method, device="cpu", progress=False)
    made.save(tmp_path / "set")
    del sys.modules[stranger]
    (tmp_path / f"{stranger}.py").write_text("raise SystemExit('imported')")
    read = DistilledSet.load(tmp_path / "set")
    assert stranger not in sys.modules
    assert isinstance(read.method, UnknownMethod)
    assert read.method == UnknownMethod("mine", made.method.recorded())
    assert (read.ipc, read.zca, read.stem) == (2, False, "toy-mine-ipc2-seed0-a.b")
    assert read.method.length == 2 and read.method.label == "mine"
    assert torch.equal(read.trained, made.trained) and read.digest() == made.digest()
    assert read.save(tmp_path / "again").read_bytes() == (tmp_path / "set").read_bytes()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("../mine", {}),
        ("mine", {"variant": "/../../x"}),
        ("mine", {"variant": "x" * 101}),
        ("mine", {"ipc": "2"}),
        ("mine", {"ipc": 0}),
        ("mine", {"zca": None}),
    ],
    ids=str,
)
def test_what_a_file_says_of_a_strangers_method_is_checked(name, change):
    good = {"ipc": 2, "seed": 0, "variant": "", "zca": False}
    assert UnknownMethod("mine", good).ipc == 2
    with pytest.raises(ValueError, match="its method is"):
        UnknownMethod(name, good | change)
