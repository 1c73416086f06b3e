"""Error messages: one sentence with the setting, the value it was given, and what is allowed."""

import operator
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from types import UnionType
from typing import Any


class SettingError(ValueError):
    """Bad input, told in one sentence that names the setting, the value and what is allowed."""


class DivergedError(SettingError):
    """The loss, the images or a learned rate are no longer numbers that a run can go on with."""


class DataError(SettingError):
    """Data that is missing, damaged or not laid out as documented."""


class MissingDataError(DataError):
    """Data that is not there; the message says which command gets it."""


def check_choice(setting: str, value: object, allowed: Iterable[str]) -> None:
    """Raise SettingError, naming the nearest valid choice, unless ``value`` is allowed."""
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        raise SettingError(
            f"{setting} is {shown(value)}{did_you_mean(value, allowed)}; "
            f"allowed: {', '.join(allowed)}"
        )


def check_kind(setting: str, value: object, kind: type | UnionType, allowed: str) -> None:
    """Raise SettingError, saying what is allowed, unless ``value`` is of this class."""
    if not isinstance(value, kind):
        raise SettingError(f"{setting} is {shown(value)}; allowed: {allowed}")


def as_row(index: object) -> int:
    """The number of one item. Raises SettingError for slices, lists and what else is no number."""
    try:
        return operator.index(index)
    except TypeError:
        raise SettingError(
            f"index is {shown(index)}; allowed: the number of one image; of several, take images "
            "and labels themselves, such as images[:3]"
        ) from None


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """' (did you mean ...?)' where some allowed name is near, else the empty string."""
    # A name is short; comparing takes the square of its length.
    named = isinstance(value, str) and len(value) <= 100
    allowed = list(allowed)
    # As papers write it: CIFAR-10, DataDAM.
    plain = "".join(sign for sign in value.lower() if sign.isalnum()) if named else ""
    near = [plain] if plain in allowed else []
    near = near or (get_close_matches(value, allowed, n=1, cutoff=0.5) if named else [])
    return f" (did you mean {near[0]!r}?)" if near else ""


class _Short(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 3, 200, 60, 200
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 10

    def repr_int(self, x: int, level: int) -> str:
        # Python itself refuses to write out a number of more than 4300 digits.
        return super().repr_int(x, level) if x.bit_length() < 4096 else "a number beyond 2**4095"


def shown(value: Any) -> str:
    """``repr(value)`` as part of a sentence: on one line, and cut where it is long."""
    return " ".join(_Short().repr(value).split())
