"""The methods: each is a class in a file of its own, found by name."""

import importlib
import re
from typing import Any

from atomlib.errors import SettingError, did_you_mean, shown
from atomlib.methods.atom import ATOM
from atomlib.methods.cafe import CAFE, CAFEDSA
from atomlib.methods.check import check_method
from atomlib.methods.datadam import DataDAM
from atomlib.methods.dataset_quantization import DatasetQuantization
from atomlib.methods.dc import DC
from atomlib.methods.dm import DM
from atomlib.methods.dsa import DSA
from atomlib.methods.forgetting import Forgetting
from atomlib.methods.glad import GLaD, GLaDDC, GLaDMTT
from atomlib.methods.herding import Herding
from atomlib.methods.k_center import KCenter
from atomlib.methods.method import NAME, Learner, Method, UnknownMethod
from atomlib.methods.mtt import MTT
from atomlib.methods.random_images import RandomImages

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        RandomImages,
        Herding,
        KCenter,
        Forgetting,
        DatasetQuantization,
        DC,
        DSA,
        CAFE,
        CAFEDSA,
        MTT,
        GLaD,
        GLaDDC,
        GLaDMTT,
        DM,
        DataDAM,
        ATOM,
    )
}
"""By name, in the order of every table and figure."""


def find(name: object) -> type[Method]:
    """A method's class: by name, "atom"; or by place, "my_lab.mine:Mine", which is imported.

    A class is handed back. Raises SettingError for a name that there is none of, and for a class
    that is no Method or has no name, label, source or revision.
    """
    if isinstance(name, type):
        return _checked(name, shown(name))
    if isinstance(name, str) and name in METHODS:
        return METHODS[name]
    if not isinstance(name, str) or ":" not in name:
        raise SettingError(
            f"method is {shown(name)}{did_you_mean(name, METHODS)}; allowed: {', '.join(METHODS)}, "
            "or package.module:Class"
        )
    module, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SettingError(
            f"method is {shown(name)}, which could not be imported ({error}); allowed: a class "
            "that python finds there"
        ) from None
    return _checked(found, shown(name))


def place(name: str) -> int:
    """Where a method stands in tables and figures: a stranger's after ours."""
    return list(METHODS).index(name) if name in METHODS else len(METHODS)


def label(name: str) -> str:
    """How a table shows a method by this name: a stranger's by its name."""
    return METHODS[name].label if name in METHODS else name


def colour(name: str) -> str:
    """A method's colour in every figure: a stranger's is that of every stranger."""
    return METHODS.get(name, Method).colour


def _checked(found: Any, given: str) -> type[Method]:
    if not isinstance(found, type) or not issubclass(found, Method):
        raise SettingError(f"method is {given}; allowed: a class of atomlib.methods.Method")
    for part in ("name", "label", "source", "revision"):
        if not hasattr(found, part):
            raise SettingError(f"method {found.__name__} has no {part}; allowed: one of its own")
    if not isinstance(found.name, str) or not re.fullmatch(NAME, found.name):
        raise SettingError(
            f"method {found.__name__} has the name {shown(found.name)}; allowed: up to 40 of a-z, "
            "0-9 and _"
        )
    if found.name in METHODS and METHODS[found.name] is not found:
        raise SettingError(
            f"method {found.__name__} has the name {found.name!r}, which is {found.name}'s; "
            "allowed: one of its own"
        )
    return found


__all__ = [
    "ATOM",
    "CAFE",
    "CAFEDSA",
    "DC",
    "DM",
    "DSA",
    "METHODS",
    "MTT",
    "DataDAM",
    "DatasetQuantization",
    "Forgetting",
    "GLaD",
    "GLaDDC",
    "GLaDMTT",
    "Herding",
    "KCenter",
    "Learner",
    "Method",
    "RandomImages",
    "UnknownMethod",
    "check_method",
    "colour",
    "find",
    "label",
    "place",
]
