"""The choice on held-out images: its order, its winner, and what stands beside it."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest

from atomlib.datasets import known
from atomlib.methods import ATOM
from atomlib.report import choice, figures
from atomlib.report.findings import against_published
from atomlib.report.folder import ReportFolder
from atomlib.report.records import named_by_recipe
from atomlib.training import EvalConfig
from tests.test_environment import ROOT

CIFAR10 = known.official("cifar10").fingerprint


def record(variant, accuracies, dataset="cifar10", seed=0, data=CIFAR10):
    return {
        "name": f"{dataset}-{variant}-{seed}", "dataset": dataset, "data": data, "method": "atom",
        "ipc": 10, "seed": seed, "variant": variant, "accuracies": accuracies,
        "distill": ATOM(ipc=10, variant=variant, recipe="code").model_dump(mode="json"),
        "evaluate": EvalConfig().model_dump(mode="json"),
        "evaluation": {"hardware": "a machine", "versions": {}},
    }  # fmt: skip


def held_out(**found):
    return choice.ranked(
        named_by_recipe(
            record(name.replace("_", "."), values, "cifar10-held-out", data="f" * 64)
            for name, values in found.items()
        )
    )


def test_the_highest_mean_is_chosen_whatever_its_distance_from_the_whole():
    table = held_out(
        **{"": [50.0, 51.0, 52.5]}, worse=[20.0, 21.0, 22.0], better=[53.0, 54.0, 55.5]
    )
    assert table.variant.tolist() == ["code+better", "code", "code+worse"]
    assert choice.chosen(table) == "better"
    assert table.worth.tolist()[0] == pytest.approx(3.0)
    assert "CIFAR-10 (held out)" in table.attrs["labels"].values()
    (axis,) = figures.worth_figure(table).axes
    assert "points of held-out accuracy" in axis.get_xlabel()


def test_the_recipe_itself_may_come_first():
    table = held_out(**{"": [50.0, 51.0, 52.5]}, worse=[20.0, 21.0, 22.0])
    assert choice.chosen(table) == ""
    (first, *_) = choice.sentences(table, confirmed_at({"": [[54.0, 54.5, 55.0]]}), asked=1)
    assert first == "On held-out images no candidate of 1 comes before code."


def test_a_choice_without_the_recipe_itself_is_not_compared():
    table = held_out(worse=[20.0, 21.0, 22.0], better=[53.0, 54.0, 55.5])
    (first, *_) = choice.sentences(table, confirmed_at({"": [[54.0, 54.5, 55.0]]}), asked=2)
    assert "comes first of 2 candidates: 54.2, against code not compared" in first


def test_candidates_that_are_missing_are_told():
    table = held_out(**{"": [50.0, 51.0, 52.5]}, worse=[20.0, 21.0, 22.0])
    tested = confirmed_at({"": [[54.0, 54.5, 55.0]]})
    told = "Candidates not made yet: 2. The choice may change with them."
    assert choice.sentences(table, tested, asked=3)[1] == told
    alone = held_out(worse=[20.0, 21.0, 22.0])  # the recipe itself is not made, and no candidate
    assert choice.sentences(alone, tested, asked=3)[1] == told
    assert told[:20] not in " ".join(choice.sentences(table, tested, asked=1))


def confirmed_at(found):
    """Records of the test images: accuracies by seed, by candidate."""
    return named_by_recipe(
        record(name, values, seed=seed)
        for name, seeds in found.items()
        for seed, values in enumerate(seeds)
    )


def test_each_is_tested_over_all_its_seeds_beside_the_published_figure():
    seeds = [[50.0, 51.0, 52.0], [53.0, 54.0, 55.0]]
    records = confirmed_at({"": [[54.0, 54.5, 55.0]], "better": seeds})
    table = choice.confirmed(records)
    assert table.settings.tolist() == ["code", "code+better"]
    assert table["mean"].tolist() == pytest.approx([54.5, np.mean(seeds)])
    assert table.seeds.tolist() == [1, 2] and table.published.tolist() == [57.9, 57.9]
    shown = choice.readable_confirmed(table)
    assert shown.settings.tolist() == ["code", "code+better"] and set(shown["data"]) == {
        "CIFAR-10, reduced"
    }
    tests = choice.readable_tests(table)
    assert tests.settings.tolist() == ["code", "code+better"]
    assert tests["p, of 5 networks"].tolist()[1] == "–"  # of two seeds
    first = next(table.itertuples())
    assert tests["p, of 20 networks"][0] == f"{against_published(first, 20).p:.2g}"
    ranked = held_out(**{"": [50.0, 51.0, 52.5]}, better=[53.0, 54.0, 55.5])
    said = choice.sentences(ranked, records, asked=len(ranked) - 1)
    assert said[0].startswith("On held-out images code+better comes first of 1 candidates: 54.2")
    assert said[1] == "On the test images code reaches 54.5; published 57.9 ± 0.7†: -3.4 ▼."
    assert said[2].startswith("On the test images code+better reaches 52.5; published 57.9 ± 0.7†")
    assert said[3].startswith("Test images, seed 0: code+better is below code: -3.5 points")
    assert len(said) == 4  # no recipe at seed 1 to stand beside


def test_each_row_leads_to_its_own_run():
    report = ReportFolder.read(Path(__file__).parents[1] / "reports/quick")
    table = report.tables["settings"]
    shown = choice.readable_confirmed(table)
    assert len(shown) == 2
    for row, own in zip(shown.itertuples(index=False), table.runs, strict=True):
        assert report.runs_as_read("settings", list(shown.columns), list(row)) == own.split()


def test_a_report_whose_candidates_are_all_made_says_of_none_that_it_is_missing():
    executed = nbformat.read(ROOT / "reports/quick/notebooks/12_settings.ipynb", 4)
    text = json.dumps(executed.cells[-1].outputs)
    assert "comes first of 5 candidates" in text and "not made yet" not in text
