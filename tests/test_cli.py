"""The command line: each command is found, bad input is one line, parameters are options."""

import pytest

from atomlib import cli
from atomlib.errors import SettingError
from atomlib.runs import profiles


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
    ("words", "said"),
    [
        (["00_quickstart", "--ipc"], "argument is '--ipc'"),
        (["--profile", "quick", "stray"], None),  # taken for a notebook
        (["00_quickstart", "--ipc", "[1"], "parameter ipc is no YAML"),
    ],
)
def test_options_that_are_none_are_told(words, said, asked, capsys):
    assert cli.main(["run", *words]) == 1
    if said:
        assert said in capsys.readouterr().err and not asked
