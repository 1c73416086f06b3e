"""Provenance of a result: the settings, data, code and libraries that decide it.

Two results of the same identity are the same result, up to rounding on other hardware. A result
of another identity is stale, and ``differences`` says why.
"""

import ast
import hashlib
import io
import tokenize
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from atomlib.config import BY_FEATURES
from atomlib.runtime.provenance import versions

LIBRARIES = ("torch", "torchvision", "kornia")
"""Whose versions decide a result; a build of a version, such as +cu126, does not."""

_NETWORKS = ("augmentation", "models/build", "models/convnet", "preprocess", "randomness")
_TRAINING = (*_NETWORKS, "models/architectures", "models/ensemble", "training")

MODULES = {
    "distill": (*_NETWORKS, "attention", "distill", "losses"),
    "coreset": (*_TRAINING, "coresets", "distill", "full_data"),
    "evaluate": _TRAINING,
    "whole": (*_TRAINING, "full_data"),
    "nas": (*_TRAINING, "nas/together", "nas/search", "nas/space"),
}
"""Modules of atomlib that decide a result, by what is made. All others read, write, check,
draw or say how arithmetic runs; tests/test_identity.py holds the list to the imports."""


@cache
def code(kind: str) -> dict[str, str]:
    """The code that makes results of a kind of MODULES: a digest of each module's statements.

    Comments, docstrings and blank lines do not count.
    """
    folder, found = Path(__file__).parent, {}
    for name in sorted(MODULES[kind]):
        text = statements((folder / f"{name}.py").read_text())
        found[name] = hashlib.sha256(text.encode()).hexdigest()[:12]
    return found


def statements(source: str) -> str:
    """A module's text without comments, docstrings and blank lines.

    The text, and not what a parser makes of it, which differs between versions of Python.
    """
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            for row in range(node.lineno - 1, node.end_lineno):
                lines[row] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())


def libraries(all_versions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions that decide a result, of ``provenance.versions`` of now or of another time."""
    found = versions() if all_versions is None else all_versions
    return {name: found.get(name, "").partition("+")[0] for name in LIBRARIES}


def digest(kind: str) -> str:
    """Code and libraries in short."""
    return hashlib.sha256(f"{code(kind)} {libraries()}".encode()).hexdigest()[:12]


def differences(
    kind: str, code_then: Mapping[str, str], versions_then: Mapping[str, str]
) -> list[str]:
    """Why a result of this kind is stale, in words: what decided it and is not so now."""
    then, now = libraries(versions_then), libraries()
    return changed_code(kind, code_then) + [
        f"{name} was {then[name] or 'absent'}, is {now[name]}"
        for name in LIBRARIES
        if then[name] != now[name]
    ]


def changed_code(kind: str, then: Mapping[str, str]) -> list[str]:
    """Which modules have changed since ``code`` gave ``then``, in words."""
    if not then:
        return ["the code that made it is not on record"]
    now = code(kind)
    return [
        f"{name}.py has changed"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]


def kind_of(method: str) -> str:
    """The kind of code that makes a method's set."""
    return "coreset" if method in BY_FEATURES else "distill"
