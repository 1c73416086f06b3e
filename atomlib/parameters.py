"""Checking a notebook's parameters in its first cell, before any work."""

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from atomlib.errors import SettingError, did_you_mean, shown

PLAIN = (bool, int, float, str, list, tuple, dict, type(None))
"""What a parameter may be; modules, functions and IPython's own objects are none."""

_first_call = True


def check(names: Mapping[str, Any], **types: Any) -> None:
    """Raise SettingError unless a notebook's ``names`` hold just parameters of these types.

    To be called as ``check(globals(), ipcs=list[int], ...)`` before the notebook defines
    anything but its parameters: any other plain value among them is then one that papermill
    was given, or a reader wrote, under a wrong name. A later call in the same kernel, when a
    cell is run again, checks types alone.
    """
    global _first_call
    allowed = ", ".join(f"{name} ({_type_name(kind)})" for name, kind in types.items())
    if _first_call:
        for name, value in names.items():
            if name in types or name.startswith("_") or name in ("In", "Out"):
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


def _type_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
