"""That the notebooks' stored outputs guard the method: a broken loss makes nbval fail.

That the unbroken ones pass is what ``make test`` runs nbval for.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

from tests.test_environment import ROOT

# What a slip of the hand could do to atomlib.methods, as a start-up file of the kernel.
SLIP = """
from atomlib.methods import ATOM, DataDAM
ATOM.terms = DataDAM.terms
"""


def test_a_loss_without_channel_attention_makes_nbval_fail(tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "00_quickstart.ipynb", tmp_path / "notebooks")
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-break.py").write_text(SLIP)
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p"]
    run = subprocess.run(
        [*command, "no:cacheprovider", "-q", "notebooks/00_quickstart.ipynb"],
        cwd=tmp_path,
        env={**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"), "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1, run.stdout[-2000:]
    assert "loss starts at" in run.stdout  # the cell that says so is the one that differs
    assert "unexpected exception" not in run.stdout.lower()


def test_your_data_may_lie_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    notebook = nbformat.read(ROOT / "notebooks" / "10_your_data.ipynb", as_version=4)
    lines = [line for cell in notebook.cells for line in cell.source.splitlines()]
    (line,) = [line for line in lines if line.startswith("images = ")]
    given = {"folder": "~/pets", "Path": Path}
    exec(line, given)
    assert given["images"] == tmp_path / "pets"
