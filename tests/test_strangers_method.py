"""A method of another package, by its place: in a notebook, in processes, on Ray."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import papermill as pm
import pytest

from atomlib.distilled_set import DistilledSet
from atomlib.methods import UnknownMethod
from atomlib.runs.grid import cells
from atomlib.runs.store import Store
from atomlib.runs.sweep import sweep
from tests.ray_nodes import ray_nodes
from tests.test_engine import numbers, same

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"

MINE = "their_lab_method:Mine"

CODE = """
from typing import ClassVar

from atomlib.methods.feature_matching import FeatureMatching


class Mine(FeatureMatching):
    \"\"\"DM with an output that counts for as much as is asked.\"\"\"

    name: ClassVar[str] = "mine"
    label: ClassVar[str] = "Mine"
    source: ClassVar[str] = "a lab"
    revision: ClassVar[int] = 1

    weight: float = 2.0

    def terms(self, maps, output):
        return [(self.weight, output)]
"""
SETTINGS = {"width": 16, "iterations": 2, "real_batch": 4, "weight": 3.0}
EVALUATION = {"width": 16, "epochs": 1, "networks": 1}


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A folder on python's path, which is none of this package's, with the method in it."""
    folder = tmp_path / "lab"
    folder.mkdir()
    (folder / "their_lab_method.py").write_text(CODE)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)  # of what is started
    for name in ("ENGINE", "WORKERS", "CPUS_PER_CELL"):
        monkeypatch.delenv(name, raising=False)
    return folder


def grid():
    return cells(
        ["digits"],
        [MINE, "random"],
        seeds=[0, 1],
        ipcs=[1],
        settings=SETTINGS,
        evaluation=EVALUATION,
    )


@pytest.fixture
def here(lab, tmp_path):
    """The store and the records of the grid, made in this process."""
    store = Store(tmp_path / "here", progress=False)
    records, sets = sweep(store, grid())
    assert [r["method"] for r in records] == ["mine", "mine", "random", "random"]
    assert records[0]["distill"]["weight"] == sets[0].method.weight == 3.0
    assert sets[0].method.name == "mine" and len(sets[0].history) == 2
    return store, records


def test_it_runs_here_and_its_file_is_read_without_it(here):
    store, _ = here
    path, _ = sorted((store.folder / "distilled").glob("digits-mine-*"))
    found = DistilledSet.load(path)
    assert isinstance(found.method, UnknownMethod) and found.method.name == "mine"
    assert sweep(store, grid())[0] == here[1]


def test_it_runs_on_ray(here, lab, monkeypatch, tmp_path):
    pytest.importorskip("ray")
    with ray_nodes(1) as nodes:
        monkeypatch.setenv("ENGINE", "ray")
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        monkeypatch.setenv("CPUS_PER_CELL", "1")
        beside = Store(tmp_path / "beside", progress=False)
        assert numbers(sweep(beside, grid())[0]) == numbers(here[1])
    assert same(here[0], beside) == 4


def test_it_runs_in_processes_by_a_notebook(here, lab, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKERS", "2")
    asked = {
        "methods": [MINE, "random"], "seeds": [0, 1], "full_data": None, "settings": SETTINGS,
        "evaluation": EVALUATION, "output": str(tmp_path / "beside"),
    }  # fmt: skip
    notebook = NOTEBOOKS / "01_main_table.ipynb"
    pm.execute_notebook(notebook, tmp_path / "out.ipynb", asked, progress_bar=False, cwd=NOTEBOOKS)
    assert same(here[0], Store(tmp_path / "beside")) == 4
    table = pd.read_csv(tmp_path / "beside" / "main_table.csv").set_index("method")
    mine = [r["accuracies"] for r in here[1] if r["method"] == "mine"]
    assert table.loc["mine", "mean"] == pytest.approx(np.mean(mine))
