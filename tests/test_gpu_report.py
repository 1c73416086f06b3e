"""``make gpu`` without a GPU: what it counts, what it compares, and that it says what it needs."""

import pandas as pd
import pytest
import torch

from atomlib.cli import main
from atomlib.methods import ATOM
from atomlib.runs import profiles
from atomlib.runs.profiles import read_profile
from tests import gpu_report


def test_the_profile_is_run_by_a_command_that_atomlib_takes(monkeypatch, tmp_path):
    asked = []

    def run_profile(profile, notebooks, changes, *, reuse):
        asked.append((profile, notebooks, changes, reuse))
        return tmp_path

    def command(dash, module, *words):
        assert (dash, module) == ("-m", "atomlib") and main(words) == 0

    monkeypatch.setattr(profiles, "run_profile", run_profile)
    monkeypatch.setattr(gpu_report, "command", command)
    monkeypatch.setattr(gpu_report, "compared", lambda here, there: "compared")
    monkeypatch.setattr(pd, "read_csv", lambda path: path)
    monkeypatch.setenv("ATOM_DATA", "")  # run sets it; put back afterwards
    assert gpu_report.smoke() == "compared"
    assert asked == [("cifar10-gpu", None, {}, False)]
    assert read_profile("cifar10-gpu")


def test_work_is_counted_from_the_settings():
    data = gpu_report.random_data(10, 32, images=128)
    asked = {
        "03_ablation": {"datasets": ["cifar10"], "ipcs": [10], "evaluation": {"networks": 10}},
        "07_gallery": {"sets": "anywhere"},
    }
    row, none = gpu_report.work(asked).to_dict("records")
    one = ATOM(ipc=10).resolve(data).operations(data)
    assert row["distil"] == pytest.approx(7 * 8000 * one)  # seven combinations of terms
    forward = one / (10 * (128 + 20))
    assert row["train"] == pytest.approx(7 * 10 * 3 * 100 * 1001 * forward)
    assert none["distil"] == none["train"] == none["search"] == 0


def test_the_profile_of_the_paper_has_a_cost_in_hours():
    """About 6e18 operations are the search's training on all images, as counted elsewhere."""
    speed = dict.fromkeys(("distil", "train", "search"), 1e14)
    table = gpu_report.hours(read_profile("paper"), speed).set_index("notebook")
    assert table.hours["06_nas"] == pytest.approx(5.8e18 / 1e14 / 3600, rel=0.2)
    assert table.hours["all"] == pytest.approx(table.hours[:-1].sum())


def test_accuracies_are_held_against_those_of_the_same_settings():
    def table(*means):
        rows = {"method": ["dm", "atom"], "ipc": [1, 10], "mean": means, "std": [0.9, 0.3]}
        return pd.DataFrame(rows)

    assert "as expected" in gpu_report.compared(table(31.0, 48.5), table(30.9, 48.8))
    assert "NOT as expected: atom" in gpu_report.compared(table(31.0, 40.0), table(30.9, 48.8))


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu_report.main()
