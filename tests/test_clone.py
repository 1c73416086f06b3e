"""Data and reports are those of the clone, whatever folder a notebook or command starts in."""

import nbformat
import papermill as pm
import pytest
from nbformat import v4

from atomlib.datasets import load_dataset
from atomlib.datasets.png_folder import example_folder
from atomlib.runtime import clone
from tests.test_environment import ROOT


@pytest.fixture
def another(tmp_path):
    """A clone with a notebook, and with data in its data/."""
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    example_folder(tmp_path / "data" / "mine")
    return tmp_path


@pytest.mark.parametrize("inside", [".", "notebooks", "notebooks/profiles", "data/mine/train"])
def test_the_clone_around_the_current_folder_is_found(another, inside, monkeypatch):
    monkeypatch.chdir(another / inside)
    assert clone.around() == clone.root() == another
    assert clone.data_folder().resolve() == another / "data"
    assert load_dataset("folder:mine").num_classes == 10


def test_elsewhere_it_is_the_clone_that_the_package_is_imported_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert clone.around() is None and clone.root() == ROOT
    assert clone.data_folder() == ROOT / "data"


def test_without_any_clone_it_is_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clone, "__file__", str(tmp_path / "a" / "b" / "c" / "clone.py"))
    assert clone.root() == tmp_path and str(clone.data_folder()) == "data"


def test_a_folder_of_ones_own_and_atom_data_come_first(another, tmp_path_factory, monkeypatch):
    here = tmp_path_factory.mktemp("here")
    (here / "data").mkdir()
    monkeypatch.chdir(here)
    assert clone.data_folder().resolve() == here / "data"
    monkeypatch.setenv("ATOM_DATA", str(another / "data"))
    assert clone.data_folder() == another / "data"


@pytest.mark.parametrize("started", [".", "notebooks/profiles"])
def test_papermill_finds_data_and_reports_wherever_it_starts(another, started, monkeypatch):
    cells = [
        v4.new_code_cell(
            "dataset: str = 'folder:mine'\noutput: str = '../reports/lab'",
            metadata={"tags": ["parameters"]},
        ),
        v4.new_code_cell(
            "from pathlib import Path\n"
            "from atomlib.datasets import load_dataset\n"
            "from atomlib.runs import check\n"
            "check(globals())\n"
            "Path(output).mkdir(parents=True)\n"
            "Path(output, 'classes').write_text(str(load_dataset(dataset).num_classes))"
        ),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    path = another / "notebooks" / "00_one.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    monkeypatch.chdir(another / started)
    pm.execute_notebook(path, another / "out.ipynb", progress_bar=False)
    assert (another / "reports" / "lab" / "classes").read_text() == "10"
