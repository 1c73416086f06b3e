"""A notebook's parameters: checked by its first call, before it defines anything else."""

import ast
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Union, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from atomlib.errors import SettingError, did_you_mean, shown
from atomlib.runtime.clone import around

PLAIN = (bool, int, float, str, list, tuple, dict, type(None))
"""What a parameter may be; modules, functions and IPython's own objects are none."""

_first_call = True


def check(names: Mapping[str, Any]) -> None:
    """Raise SettingError unless a notebook's ``names`` are its parameters, of their types.

    To be called as ``check(globals())`` before the notebook defines anything but its parameters,
    each annotated with its type: ``ipcs: list[int] = [1]``. Any other plain value is then one that
    papermill was given, or a reader wrote, under a wrong name. A later call in the same kernel,
    when a cell is run again, checks types only.

    A kernel that was started elsewhere in the clone moves to notebooks/, as a notebook's paths are
    meant from there.
    """
    global _first_call
    before = _of_startup()
    if _in_notebook() and (clone := around()):
        os.chdir(clone / "notebooks")
    types = _types(names)
    allowed = ", ".join(f"{name} ({_type_name(kind)})" for name, kind in types.items())
    if _first_call:
        for name, value in names.items():
            if name in types or name.startswith("_") or name in ("In", "Out"):
                continue
            if name in before and before[name] is value:
                continue
            if isinstance(value, PLAIN):
                raise SettingError(
                    f"parameter {name!r} is not known{did_you_mean(name, types)}; "
                    f"allowed: {allowed}"
                )
        _first_call = False
    for name, kind in types.items():
        if name not in names:
            raise SettingError(f"parameter {name!r} is missing; allowed: {allowed}")
        try:
            TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(names[name])
        except ValidationError:
            raise SettingError(
                f"parameter {name} is {shown(names[name])}, which is not {_type_name(kind)}; "
                f"allowed: {allowed}"
            ) from None


def _types(names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotated names: of a notebook as its cells' sources have them, since from Python 3.14
    on a module computes its annotations when asked, and IPython runs each statement as a module."""
    types = dict(names.get("__annotations__", {}))
    for source in names.get("In", ()):
        with suppress(SyntaxError, NameError):  # a cell that did not run
            for line in ast.parse(source).body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    types[line.target.id] = eval(ast.unparse(line.annotation), dict(names))
    return types


def _of_startup() -> Mapping[str, Any]:
    """What the user's own Jupyter has defined before the notebook: start-up files, pylab."""
    return getattr(_shell(), "user_ns_hidden", {})


def _in_notebook() -> bool:
    return hasattr(_shell(), "kernel")


def _shell() -> Any:
    """IPython's, where this runs in one."""
    return sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()


def _type_name(kind: Any) -> str:
    """``int``, ``list[int]``, ``dict | None``: as a reader writes it."""
    if get_origin(kind) is Union:
        return " | ".join(
            "None" if part is type(None) else _type_name(part) for part in get_args(kind)
        )
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
