"""As a library: what `import atomlib` shows, how objects print, what a type checker sees."""

import re
import subprocess
import sys
from importlib.util import find_spec
from typing import get_args

import pytest

import atomlib
from atomlib.datasets import load_dataset
from atomlib.distill import distill
from atomlib.methods import ATOM
from atomlib.models import build, convnet
from atomlib.recipes import RECIPES
from tests.test_environment import PROJECT, ROOT


def test_the_package_shows_its_version_and_a_map():
    assert atomlib.__version__ == PROJECT["project"]["version"]
    own = {path.stem for path in (ROOT / "atomlib").iterdir() if not path.name.startswith("_")}
    assert {"methods", "distill", "datasets"} <= set(dir(atomlib)) - {"__version__"} <= own
    text = atomlib.__doc__ or ""
    for name in set(dir(atomlib)) - {"__version__"}:
        assert re.search(rf"^    [^`]*\b{name}\b", text, re.MULTILINE), name


def test_a_module_is_imported_where_it_is_first_used():
    code = "import atomlib, sys; print('torch' in sys.modules, atomlib.methods.ATOM.label)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False ATOM\n"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        atomlib.nothing  # noqa: B018


def test_a_distilled_set_is_one_line():
    made = distill(load_dataset("digits"), ATOM(ipc=1, iterations=0, width=16), progress=False)
    assert repr(made) == "<DistilledSet digits-atom-ipc1-seed0: 10 images of 1 x 8 x 8>"


@pytest.mark.parametrize(
    ("written", "known"),
    [
        (build.Model, build.MODELS),
        (build.Activation, convnet.ACTIVATIONS),
        (build.Pooling, convnet.POOLINGS),
        (build.Recipe, RECIPES),
    ],
)
def test_names_written_out_for_type_checkers_are_those_that_are_known(written, known):
    assert get_args(written) == tuple(known)


SNIPPETS = "\n".join(
    code
    for page in ("README.md", "docs/adding-a-data-set.md", "docs/adding-a-network.md")
    for code in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
)
WRONG = """
ATOM(ipc=1, norm="bacth")
ATOM(ipc="one")
distill(data)
"""


def checked(code, folder):
    """What mypy says of a file of this code, beside the package as an editable install has it."""
    (folder / "snippets.py").write_text(code)
    command = ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "snippets.py"]
    return subprocess.run(
        [sys.executable, "-m", *command, "--cache-dir", str(folder / "cache")],
        cwd=folder,
        env={"MYPYPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(not find_spec("mypy"), reason="mypy is not installed; make installs it")
def test_a_type_checker_accepts_the_snippets_and_sees_what_is_wrong(tmp_path):
    done = checked(SNIPPETS, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = checked(SNIPPETS + WRONG, tmp_path).stdout
    assert found.count("error:") == 3, found
