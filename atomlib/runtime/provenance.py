"""What a result is the result of, and where it was made.

Facts decide a result: settings, data, revision and libraries. A result that was kept is read where
``differences`` finds none between its facts and those of what is asked for; otherwise it says why
not, in words. Hardware, other versions and the git commit are recorded, and never compared.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel

from atomlib.runtime.device import gpu_is_usable

PACKAGES = ("atomlib", "torch", "torchvision", "kornia", "numpy")

LIBRARIES = ("torch", "torchvision", "kornia")
"""Whose versions decide a result; a build of a version, such as +cu126, does not."""


@dataclass(frozen=True)
class Facts:
    """All that decides a result, as JSON holds it."""

    of: str
    """Whose revision: a method's name, "training" or "the search"."""
    revision: int
    settings: Mapping[str, Any]
    """Resolved, as ``flat`` gives them."""
    data: str
    """Fingerprint of the data set."""
    versions: Mapping[str, str]
    """Of LIBRARIES, others being passed over."""
    trained_on: str = ""
    """Digest of the set that networks were trained on, where there is one."""

    def today(
        self, *, revision: int, defaults: BaseModel | None = None, given: Iterable[str] = ()
    ) -> Self:
        """What today's code makes of the same request.

        ``given`` names the settings that were not at their default then; all others, where there
        are ``defaults``, take today's. A default of None is left as it was filled in.
        """
        changed = {} if defaults is None else flat(defaults.model_dump(mode="json"))
        for name in [name for name in changed if name in {*given} or changed[name] is None]:
            del changed[name]
        settings = {**self.settings, **changed}
        return replace(self, revision=revision, settings=settings, versions=versions())


NO_FACTS = ("graphs",)
"""Settings that decide no result: replaying a step as a CUDA graph starts the same kernels."""


def differences(then: Facts, now: Facts) -> list[str]:
    """Why a result of ``then`` is not one of ``now``, in words; none where it is."""
    found = []
    names = [*now.settings, *(name for name in then.settings if name not in now.settings)]
    for name in [name for name in names if name not in NO_FACTS]:
        old, new = (facts.settings.get(name, ABSENT) for facts in (then, now))
        if old != new:
            found.append(f"{name} was {_shown(old)}, is {_shown(new)}")
    if then.data != now.data:
        found.append(f"its data was {then.data[:12]}, is {now.data[:12]}")
    if then.trained_on != now.trained_on:
        found.append("its set was made anew since")
    if then.revision != now.revision:
        found.append(f"{now.of} is at revision {now.revision}, this is of {then.revision}")
    old, new = libraries(then.versions), libraries(now.versions)
    return found + [
        f"{name} was {old[name] or 'absent'}, is {new[name]}"
        for name in LIBRARIES
        if old[name] != new[name]
    ]


ABSENT = object()


def _shown(value: Any) -> str:
    return "absent" if value is ABSENT else json.dumps(value).strip('"')


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under joined names: {"dsa": {"crop": 0}} becomes {"dsa crop": 0}."""
    found = {}
    for key, value in settings.items():
        inner = flat(value) if isinstance(value, Mapping) else {"": value}
        found |= {f"{key} {name}".strip(): entry for name, entry in inner.items()}
    return found


def settings_of(settings: BaseModel) -> dict[str, Any]:
    """Settings as ``Facts`` has them."""
    found = flat(settings.model_dump(mode="json"))
    return {name: value for name, value in found.items() if name not in NO_FACTS}


def given(settings: BaseModel) -> list[str]:
    """The names of the settings that are not at their default."""
    return list(flat(settings.model_dump(mode="json", exclude_defaults=True)))


def libraries(all_versions: Mapping[str, str] | None = None) -> dict[str, str]:
    """Versions that decide a result, of ``versions`` of now or of another time."""
    found = versions() if all_versions is None else all_versions
    return {name: found.get(name, "").partition("+")[0] for name in LIBRARIES}


def hardware() -> str:
    """The GPU, or the processor and its number of cores."""
    if gpu_is_usable():
        return torch.cuda.get_device_name()
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    return f"{_processor()}, {len(affinity(0)) if affinity else os.cpu_count()} cores"


@cache
def _processor() -> str:
    """As its maker calls it, where the system tells: "arm" is every Apple chip."""
    name = ""
    cpuinfo = Path("/proc/cpuinfo")
    if sys.platform == "darwin":
        with suppress(OSError, subprocess.SubprocessError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.run(asked, capture_output=True, text=True, timeout=9).stdout.strip()
    elif cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
    return name or platform.processor() or platform.machine()


def on_a_cpu(hardware: str) -> bool:
    """Whether this is what ``hardware`` says where there is no GPU."""
    return hardware.endswith(" cores")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@cache
def commit() -> dict[str, str]:
    """{"commit": what git says of this package's own checkout}; empty where it is in none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # installed, perhaps inside somebody else's repository
        return {}
    try:
        found = subprocess.run(
            ["git", "--no-optional-locks", "describe", "--always", "--dirty"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return {}
    return {"commit": found.stdout.strip()} if found.returncode == 0 else {}


def ran(seconds: float, revision: int, given: list[str], how: str = "") -> dict[str, Any]:
    """What a record says of a run that ends now: how long, where, how, and by which code."""
    return {
        "seconds": round(seconds, 1),
        "hardware": hardware(),
        **({"how": how} if how else {}),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **commit(),
        "revision": revision,
        "given": given,
    }
