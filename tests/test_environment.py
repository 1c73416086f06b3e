"""pyproject.toml, requirements.lock and environment.yml name one environment."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
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


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("sys.version_info = (3, 9)", "python is 3.9; allowed: 3.11 to 3.14"),
        ("platform.system, platform.machine = lambda: 'Darwin', lambda: 'x86_64'", "Apple silicon"),
        ("sys.modules['ensurepip'] = None", "apt install python3-venv"),
    ],
    ids=["old", "of a Mac with Intel", "without venv"],
)
def test_a_python_that_cannot_serve_is_refused_before_the_old_environment_goes(
    tmp_path, python, said
):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "kept").touch()
    fake = tmp_path / "python"
    fake.write_text(f"#!{sys.executable}\nimport platform, sys\n{python}\nexec(sys.argv[2])\n")
    fake.chmod(0o755)
    done = subprocess.run(
        ["make", ".venv/ready", f"PYTHON={fake}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode and said in done.stderr + done.stdout
    assert (tmp_path / ".venv" / "kept").exists()


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


def test_make_takes_the_pythons_that_the_package_takes():
    (ends,) = re.findall(r"not \((.*?)\) <= .*? <= \((.*?)\) else", (ROOT / "Makefile").read_text())
    first, last = (int(end.split(", ")[1]) for end in ends)
    allowed = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    taken = [minor for minor in range(30) if f"3.{minor}.1" in allowed]
    assert taken == [*range(first, last + 1)]


def test_lock_names_no_place_to_download_from():
    assert not re.search(r"://|^-|@ ", (ROOT / "requirements.lock").read_text(), re.MULTILINE)


def test_torch_from_another_index_leaves_out_what_pypis_build_brings_and_nothing_else():
    (pattern,) = re.findall(r"^OF_TORCH := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    left_out = {r.name for r in LOCK if re.match(pattern, f"{r.name}=={r.specifier}")}
    assert {"torch", "torchvision", "triton", "nvidia-cublas", "cuda-toolkit"} <= left_out
    kept = {canonicalize_name(r.name) for r in LOCK} - left_out
    for name in kept - {"kornia"}:  # which asks for torch itself
        try:
            wants = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # of another system
            continue
        asked = {canonicalize_name(w.name) for w in wants if not w.marker or w.marker.evaluate()}
        assert not asked & left_out, name


@pytest.mark.parametrize(("given", "line"), [("", "-r requirements.lock"), ("URL", "--no-deps")])
def test_make_installs_from_the_index_it_is_given(given, line):
    command = ["make", "--dry-run", "--always-make", ".venv/ready", f"TORCH_INDEX={given}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    installs = [said for said in done.stdout.splitlines() if "pip install" in said]
    assert line in installs[0] and ("--index-url" in installs[0]) == bool(given)
