"""Table 1 of the supplement, from the settings themselves."""

from typing import Any

import pandas as pd

from atomlib.augmentation import DSAConfig
from atomlib.methods import ATOM
from atomlib.report.records import plain
from atomlib.training import EvalConfig


def table() -> pd.DataFrame:
    """Table 1 of the supplement, from the settings themselves: default, range, meaning."""
    parts = {"distillation": ATOM, "augmentation": DSAConfig, "evaluation": EvalConfig}
    rows = []
    for part, config in parts.items():
        schema = config.model_json_schema()["properties"]
        for name, value in config().model_dump().items():
            if isinstance(value, dict):  # has rows of its own
                continue
            rows.append(
                {
                    "part": part,
                    "setting": name,
                    "default": _default(value),
                    "allowed": _allowed(schema[name]),
                    "meaning": schema[name].get("description", ""),
                }
            )
    return pd.DataFrame(rows)


def _default(value: Any) -> str:
    if value is None:
        return "by data, method or device"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else plain(value)


def _allowed(schema: dict[str, Any]) -> str:
    """A JSON schema's range in words."""
    if "anyOf" in schema:  # a value or None
        return _allowed(schema["anyOf"][0])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema["type"] == "array":
        return f"any of {_allowed(schema['items'])}"
    if schema["type"] == "boolean":
        return "on, off"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [
        f"{sign} {plain(schema[key])}"
        for key, sign in signs.items()
        if key in schema and schema[key] < 2**53
    ]
    return " and ".join(limits)
