"""Progress: lines where it goes to a file, a bar in a notebook, nothing where none is wanted."""

import pytest

from atomlib.runtime import progress
from atomlib.runtime.progress import Bar, as_lines


@pytest.fixture(autouse=True)
def nobody_told(monkeypatch):
    monkeypatch.delenv("ATOM_PROGRESS", raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)


def step(**about):
    with Bar(total=1200, unit="it", desc="atom digits", **about) as bar:
        for _ in range(1200):
            bar.update()
            bar.set_postfix(loss="3", refresh=False)


def test_a_file_gets_one_line_at_the_end(capsys):
    step()
    assert capsys.readouterr().err == "atom digits: 1,200 of 1,200 it in 00:00, loss=3\n"


def test_a_run_of_hours_says_where_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    step()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1200 and lines[99].startswith("atom digits: 100 of 1,200 it")


def test_each_step_has_a_line_where_that_is_asked_for(capsys):
    with Bar(total=2, desc="cells", unit="cell", each=True) as bar:
        bar.update()
        bar.update()
    assert [line[:14] for line in capsys.readouterr().err.splitlines()] == [
        "cells: 1 of 2 ",
        "cells: 2 of 2 ",
    ]


def test_what_was_done_before_has_no_line(capsys):
    with Bar(total=5, initial=5):
        pass
    assert not capsys.readouterr().err


def test_operations_are_shortened_as_in_a_bar(capsys):
    with Bar(total=2_000_000, desc="nas", unit="FLOP", unit_scale=True) as bar:
        bar.update(2_000_000)
    assert capsys.readouterr().err.startswith("nas: 2.00M of 2.00M FLOP in ")


@pytest.mark.parametrize("about", [{"shown": False}, {"disable": True}])
def test_nothing_is_shown_where_none_is_wanted(about, capsys):
    step(**about)
    assert not capsys.readouterr().err


def test_a_notebook_has_a_bar_unless_it_is_told(monkeypatch):
    class OutStream:
        __module__ = "ipykernel.iostream"

        def isatty(self):
            return False

    monkeypatch.setattr("sys.stderr", OutStream())
    assert not as_lines()
    monkeypatch.setenv("ATOM_PROGRESS", "lines")
    assert as_lines()


def test_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert not as_lines()
    with Bar(total=2) as bar:
        bar.update(2)
    assert "100%|" in capsys.readouterr().err
