"""One kind of complaint: a setting, the value it was given, and what is allowed."""

from collections.abc import Iterable
from difflib import get_close_matches


class SettingError(ValueError):
    """Bad input, said in one sentence that names the setting, the value and what is allowed."""


class DataError(SettingError):
    """Data that is missing, damaged or not laid out as documented."""


class MissingDataError(DataError):
    """Data that is not there; the message says which command gets it."""


def check_choice(setting: str, value: object, allowed: Iterable[str]) -> None:
    """Raise SettingError, naming the nearest valid choice, unless ``value`` is allowed."""
    allowed = list(allowed)
    if value not in allowed:
        raise SettingError(
            f"{setting} is {value!r}{did_you_mean(value, allowed)}; allowed: {', '.join(allowed)}"
        )


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """' (did you mean ...?)' where some allowed name is near, else the empty string."""
    near = get_close_matches(str(value), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""
