"""The runner of profiles, on a one-cell notebook in a folder of its own."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
import yaml
from filelock import Timeout
from nbformat import v4

from atomlib.cli import main
from atomlib.errors import SettingError
from atomlib.methods import METHODS
from atomlib.runs import profiles
from atomlib.runs.grid import candidates, cells, disagreements, own_disagreements
from atomlib.runs.profiles import PROFILES, read_profile, run_profile
from atomlib.runtime.files import lock_file
from atomlib.runtime.layout import Layout
from tests.test_environment import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with one notebook, which writes its parameter to a file, and two profiles."""
    monkeypatch.chdir(tmp_path)
    for name in ("ATOM_MADE_SINCE", "ATOM_PROGRESS"):  # run_profile sets them; put back afterwards
        monkeypatch.setenv(name, "0")
    parameters = v4.new_code_cell("number = 1\noutput = '.'", metadata={"tags": ["parameters"]})
    work = v4.new_code_cell(
        "import pathlib, sys\n"
        "print('progress', file=sys.stderr)\n"
        "pathlib.Path(output, 'number.txt').write_text(str(10 / number))\n"
        "print('done')"
    )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=[parameters, work], metadata={"kernelspec": kernel})
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    nbformat.write(notebook, tmp_path / "notebooks" / "00_one.ipynb")
    profile({"00_one": {"number": 4}})
    return tmp_path


def profile(content: dict) -> None:
    with open("notebooks/profiles/small.yaml", "w") as file:
        yaml.safe_dump(content, file)


def test_executed_notebook_and_results_land_in_the_reports_of_the_profile(project):
    assert str(run_profile("small")) == "reports/small"
    assert (project / "reports/small/number.txt").read_text() == "2.5"
    text = (project / "reports/small/notebooks/00_one.ipynb").read_text()
    executed = nbformat.reads(text, 4)
    assert executed.metadata.atomlib.parameters == {"number": 4, "output": "../reports/small"}
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    assert [out["text"] for out in outputs] == ["done\n"], "progress bars are not kept"
    assert str(project) not in text, "no path of this machine"
    assert not list((project / "build").rglob("*.ipynb"))


def test_an_output_that_is_asked_for_takes_the_executed_notebook_too(project):
    mine = project / "mine"
    assert run_profile("small", changes={"output": str(mine)}) == mine
    assert (mine / "number.txt").exists() and (mine / "notebooks/00_one.ipynb").exists()
    assert not (project / "reports").exists()


@pytest.mark.parametrize("given", [{}, {"sets": "x"}])
def test_a_notebook_that_shows_a_reports_sets_shows_those_of_the_output(project, given):
    path = project / "notebooks" / "00_one.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source += "\nsets = ''"
    nbformat.write(notebook, path)
    profile({"00_one": {"sets": "../reports/small/distilled"}})
    mine = project / "mine"
    run_profile("small", changes={"output": str(mine), **given})
    shown = nbformat.read(mine / "notebooks/00_one.ipynb", 4).metadata.atomlib.parameters.sets
    assert shown == (given.get("sets") or str(mine / "distilled"))


def test_the_command_says_where_it_is_and_where_results_went(project, monkeypatch, capfd):
    (project / "reports" / "small").mkdir(parents=True)
    (project / "reports" / "small" / "main_table.md").write_text("| the main table |")
    monkeypatch.setenv("ATOM_DATA", "data")  # main sets it; put back afterwards
    monkeypatch.chdir(project / "notebooks")  # as from anywhere in the clone
    assert main(["run", "--profile", "small"]) == 0
    said, progress = capfd.readouterr()
    assert "report: reports/small/" in said and "tables: main_table.md" in said
    assert "notebooks/: 1 files" in said and "make site" in said
    assert "| the main table |" in said
    # By the notebook "progress"; the kernel's own log is not shown.
    first, second, third = progress.splitlines()
    assert first == "[1/1] 00_one (small), 0 s so far" and second == "progress"
    assert third == "  in reports/small/: nothing new to look at"
    assert main(["run", "--profile", "smal"]) == 1
    assert "did you mean 'small'" in capfd.readouterr().err


def test_what_came_with_the_clone_is_made_again_and_what_was_made_here_is_not(project):
    store_then_read = (
        "import os, pathlib\n"
        "path = pathlib.Path(output, 'result')\n"
        "from atomlib.runs.store import counts\n"
        "print(counts(path))\n"
        "path.touch()"
    )
    path = project / "notebooks" / "00_one.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source = store_then_read
    nbformat.write(notebook, path)
    (project / "reports/small").mkdir(parents=True)
    (project / "reports/small/result").touch()
    os.utime(project / "reports/small/result", (1, 1))
    seen = []
    for _ in range(2):
        run_profile("small")
        executed = nbformat.read(project / "reports/small/notebooks/00_one.ipynb", 4)
        seen.append(executed.cells[-1].outputs[0]["text"])
    assert seen == ["False\n", "True\n"]


@pytest.fixture
def reading(project):
    """The notebook says whether it would read a result, and makes one."""
    path = project / "notebooks" / "00_one.ipynb"
    notebook = nbformat.read(path, 4)
    notebook.cells[1].source = (
        "from atomlib.runs.store import counts\n"
        "from atomlib.runtime.layout import Layout\n"
        "path = Layout(output).record('result')\n"
        "print(counts(path))\n"
        "path.parent.mkdir(parents=True, exist_ok=True)\n"
        "path.touch()"
    )
    nbformat.write(notebook, path)

    def read(folder="reports/small", **asked):
        run_profile("small", **asked)
        executed = nbformat.read(project / folder / "notebooks/00_one.ipynb", 4)
        return executed.cells[-1].outputs[0]["text"].strip() == "True"

    return read


def test_results_outlive_the_folder_of_what_failed_runs_left(project, reading, capfd):
    """`make clean` removes build/."""
    assert [reading(), reading()] == [False, True]
    shutil.rmtree(project / "build")
    assert reading()
    assert "made again" not in capfd.readouterr().err


def test_that_results_are_made_again_is_said_once(project, reading, capfd):
    path = Layout.of_profile("small").record("result")
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (1, 1))
    assert reading(reuse=True)
    assert "made again" not in capfd.readouterr().err
    os.utime(path, (1, 1))
    assert not reading()
    said = capfd.readouterr().err
    words = "reports/small/ holds results from before the first run here, which are made again"
    assert said.count(f"{words}; --reuse reads them\n") == 1
    assert reading() and "made again" not in capfd.readouterr().err


def test_an_output_of_ones_own_is_read_whoever_made_it(project, reading):
    path = Layout("mine").record("result")
    path.parent.mkdir(parents=True)
    path.touch()
    os.utime(path, (1, 1))
    assert reading("mine", changes={"output": str(project / "mine")})


def test_a_notebook_that_fails_leaves_the_report_before_it_whole(project):
    run_profile("small")
    before = (project / "reports/small/notebooks/00_one.ipynb").read_bytes()
    profile({"00_one": {"number": 0}})
    with pytest.raises(SettingError, match="00_one stopped: ZeroDivisionError"):
        run_profile("small")
    assert (project / "reports/small/notebooks/00_one.ipynb").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"00_one": {"numbre": 4}}, "parameter of 00_one in profile 'small' is 'numbre'.*'number'"),
        ({"00_on": {}}, "notebook of profile 'small' is '00_on'.*did you mean '00_one'"),
    ],
)
def test_a_profile_that_names_what_is_not_there_is_refused_before_any_work(
    project, content, complaint
):
    profile(content)
    with pytest.raises(SettingError, match=complaint):
        run_profile("small")
    assert not (project / "reports").exists()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("00_one: {number: 2024-01-01}", r"number of 00_one .* is datetime.date"),
        ("00_one: {number: !!set {1}}", r"number of 00_one .* is \{1\}"),
        ("00_one: [number]", r"00_one in profile .* is \['number'\]"),
        ("", "is None"),
        ("{}", "no notebooks"),
        ("environment: {WORKERS: 2}", "no notebooks"),
        ("- 00_one", r"is \['00_one'\]"),
        ("00_one:\n\tnumber: 1", "no YAML"),
        ("00_one: {number: 1, number: 2}", "given twice"),
        (b"00_one: {} # \xe9", "no YAML"),
    ],
)
def test_a_profile_that_is_none_is_refused_before_any_work(project, text, complaint):
    content = text if isinstance(text, bytes) else text.encode()
    (project / "notebooks/profiles/small.yaml").write_bytes(content)
    with pytest.raises(SettingError, match=complaint):
        run_profile("small")
    assert not (project / "reports").exists()


def test_a_profile_says_where_cells_run_unless_the_caller_does(project, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # run_profile sets it; put back afterwards
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("WORKERS", "3")
    path = project / "notebooks" / "00_one.ipynb"
    notebook = nbformat.read(path, 4)
    names = ("WORKERS", "OMP_NUM_THREADS")
    notebook.cells[1].source = f"import os\nprint(*map(os.environ.get, {names}))"
    nbformat.write(notebook, path)
    profile({"environment": {"OMP_NUM_THREADS": 1, "WORKERS": "auto"}, "00_one": {"number": 4}})
    assert read_profile("small") == {"00_one": {"number": 4}}
    run_profile("small")
    executed = nbformat.read(project / "reports/small/notebooks/00_one.ipynb", 4)
    assert executed.cells[-1].outputs[0]["text"] == "3 1\n"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"WORKER": 2}, "variable of the environment in profile 'small' is 'WORKER'.*'WORKERS'"),
        ({"PATH": "/"}, "is 'PATH'"),
        ({"WORKERS": "many"}, "WORKERS is 'many'; allowed: 1 or more, or auto"),
        ([], "environment in profile 'small' is"),
    ],
)
def test_an_environment_that_is_none_is_refused_before_any_work(
    project, monkeypatch, given, complaint
):
    monkeypatch.setenv("WORKERS", "1")
    monkeypatch.delenv("WORKERS")
    profile({"environment": given, "00_one": {"number": 4}})
    with pytest.raises(SettingError, match=complaint):
        run_profile("small")
    assert not (project / "reports").exists()


def test_a_folder_in_place_of_a_profile_is_told(project):
    (project / "notebooks/profiles/other.yaml").mkdir()
    with pytest.raises(SettingError, match="Is a directory"):
        read_profile("other")


def test_a_profile_begins_with_a_mark_of_its_encoding_or_not(project):
    path = project / "notebooks/profiles/small.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_profile("small") == {"00_one": {"number": 4}}


def test_one_run_at_a_time_is_at_a_notebook(project, monkeypatch):
    """Else two write one file, and the first to end takes it away from the other."""

    def execute(_, running, *__, **___):
        with pytest.raises(Timeout):
            lock_file(running).acquire(blocking=False)
        raise SettingError("enough")

    monkeypatch.setattr(profiles.pm, "execute_notebook", execute)
    with pytest.raises(SettingError, match="enough"):
        run_profile("small")


def test_unknown_profile_and_notebook_name_the_nearest(project):
    with pytest.raises(SettingError, match=r"profile is 'smal' .did you mean 'small'"):
        read_profile("smal")
    with pytest.raises(SettingError, match=r"notebook is '01_one' .did you mean '00_one'"):
        run_profile("small", ["01_one"])


def test_the_notebooks_keep_their_promises():
    """First code cell tagged, saved by a Python 3 kernel, no path of a machine."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
        assert first["metadata"].get("tags") == ["parameters"], path.name
        assert notebook["metadata"]["kernelspec"]["name"] == "python3", path.name
        for place in (Path.home(), tempfile.gettempdir(), ROOT.parent):
            assert f"{place}/" not in path.read_text(), path.name


@pytest.mark.parametrize("path", sorted((ROOT / PROFILES).glob("*.yaml")), ids=lambda p: p.stem)
def test_the_profiles_of_the_package_fit_its_notebooks(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert read_profile(path.stem)


@pytest.mark.parametrize("path", sorted((ROOT / PROFILES).glob("*.yaml")), ids=lambda p: p.stem)
def test_the_cells_that_a_profile_of_the_package_asks_for_can_be_made(path, monkeypatch):
    """Their settings and variants are allowed ones: on digits, at IPC 1, where there is no data."""
    monkeypatch.chdir(ROOT)
    profile = read_profile(path.stem)
    table, changes = profile.get("01_main_table", {}), profile.get("08_disagreements", {})

    def made(methods, given, **more):
        shared = {key: given.get(key) for key in ("settings", "method_settings", "evaluation")}
        return cells(["digits"], methods, [1], **shared, **more)

    recipes = table.get("recipes", ["text"])
    assert made(table.get("methods", ["atom"]), table, recipes=recipes)
    base, names = changes.get("base", "recipe"), changes.get("settings_changed", ["norm"])
    for recipe in changes.get("recipes", ["text"]):
        found = made(
            ["atom"], changes, recipes=[recipe], variants=disagreements(recipe, names, base)
        )
        # By the text, digits are not whitened.
        none = {"zca"} if recipe == "text" else set()
        assert [cell.variant for cell in found] == [base, *(n for n in names if n not in none)]
    tried = profile.get("12_settings", {})
    variants = candidates(tried.get("tried", []))
    found = made(["atom"], tried, recipes=[tried.get("recipe", "text")], variants=variants)
    assert [cell.variant for cell in found] == [*variants]
    for method in changes.get("others", []):
        found = made([method], changes, variants=own_disagreements(method, base))
        assert len(found) == 1 + len({*METHODS[method].disagreements} - {"zca"})
