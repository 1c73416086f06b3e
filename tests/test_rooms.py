"""The packages import each other in one direction: no circle, a package taken as one room."""

import ast
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.test_environment import ROOT

PACKAGE = ROOT / "atomlib"


def room(parts):
    """The package of a module, or the module itself where it stands alone."""
    return parts[0]


def imports(path, package):
    """Rooms that a module imports at its top, its own left out."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {room(n.split(".")[1:]) for n in names if n.startswith("atomlib.")}
    return found - {package}


def graph():
    rooms = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent == PACKAGE and path.stem == "__init__":
            continue
        own = room(path.relative_to(PACKAGE).with_suffix("").parts)
        rooms.setdefault(own, set()).update(imports(path, own))
    return rooms


@pytest.mark.xfail(strict=True, reason="runs.status and nas.search import each other")
def test_no_circle_of_imports():
    rooms = graph()
    assert {"methods", "runs", "distill"} <= set(rooms) and "methods" in rooms["distill"]
    try:
        TopologicalSorter(rooms).prepare()
    except CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(error.args[1])}")


def test_a_circle_is_seen():
    with pytest.raises(CycleError):
        TopologicalSorter(graph() | {"settings": {"runs"}}).prepare()
