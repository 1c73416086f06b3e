"""pyproject.toml, requirements.lock and environment.yml name one environment."""

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = [
    Requirement(line)
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
]


def locked(name: str, python: str, platform: dict[str, str]) -> list[Requirement]:
    here = {"python_full_version": f"{python}.0", "python_version": python}
    return [
        r
        for r in LOCK
        if r.name == name and (r.marker is None or r.marker.evaluate({**here, **platform}))
    ]


EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_lock_pins_every_requirement_once_within_its_range_on_each_python_and_system():
    wanted = [
        Requirement(text)
        for text in PROJECT["project"]["dependencies"]
        + [one for extra in EXTRAS.values() for one in extra if not one.startswith("atomlib[")]
    ]
    for python in ("3.11", "3.12", "3.13"):
        for system in (
            {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"},
            {"sys_platform": "darwin", "platform_machine": "arm64", "platform_system": "Darwin"},
        ):
            for requirement in wanted:
                pins = locked(requirement.name, python, system)
                assert len(pins) == 1, (requirement.name, python, system["sys_platform"])
                (pin,) = pins[0].specifier
                assert pin.operator == "=="
                assert Version(pin.version) in requirement.specifier


def test_lock_holds_the_versions_that_figures_were_measured_with():
    for text in PROJECT["tool"]["uv"]["constraint-dependencies"]:
        assert any(str(r).split(";")[0].strip() == text for r in LOCK), text


def test_conda_environment_installs_the_lock_and_a_supported_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = (d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "--editable ."]
    (python,) = (d for d in environment["dependencies"] if str(d).startswith("python="))
    allowed = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    assert Version(python.removeprefix("python=")) in allowed


def test_lock_names_no_place_to_download_from():
    assert not re.search(r"://|^-|@ ", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
