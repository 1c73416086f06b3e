"""The package as a library needs its light dependencies only; the extras are for the rest."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from atomlib.site.api import MODULES
from tests.test_environment import PROJECT, ROOT


def needed(names):
    """Distributions that these requirements bring, by name."""
    found, left = set(), [Requirement(text) for text in names]
    while left:
        asked = left.pop()
        name = canonicalize_name(asked.name)
        if name in found:
            continue
        found.add(name)
        try:
            further = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # of another system
            continue
        for one in further:
            extras = asked.extras or {""}
            if one.marker is None or any(one.marker.evaluate({"extra": e}) for e in extras):
                left.append(one)
    return found


LIGHT = needed(PROJECT["project"]["dependencies"])
HEAVY = sorted(
    module
    for module, names in packages_distributions().items()
    if module != "atomlib" and not any(canonicalize_name(name) in LIGHT for name in names)
)

BLOCKED = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *where):
        absent = name.partition(".")[0] in {set(HEAVY)!r}
        return None if absent else self.finder.find_spec(name, *where)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""


def without_extras(code, folder):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "ATOM_CACHE": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )


def test_the_extras_are_heavy():
    assert {"pandas", "matplotlib", "seaborn", "papermill", "jupyterlab", "ray"} <= set(HEAVY)
    assert not {"torch", "numpy", "pydantic", "sklearn", "kornia"} & set(HEAVY)


def test_distilling_evaluating_and_keeping_need_no_extra(tmp_path):
    code = """
from atomlib.cli import main
from atomlib.datasets import load_dataset
from atomlib.distill import distill
from atomlib.distilled_set import DistilledSet
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM
from atomlib.training import EvalConfig

data = load_dataset("digits")
made = distill(data, ATOM(ipc=1, iterations=2, width=16, real_batch=4), progress=False)
kept = DistilledSet.load(made.save("digits.safetensors"))
made.export("png")
evaluate(kept, data, EvalConfig(networks=1, epochs=1, width=16), progress=False)
assert main(["data", "digits"]) == 0 and main(["status", "."]) == 0
import atomlib.runs.judge  # atomlib evaluate
"""
    done = without_extras(code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_the_reference_offers_needs_no_extra_but_the_search_does(tmp_path):
    names = [f"atomlib.{name}" for name in MODULES if name != "nas"]
    done = without_extras(
        f"import importlib\nfor n in {names}: importlib.import_module(n)", tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(("command", "module"), [("run x", "nbformat"), ("verify x", "pandas")])
def test_a_command_that_needs_an_extra_says_which(command, module, tmp_path):
    code = f"from atomlib.cli import main\nsys.exit(main({command.split()!r}))"
    done = without_extras(code, tmp_path)
    assert done.returncode == 1
    assert f"needs {module}" in done.stderr and "atomlib[all]" in done.stderr
    assert "Traceback" not in done.stderr
