"""Where a report's files lie is said in one module, and names are read back as they were given."""

import ast
from pathlib import Path

import pytest

from atomlib.runtime.layout import Layout, judged_name, record_name, set_of
from tests.test_environment import ROOT

PACKAGE = ROOT / "atomlib"
OWNER = PACKAGE / "runtime" / "layout.py"
PLACES = ("distilled", "results", "figures", "unfinished", "judged", "nas.jsonl", "started")


def joined(path):
    """Strings of a module that are joined to a path: by /, in an f-string, or as a pattern."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            parts = [node.left, node.right]
        elif isinstance(node, ast.JoinedStr):
            parts = node.values
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("glob", "joinpath"):
            parts = node.args
        else:
            continue
        yield from (p.value for p in parts if isinstance(p, ast.Constant) and type(p.value) is str)


def names_a_place(text):
    words = text.split(" ")[0].strip("/").split("/")
    return len(text.split(" ")) == 1 and any(place in words for place in PLACES)


def test_only_the_layout_joins_the_names_of_its_places_to_a_path():
    found = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in PACKAGE.rglob("*.py")
        for text in joined(path)
        if path != OWNER and names_a_place(text)
    }
    assert not found


def test_such_a_join_is_seen(tmp_path):
    path = tmp_path / "module.py"
    for line in ('folder / "results" / name', 'f"{root}/nas.jsonl"', 'folder.glob("distilled/*")'):
        path.write_text(line)
        assert any(names_a_place(text) for text in joined(path)), line
    assert all(names_a_place(text) for text in PLACES)
    owner = {word for text in joined(OWNER) for word in text.split("/")}
    assert {*PLACES} <= owner


@pytest.mark.parametrize("dataset", ["digits", "cats-on-mats"])
@pytest.mark.parametrize("model", ["convnet", "vit", "resnet18"])
def test_a_records_set_is_the_one_it_was_named_after(dataset, model):
    stem = f"{dataset}-atom-ipc1-seed0"
    assert set_of(record_name(stem, model), model) == stem


def test_a_report_is_found_from_its_files():
    layout = Layout("reports/quick")
    assert Layout.of_record(layout.record("digits-whole")).folder == layout.folder
    assert Layout.of_candidates(layout.candidates).folder == layout.folder
    assert layout.within(layout.figure("main", "svg")) == "figures/main.svg"
    assert layout.started == Path("reports/quick/unfinished/started")
    assert Layout.of_profile("quick").folder == layout.folder


def test_what_runs_leave_in_build_is_the_same_from_every_folder(tmp_path, monkeypatch):
    """And of two reports of one name outside the clone, each has its own."""
    here = Layout(tmp_path / "a" / "out").build.absolute()
    assert here != Layout(tmp_path / "b" / "out").build.absolute()
    assert here.name.startswith("out-") and here.is_relative_to(ROOT)
    quick = Layout(ROOT / "reports" / "quick").build.absolute()
    assert quick == ROOT / "build/quick"
    (tmp_path / "a" / "out").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    assert Layout("out").build == Layout(tmp_path / "a" / "out").build == here
    assert Layout(ROOT / "reports" / "quick").build == quick


def test_a_clone_brings_results_of_its_profiles_and_of_nothing_else(tmp_path, monkeypatch):
    quick = ROOT / "reports" / "quick"
    for folder in (quick, quick / "your_data", ROOT / "notebooks" / ".." / "reports" / "quick"):
        assert Layout(folder).of_clone.folder == quick
    for folder in (ROOT / "reports", ROOT / "reports" / "lab", tmp_path / "reports" / "quick"):
        assert Layout(folder).of_clone is None
    monkeypatch.chdir(ROOT / "notebooks")
    assert Layout("../reports/quick").of_clone.folder == quick
    assert Layout("../reports/lab").of_clone is None


def test_tables_and_pictures_of_a_part_are_shown_with_the_reports(tmp_path):
    layout, part = Layout(tmp_path), Layout(tmp_path / "your_data")
    for path in (part.table("main_table", "md"), part.figure("loss", "png"), part.distilled("x")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert [each.folder for each in layout.parts()] == [part.folder]
    assert [*map(layout.within, layout.shown())] == [
        "your_data/main_table.md", "your_data/figures/loss.png"
    ]  # fmt: skip
    assert layout.results() == [part.distilled("x")]


def test_reports_without_an_executed_notebook_or_a_table_are_none(tmp_path):
    assert Layout.all_within(tmp_path) == []
    for name in ("c", "b", "a", "empty"):
        Layout(tmp_path / name).notebook("x").parent.mkdir(parents=True)
    for name in ("b", "a"):
        Layout(tmp_path / name).notebook("x").touch()
    Layout(tmp_path / "c").table("main_table", "csv").touch()
    assert Layout.all_within(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("one", "other"), [("合成", "蒸馏"), ("é.pt", "è.pt"), ("?", "."), ("", "-")]
)
def test_names_that_files_are_not_given_are_not_one(one, other):
    names = {judged_name(one), judged_name(other)}
    assert len(names) == 2 and all(name[0].isalnum() for name in names)


def test_a_plain_name_is_a_files_name():
    assert judged_name("MTT CIFAR10 (1)") == "mtt-cifar10-1"
