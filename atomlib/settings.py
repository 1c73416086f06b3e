"""Typed, frozen settings: anything wrong with one is a single sentence.

Defaults are the paper's (supplement, Table 1). A setting that is None takes a value that depends on
the data or on another setting; ``resolve`` fills it in, and what is stored and reported is the
filled-in form.
"""

import re
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atomlib.errors import SettingError, did_you_mean, shown

MOST = 10**6
"""Upper limit of every count: a larger value is a typing error."""

Positive = Annotated[int, Field(ge=1, le=MOST)]

Fraction = Annotated[float, Field(ge=0, le=1)]

LARGEST = 1e30
"""Of a rate or weight: tensors are float32, which ends at 3.4e38."""

Weight = Annotated[float, Field(ge=0, le=LARGEST)]

Rate = Annotated[float, Field(gt=0, le=LARGEST)]


VARIANT = r"^[a-z0-9._+]*$"

VariantName = Annotated[str, Field(pattern=VARIANT, max_length=100)]
"""Part of a file's name."""


class Settings(BaseModel):
    """Frozen, typed settings; anything wrong is one SettingError sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values):
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingError(_explain(error, type(self))) from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``model_dump_json`` wrote. Raises SettingError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise SettingError(_explain(error, cls)) from None

    def but(self, **changes) -> Self:
        """A copy with some settings changed, checked like new ones."""
        return type(self)(**{**self.model_dump(), **changes})


def _named(values: object) -> object:
    """Nested settings are handed on by name, before pydantic looks at them."""
    if isinstance(values, dict) and not all(isinstance(name, str) for name in values):
        raise SettingError(f"{shown(values)} is not what it should be; allowed: settings by name")
    return values


def _explain(error: ValidationError, settings: type[BaseModel]) -> str:
    """The first complaint as one sentence."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    value, name = first.get("input"), ".".join(where)
    if isinstance(first.get("ctx", {}).get("error"), SettingError):
        # Settings within settings have said it already.
        return f"{name}: {first['ctx']['error']}".removeprefix(": ")
    if first["type"] == "extra_forbidden":
        allowed = list(settings.model_fields)
        near = did_you_mean(name, allowed)
        return f"unknown setting {shown(name)}{near}; allowed: {', '.join(allowed)}"
    if first["type"] == "missing":
        return f"{name} of {settings.__name__} is not given; allowed: a value, it has no default"
    if first["type"] == "string_pattern_mismatch" and first["ctx"]["pattern"] == VARIANT:
        return f"{name} is {shown(value)}; allowed: lower-case letters, digits, '.', '_' and '+'"
    near = ""
    if first["type"] == "literal_error":
        near = did_you_mean(value, first["ctx"]["expected"].replace(" or ", ", ").split(", "))
        near = near.replace("\"'", "'").replace("'\"", "'")
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Input should ")
    wanted = re.sub(r"^(String|List|Tuple|Set|Dictionary|Value|Data) should (have )?", "", wanted)
    wanted = wanted.replace("match pattern", "text of the pattern")
    wanted = wanted.replace("a valid integer", "an integer").replace("a valid ", "a ")
    return f"{name or 'input'} is {shown(value)}{near}; allowed: {wanted}"
