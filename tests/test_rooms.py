"""Modules import each other in one direction, and so do packages, each taken as one room."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.test_environment import ROOT

PACKAGE = ROOT / "atomlib"


def modules():
    """Each module's file, by its dotted name within the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]  # the package's own, which exports nothing
    return found


def imports(path, known):
    """Modules that a module imports at its top."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            own = name.removeprefix("atomlib.")
            if own != name:
                found.add(own if own in known else own.rpartition(".")[0])
    assert found <= {*known}, f"{path} imports {found - {*known}}, which are not there"
    return found


def graph():
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}


def rooms():
    found = {}
    for name, others in graph().items():
        own = name.partition(".")[0]
        found.setdefault(own, set()).update(other.partition(".")[0] for other in others)
        found[own].discard(own)
    return found


@pytest.mark.parametrize("of", [graph, rooms])
def test_no_circle_of_imports(of):
    try:
        TopologicalSorter(of()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_the_graph_is_that_of_the_package():
    assert "runs.store" in graph()["runs.sweep"] and "methods" in rooms()["distill"]
    assert {"methods", "runs", "nas", "report", "runtime", "distill"} <= {*rooms()}


def test_a_circle_is_seen():
    for circled in (graph() | {"runtime.files": {"runs.store"}}, rooms() | {"settings": {"runs"}}):
        with pytest.raises(CycleError):
            TopologicalSorter(circled).prepare()


def test_reports_know_nothing_of_runs():
    """Which read findings; what both need lies below."""
    assert "runs" not in rooms()["report"] and "nas" not in rooms()["runs"]
