"""What several tests share: folders of their own, a small data set, the form of a complaint."""

import os
import sys
from collections import Counter
from contextlib import contextmanager
from functools import partial

import hypothesis
import pytest

ON_GPU = any(pair == ("-m", "gpu") for pair in zip(sys.argv, sys.argv[1:], strict=False))
"""Whether tests marked "gpu" are asked for, and they alone."""

# Everything else is the same on every machine: on the CPU. Before torch, which looks for GPUs.
if not ON_GPU:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Also in what tests start: on networks this small a second thread costs more than it brings, and
# tests run beside each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError
from atomlib.runtime import bookmark as resume
from atomlib.runtime import compiling

torch.set_num_threads(1)
# autograd counts devices at a process's first backward. Where torch.compile was loaded before, it
# finds more than the CPU, starts threads for them, and no fork of the process can train.
torch.ones((), requires_grad=True).backward()

TORTURE = os.environ.get("ATOM_TORTURE") == "1"
"""Whether tests marked "torture" try as often as ``make torture`` asks, or a little."""

# The same examples at every run, and no limit on the time of one: a machine may be busy.
hypothesis.settings.register_profile("atomlib", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("atomlib")

_tallies = Counter()


def often(torture: int, short: int) -> int:
    """How often a test marked "torture" tries: in ``make torture``, and otherwise."""
    return torture if TORTURE else short


@pytest.fixture
def tally():
    """Count what was tried, ``tally("kills survived")``; printed when all tests are over."""

    def count(name, by=1):
        _tallies[name] += by

    return count


def pytest_terminal_summary(terminalreporter):
    """What tests marked "torture" tried, in words."""
    if _tallies:
        terminalreporter.section("tried", sep="-")
        for name, count in _tallies.items():
            terminalreporter.line(f"{count:6,} {name}")


def pytest_runtest_setup(item):
    """Tests marked "gpu" need a real one."""
    if item.get_closest_marker("gpu") and not (ON_GPU and torch.cuda.is_available()):
        pytest.skip("needs a GPU, and to be asked for: pytest -m gpu")


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory):
    """Keeps every test away from the user's cache and data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATOM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("ATOM_DATA", raising=False)
        yield


@pytest.fixture(autouse=True)
def as_before(own_folders):
    """Ends with a test what a command has set for its process: environment and current folder."""
    before, here = dict(os.environ), os.getcwd()
    yield
    os.chdir(here)
    for name in (before.keys() | os.environ.keys()) - {"PYTEST_CURRENT_TEST"}:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


@pytest.fixture
def traced(monkeypatch):
    """torch.compile where no C++ compiler need be: functions are traced and differentiated, and
    their graph runs as it is."""
    monkeypatch.setattr(compiling, "works", lambda kind: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def make_data():
    """Random ImageData of three classes: ``counts`` training images each, two test images."""

    def make(name="toy", *, counts=(6, 6, 6), size=8, channels=3, seed=0):
        generator = torch.Generator().manual_seed(seed)
        classes = torch.arange(len(counts))
        train, test = classes.repeat_interleave(torch.tensor(counts)), classes.repeat(2)

        def pixels(n):
            shape = (n, channels, size, size)
            return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

        names = ("ant", "bee", "cat")[: len(counts)]
        return ImageData(name, pixels(len(train)), train, pixels(len(test)), test, names)

    return make


@pytest.fixture
def complains():
    """Expect one sentence of complaint that contains every one of some parts."""

    @contextmanager
    def expect(*parts, kind=SettingError):
        with pytest.raises(kind) as caught:
            yield
        sentence = str(caught.value)
        assert "\n" not in sentence
        assert sentence[0].isalnum() or sentence[0] in "/'"
        assert "Value error" not in sentence  # a complaint in pydantic's wrapping
        for part in parts:
            assert str(part) in sentence

    return expect


@pytest.fixture
def steps(monkeypatch):
    """The learning rate of each optimiser step, and whether it starts without momentum."""
    seen = []

    class Recording(torch.optim.SGD):
        def step(self, *args):
            seen.append((self.param_groups[0]["lr"], not self.state))
            return super().step(*args)

    monkeypatch.setattr(torch.optim, "SGD", Recording)
    return seen


@pytest.fixture
def new_default(monkeypatch):
    """Change the default of a setting, as an edit of its class would."""
    changed = []

    def change(settings, name, value):
        changed.append(settings)
        monkeypatch.setattr(settings.model_fields[name], "default", value)
        settings.model_rebuild(force=True)

    yield change
    monkeypatch.undo()
    for settings in changed:
        settings.model_rebuild(force=True)


@pytest.fixture
def bookmarks_always(monkeypatch):
    """Where a run is, is written after every step."""
    monkeypatch.setattr(resume, "EVERY_SECONDS", 0.0)
