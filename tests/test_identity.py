"""What decides a result is found out: code and libraries, and nothing that decides nothing."""

import ast
import re
from pathlib import Path

import pytest

import atomlib
from atomlib import identity
from atomlib.identity import MODULES, code, differences, digest, libraries, statements

FOLDER = Path(atomlib.__file__).parent

DECIDES_NOTHING = {
    "archives", "artifact", "config", "datasets", "distilled", "errors", "execution", "files",
    "identity", "imagefolder", "provenance", "resume",
}  # fmt: skip
"""Imported by code that decides, yet no part of it: settings and data enter a result's key
themselves, and the rest reads, writes, checks or says how arithmetic runs."""

KINDS = {
    "distill": ("distill", {"coresets", "architectures"}),  # for coresets, for evaluation
    "coreset": ("distill", {"losses", "attention"}),  # for methods that learn
    "evaluate": ("evaluate", set()),
    "whole": ("whole", set()),
    "nas": (
        "nas",
        {"cluster", "engine", "packing", "store", "workers"},
    ),  # where results rest, who does the work and in what company
}
"""The module that makes each kind of result, and what it imports for other ends."""


def imports(module):
    """Modules of atomlib that a module imports, wherever in it."""
    for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "atomlib":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("atomlib."):
            yield node.module.split(".")[1]


def reached(module, stop):
    """A module and all that it imports, and they do, but for ``stop`` and what lies behind."""
    found, waiting = set(), {module}
    while waiting:
        found |= waiting
        waiting = {name for one in waiting for name in imports(one)} - found - stop
    return found


@pytest.mark.parametrize("kind", MODULES)
def test_the_list_is_what_the_code_imports(kind):
    module, others = KINDS[kind]
    assert set(MODULES[kind]) == reached(module, DECIDES_NOTHING | others)


SOURCE = '''"""What it is."""

import math  # needed

LIMIT = 3
"""How many."""


def area(r):
    """Of a circle."""

    # Archimedes
    return math.pi * r**2  # with a # in a comment


TEXT = "# no comment"
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("What it is", "What it was"),
        ("How many.", "How many at the most."),
        ("# Archimedes", "# Euclid\n    # and others"),
        ("\n\n\n", "\n"),
        ('    """Of a circle."""\n', ""),
        ("  # needed", ""),
    ],
)
def test_words_about_code_are_no_code(old, new):
    assert old in SOURCE
    assert statements(SOURCE.replace(old, new)) == statements(SOURCE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("r**2", "r**3"),
        ("# no comment", "# no"),
        ("area(r)", "area(r=1)"),
    ],
)
def test_any_statement_is(old, new):
    assert old in SOURCE
    assert statements(SOURCE.replace(old, new)) != statements(SOURCE)


def test_what_is_left_is_the_same_program():
    """Of every module: parsed, it is the source without its docstrings."""

    def program(source):
        tree = ast.parse(source)
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                bare = [
                    one
                    for one in body
                    if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
                ]
                node.body = bare or [ast.Pass()]
        return ast.dump(tree)

    for name in {name for names in MODULES.values() for name in names}:
        source = (FOLDER / f"{name}.py").read_text()
        left = statements(source)
        assert len(left) < len(source)
        # A class that was a docstring alone has nothing left.
        left = re.sub(r"(?m)^(class .*:)\n(?=\S)", r"\1\n    pass\n", left)
        assert program(left) == program(source)


def test_a_build_of_a_library_is_no_other_version(monkeypatch):
    now = {"torch": "2.11.0+cu126", "torchvision": "0.26.0", "kornia": "0.9.0", "numpy": "2"}
    assert libraries(now) == {"torch": "2.11.0", "torchvision": "0.26.0", "kornia": "0.9.0"}
    monkeypatch.setattr(identity, "versions", lambda: now)
    assert differences("distill", code("distill"), {**now, "torch": "2.11.0", "numpy": "1"}) == []
    assert differences("distill", code("distill"), {**now, "torch": "2.10.0"}) == [
        "torch was 2.10.0, is 2.11.0"
    ]


def test_what_changed_is_named():
    then = {**code("distill"), "losses": "0", "gone": "1"}
    assert differences("distill", then, identity.versions()) == [
        "gone.py has changed",
        "losses.py has changed",
    ]
    assert differences("distill", {}, identity.versions()) == [
        "the code that made it is not on record"
    ]


def test_the_digest_goes_by_code_and_libraries(monkeypatch):
    digests = {kind: digest(kind) for kind in MODULES}
    assert len(set(digests.values())) == len(MODULES)
    plain = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: {**plain, "kornia": "0.0"})
    assert all(digest(kind) != digests[kind] for kind in MODULES)
