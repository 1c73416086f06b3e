"""What docs/adding-a-method.md and its neighbours say, done."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "adding-a-method.md").read_text()


def test_the_page_adds_a_method_in_thirty_lines_that_runs(tmp_path):
    file, use = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    name = re.match(r"# (\w+\.py)\n", file)[1]
    assert len(file.splitlines()) <= 30
    (tmp_path / name).write_text(file)
    (tmp_path / "use.py").write_text(use)
    done = subprocess.run(
        [sys.executable, "use.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == re.search(r"print\(.*\)  # (\S+)", use)[1]


@pytest.mark.parametrize("page", ["adding-a-data-set", "adding-a-network"])
def test_the_code_of_the_page_prints_what_it_says(page, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(), flags=re.S)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == re.search(r"print\(.*\)  # (.+)", code)[1]
