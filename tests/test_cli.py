"""The command line: each command is found, bad input is one line, parameters are options."""

import os
import subprocess
import sys

import pytest

from atomlib import cli
from atomlib.errors import SettingError
from atomlib.runs import profiles
from atomlib.runtime import clone


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_says_its_arguments(command, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"atomlib {command}" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["statsu", "x"], ["status", "x", "--since", "1"]])
def test_a_word_that_is_none_of_ours_is_a_usage_error(words, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_without_a_command_all_are_listed(capsys):
    assert cli.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"  {command:10}" in said for command in cli.COMMANDS)


def test_bad_input_is_one_line_and_status_one(capsys):
    assert cli.main(["status", "nowhere"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: folder nowhere") and said.count("\n") == 1


@pytest.fixture
def asked(monkeypatch):
    """What run_profile was asked for."""
    found = {}

    def run_profile(name, only, changes, *, reuse):
        found.update(name=name, only=only, changes=changes, reuse=reuse)
        raise SettingError("enough")

    monkeypatch.setattr(profiles, "run_profile", run_profile)
    monkeypatch.setenv("ATOM_DATA", "data")  # run sets it; put back afterwards
    return found


def test_parameters_of_a_notebook_are_options(asked):
    words = [
        "00_quickstart",
        "--ipc",
        "2",
        "--settings={iterations: 10}",
        "--method-settings",
        "{}",
    ]
    cli.main(["run", *words])
    changes = {"ipc": 2, "settings": {"iterations": 10}, "method_settings": {}}
    assert asked == {
        "name": "lab", "only": ["00_quickstart"], "changes": changes, "reuse": False
    }  # fmt: skip


def test_without_a_notebook_all_of_quick_are_run(asked):
    cli.main(["run", "--reuse"])
    assert asked == {"name": "quick", "only": None, "changes": {}, "reuse": True}


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["--recipe", "2024_01"], {"recipe": "2024_01"}),
        (["--recipe", "50% & #1 #2"], {"recipe": "50% & #1 #2"}),
        (["--method=no"], {"method": "no"}),
        (["--method=[1"], {"method": "[1"}),
        (["--recipe=", "--ipc", "2"], {"recipe": "", "ipc": 2}),
        (["--resize", "null", "--seed", "0x10"], {"resize": None, "seed": 16}),
    ],
)
def test_text_stays_text_and_all_else_is_yaml(words, changes, asked):
    cli.main(["run", "10_your_data", *words])
    assert asked["changes"] == changes


def test_optional_text_is_null_or_text():
    assert profiles._value("null", {"Optional[str]"}) is None
    assert profiles._value("2024_01", {"Optional[str]"}) == "2024_01"
    assert profiles._value("[1]", {"str", "list[int]"}) == [1], "of two notebooks, two kinds"


def test_paths_are_meant_from_where_one_stands(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", "cache")
    monkeypatch.setenv("ATOM_SETS", "~/sets")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "pets").mkdir()
    monkeypatch.chdir(tmp_path)
    cli.main(["run", "10_your_data", "--folder", "50% & #1 #2", "--output=~/mine"])
    folder, output = str(tmp_path / "50% & #1 #2"), str(tmp_path / "home" / "mine")
    assert asked["changes"] == {"folder": folder, "output": output}
    assert os.environ["ATOM_CACHE"] == str(tmp_path / "cache")
    assert os.environ["ATOM_SETS"] == "~/sets"
    monkeypatch.chdir(tmp_path)
    cli.main(["run", "10_your_data", "--folder="])
    assert asked["changes"] == {"folder": ""}, "which stands for the example"
    monkeypatch.chdir(tmp_path)
    cli.main(["run", "01_main_table", "--datasets", "[folder:pets, digits, folder:elsewhere]"])
    datasets = [f"folder:{tmp_path}/pets", "digits", "folder:elsewhere"]
    assert asked["changes"] == {"datasets": datasets}


@pytest.mark.parametrize("value", ["~nobody-of-this-name/x", "a" * 300])
def test_a_path_that_is_none_is_told_before_any_work(value, asked, capsys):
    assert cli.main(["run", "10_your_data", "--output", value]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: output is ") and "allowed: the path of a file or folder" in said
    assert not asked


@pytest.mark.parametrize("words", [[], ["00_quickstart"], ["--profile=quick", "--ipc=2"]])
def test_without_a_clone_it_is_said_that_there_is_none(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ATOM_DATA", "data")  # run sets it; put back afterwards
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clone, "__file__", str(tmp_path / "a" / "b" / "c" / "clone.py"))
    assert cli.main(["run", *words]) == 1
    said = capsys.readouterr().err
    assert "is in no clone of the repository" in said and "allowed: the folder of a clone" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["00_quickstart", "--ipc"], "argument is '--ipc'"),
        (["--profile", "quick", "stray"], None),  # taken for a notebook
        (["00_quickstart", "--ipc", "[1"], "parameter ipc is '[1', which is no YAML"),
        (["00_quickstart", "--ipc", "2024-13-45"], "is '2024-13-45', which is no YAML"),
        (["00_quickstart", "--ipc", "[" * 1500], "[[[', which is no YAML"),
        (["00_quickstart", "--ipc", "2024-01-01"], "parameter ipc is datetime.date(2024, 1, 1)"),
        (["00_quickstart", "--ipc", "!!set {1}"], "parameter ipc is {1}"),
        (["00_quickstart", "--ipc", "!!binary aGk="], "parameter ipc is b'hi'"),
        (["00_quickstart", "--ipc", '"\\ud800"'], "allowed: numbers, text"),
        (["00_quickstart", "--ipc", "&a [*a]"], "allowed: numbers, text"),
    ],
)
def test_options_that_are_none_are_told(words, said, asked, capsys):
    assert cli.main(["run", *words]) == 1
    if said:
        assert said in capsys.readouterr().err and not asked


@pytest.mark.parametrize(
    "words", [["--settings={iterations: 10}"], ["--ipc=2", "--settings={a: 1}"]]
)
def test_an_option_with_a_space_in_its_value_is_no_notebook(words, asked):
    cli.main(["run", "00_quickstart", *words])
    assert asked["only"] == ["00_quickstart"] and "settings" in asked["changes"]


def test_an_empty_profile_is_none(capsys):
    """As PROFILE= in a script gives it: not quick, and not the notebooks' own parameters."""
    assert cli.main(["run", "00_quickstart", "--profile", ""]) == 1
    assert "profile is ''" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped by the keyboard"),
        (OSError(28, "No space left on device", "sets/x"), 1, "sets/x: No space left on device"),
        (FileNotFoundError(2, "No usable temporary directory"), 1, "No usable temporary"),
        (SettingError("one\ntwo"), 1, "error: one two"),
    ],
)
def test_what_stops_a_command_is_one_line(error, status, said, monkeypatch, capsys):
    def stop(_):
        raise error

    monkeypatch.setattr("atomlib.runs.status.run", stop)
    assert cli.main(["status", "x"]) == status
    told = capsys.readouterr().err
    assert told.startswith("error: ") and said in told and told.count("\n") == 1


@pytest.mark.parametrize("stdout", ["closed pipe", "closed", "ascii"])
def test_whatever_is_done_with_the_output(tmp_path, stdout):
    """By ``| head``, by ``>&-`` and in a terminal that has no letters for a name."""
    (tmp_path / "é").mkdir()
    command = [sys.executable, "-m", "atomlib", "status", str(tmp_path / "é")]
    reader, writer = os.pipe()
    os.close(reader)
    settings = {**os.environ, "PYTHONIOENCODING": "ascii"} if stdout == "ascii" else None
    close = (lambda: os.close(1)) if stdout == "closed" else None
    done = subprocess.run(
        command,
        stdout=writer if stdout == "closed pipe" else subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=settings,
        preexec_fn=close,
        text=True,
    )
    os.close(writer)
    assert done.stderr == "" and done.returncode == (stdout == "closed pipe")
    assert stdout != "ascii" or "\\xe9: nothing yet" in done.stdout
