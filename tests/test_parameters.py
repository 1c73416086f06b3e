"""A notebook's first cell: wrong names and types are told before any work."""

import json

import nbformat
import papermill as pm
import pytest
from nbformat import v4

from atomlib.runs import parameters
from atomlib.runs.parameters import check
from tests.test_environment import ROOT

TYPES = {"ipcs": list[int], "seed": int, "settings": dict[str, object], "whole": dict | None}
GOOD = {"ipcs": [1, 10], "seed": 0, "settings": {"width": 16}, "whole": None}
ANNOTATED = {"__annotations__": TYPES}


@pytest.fixture(autouse=True)
def new_kernel(monkeypatch):
    monkeypatch.setattr(parameters, "_first_call", True)


def test_known_names_of_the_right_types_pass():
    ipython = {"In": ["", "x = 1"], "Out": {}, "_": "x", "_i1": "x", "json": json, "check": check}
    check(GOOD | ipython | ANNOTATED)


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        (
            {"ipc": [1]},
            ("'ipc' is not known", "did you mean 'ipcs'", "ipcs (list[int]), seed (int)"),
        ),
        ({"ipcs": 1}, ("ipcs is 1, which is not list[int]", "seed (int)")),
        ({"ipcs": ["1"]}, ("ipcs is ['1'], which is not list[int]",)),
        ({"ipcs": [1.5]}, ("which is not list[int]",)),
        ({"seed": True}, ("seed is True, which is not int",)),
        ({"seed": "0"}, ("seed is '0', which is not int",)),
        ({"settings": []}, ("settings is [], which is not dict[str, object]",)),
        ({"whole": 5}, ("whole is 5, which is not dict | None",)),
    ],
)
def test_a_wrong_name_or_type_is_one_sentence_with_the_valid_ones(given, parts, complains):
    with complains(*parts):
        check(GOOD | given | ANNOTATED)


def test_a_missing_parameter_is_told(complains):
    with complains("parameter 'seed' is missing"):
        check({name: GOOD[name] for name in GOOD if name != "seed"} | ANNOTATED)


def test_a_cell_run_again_checks_types_alone(complains):
    check(GOOD | ANNOTATED)
    check(GOOD | {"records": [], "note": "made since"} | ANNOTATED)
    with complains("seed is 'x'"):
        check(GOOD | {"seed": "x"} | ANNOTATED)


@pytest.mark.parametrize("notebook", sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb")))
def test_every_notebook_checks_its_parameters_which_papermill_knows(notebook):
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    code = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    names: dict = {}
    exec(code[0].source, names)
    names["In"] = ["", code[0].source]
    names.pop("__annotations__", None)  # which Python 3.14 does not make
    assert "check(globals())\n" in code[1].source
    values = {k for k, value in names.items() if isinstance(value, parameters.PLAIN)}
    assert set(pm.inspect_notebook(path)) == values - {"__builtins__", "In"}
    check(names)


def test_types_are_those_of_the_cells_sources(complains):
    names = {
        "In": ["", "n: int = 1\nratio: float = 0.5", "not python", "y: Unknown = 1", "x = 2\nx"],
        "n": 1,
    }
    with complains("parameter 'ratio' is missing", "n (int), ratio (float)"):
        check(names)
    with complains("ratio is 'a', which is not float"):
        check(names | {"ratio": "a"})


def test_papermill_with_a_wrong_name_fails_in_the_first_cell(tmp_path):
    cells = [
        v4.new_code_cell("ipcs: list[int] = [1]", metadata={"tags": ["parameters"]}),
        v4.new_code_cell("from atomlib.runs import check\ncheck(globals())"),
        v4.new_code_cell("print('work')"),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(
        v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), tmp_path / "a.ipynb"
    )
    with pytest.raises(pm.PapermillExecutionError, match="'ipc' is not known"):
        pm.execute_notebook(
            tmp_path / "a.ipynb", tmp_path / "b.ipynb", {"ipc": [5]}, progress_bar=False
        )
    run = nbformat.read(tmp_path / "b.ipynb", 4)
    assert not run.cells[-1].outputs
