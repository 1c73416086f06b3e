"""README says what the repository holds: its table, its links, its commands, its code."""

import re
import subprocess
import sys

import pytest

from tests.test_environment import ROOT

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def block(start: str) -> str:
    """The text between <!-- start --> and <!-- end -->."""
    return README.split(f"<!-- {start} -->")[1].split("<!-- end -->")[0].strip()


@pytest.mark.parametrize(
    "path", re.findall(r"<!-- (reports/\S+\.md) -->", README), ids=lambda path: path
)
def test_tables_are_those_of_the_committed_reports(path):
    assert block(path) == (ROOT / path).read_text().strip()


def test_every_link_and_picture_is_there():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", README, re.MULTILINE))
    assert named
    assert named <= targets


def test_the_code_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "tensor(" in done.stdout
    assert (tmp_path / "digits.safetensors").exists()
    assert len(list((tmp_path / "digits-png").rglob("*.png"))) == 10
