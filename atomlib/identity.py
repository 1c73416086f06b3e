"""Which libraries decide a result, and how they differ from those of another time."""

import hashlib
from collections.abc import Mapping

from atomlib.runtime.provenance import versions

LIBRARIES = ("torch", "torchvision", "kornia")
"""Whose versions decide a result; a build of a version, such as +cu126, does not."""


def libraries(all_versions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions that decide a result, of ``provenance.versions`` of now or of another time."""
    found = versions() if all_versions is None else all_versions
    return {name: found.get(name, "").partition("+")[0] for name in LIBRARIES}


def digest() -> str:
    """The libraries in short."""
    return hashlib.sha256(f"{libraries()}".encode()).hexdigest()[:12]


def differences(versions_then: Mapping[str, str]) -> list[str]:
    """Why a result is stale, in words: which library decided it and is not so now."""
    then, now = libraries(versions_then), libraries()
    return [
        f"{name} was {then[name] or 'absent'}, is {now[name]}"
        for name in LIBRARIES
        if then[name] != now[name]
    ]
