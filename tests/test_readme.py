"""The READMEs, results.md and installation.md say what the repository holds: tables, links."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

from atomlib.datasets.png_folder import example_folder
from tests.test_environment import ROOT

PAGES = [
    ROOT / path
    for path in (
        "README.md",
        "notebooks/README.md",
        "reports/README.md",
        "reports/bench/README.md",
        "docs/results.md",
        "docs/installation.md",
    )
]
README = PAGES[0].read_text()
EVERYWHERE = "\n".join(page.read_text() for page in PAGES)


PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SHAPES = """
if "images" in globals():
    print(tuple(images.shape), float(images.min()), float(images.max()), int(labels.max()))
"""


def block(start: str) -> str:
    """The text between <!-- start --> and <!-- end -->, unfolded."""
    text = EVERYWHERE.split(f"<!-- {start} -->")[1].split("<!-- end -->")[0]
    lines = [line for line in text.splitlines() if not re.match("</?details>", line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


@pytest.mark.parametrize(
    "path", re.findall(r"<!-- (reports/\S+\.md) -->", EVERYWHERE), ids=lambda path: path
)
def test_tables_are_those_of_the_committed_reports(path):
    assert block(path) == (ROOT / path).read_text().strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_picture_is_there(page):
    links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def commands() -> list[str]:
    """Everything that a reader is told to type: in blocks, and as `make ...` in the text."""
    blocks = re.findall(r"```sh\n(.*?)```", EVERYWHERE, re.DOTALL)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    made = re.findall(r"`((?:\w+=\S+ )*make(?: [^`]*)?)`", EVERYWHERE.replace("\n", " "))
    typed = [line for line in lines if re.match(r"(\w+=\S+ )*make\b", line)]
    return sorted({" ".join(one.split()) for one in (*made, *typed) if "..." not in one})


@pytest.mark.parametrize("command", commands())
def test_every_make_command_is_one(command):
    """Make's own dry run: the target is there, and so is what it is made from."""
    command = command.replace("make", "make --dry-run", 1)
    found = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()


def test_the_commands_are_found():
    assert {"make", "make test", "make status", "make reports PROFILE=paper"} <= {*commands()}


@pytest.mark.parametrize("command", ["make help", "make status PROFILE=cifar10-cpu"])
def test_commands_that_only_tell_run(command):
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 10


def test_one_notebook_runs_with_another_parameter(tmp_path):
    (command,) = re.findall(r"^\.venv/bin/python -m atomlib run .*$", README, re.MULTILINE)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sets = [path.name for path in (tmp_path / "reports" / "lab" / "distilled").iterdir()]
    assert sets and all("ipc2" in name for name in sets)


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_the_code_runs(code, tmp_path):
    example_folder(tmp_path / "my-images")
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    done = subprocess.run(
        [sys.executable, "-c", code + SHAPES], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    if "distill(" in code:
        assert (tmp_path / "my-images.safetensors").exists()
        assert len(list((tmp_path / "my-images-png").rglob("*.png"))) == 10
    else:
        assert done.stdout == "(100, 3, 32, 32) 0.0 1.0 9\n"


def test_the_code_is_for_each_reader():
    assert ["distill(" in code for code in PYTHON] == [False, False, True]


def test_a_figure_is_drawn_from_a_reports_folder(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGES[1].read_text(), re.DOTALL)
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    drawn = {path.name for path in (tmp_path / "mine" / "figures").iterdir()}
    assert drawn == {"ablation.png", "ablation.svg", "ablation.pdf"}


def test_how_far_the_images_grew_is_what_the_committed_sets_say():
    told = set(re.findall(r"grow\s+to ([\d.]+)\s+times the standard deviation", EVERYWHERE))
    sets = ROOT / "reports/cifar10-1000/distilled"
    atom, datadam, real = (
        load_file(sets / f"cifar10-{name}-ipc1-seed0-code.safetensors")["trained"].std()
        for name in ("atom", "datadam", "random")
    )
    assert told == {f"{grown / real:.1f}" for grown in (atom, datadam)}
    real, *grown = (
        load_file(sets / f"cifar10-{name}.safetensors")["trained"].std()
        for name in (
            "random-ipc10-seed0-code",
            "held-out-atom-ipc10-seed0-code-loss_scale.1000",
            "held-out-atom-ipc10-seed0-code",
        )
    )
    large, plain = (f"{each / real:.1f}" for each in grown)
    said = " ".join(EVERYWHERE.split())
    assert f"the images is {large} times Random's (by the code as it is {plain} times)" in said


TOLD = " ".join(re.sub(r"<!-- reports/.*?<!-- end -->", "", EVERYWHERE, flags=re.DOTALL).split())
"""What the pages say outside the tables, which are copies."""
MEAN = re.compile(r"\d+\.\d ± \d+\.\d")


def test_each_accuracy_that_is_told_is_that_of_a_committed_record_or_table():
    told = set(MEAN.findall(TOLD))
    records = [json.loads(path.read_text()) for path in ROOT.glob("reports/*/results/*.json")]
    measured = [record["accuracies"] for record in records if record.get("accuracies")]
    known = {f"{np.mean(each):.1f} ± {np.std(each):.1f}" for each in measured}
    for path in ROOT.glob("reports/*/main_table.md"):
        known |= set(MEAN.findall(path.read_text()))
    assert len(told) > 5
    assert not told - known


def test_each_p_that_is_told_is_in_an_executed_notebook():
    told = set(re.findall(r"\bp = ([\d.e-]*\d)", TOLD))
    notebooks = "".join(path.read_text() for path in ROOT.glob("reports/*/notebooks/*.ipynb"))
    assert len(told) > 5
    assert not [p for p in told if not re.search(rf"(\| |p = ){re.escape(p)}\b", notebooks)]
