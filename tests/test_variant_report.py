"""Tables, intervals and sentences on variants."""

import numpy as np
import pytest
from scipy import stats

from atomlib import figures
from atomlib.config import DistillConfig, EvalConfig
from atomlib.report import against, hyperparameters, provenance, variant_table


def record(variant, accuracies, **changes):
    config = DistillConfig(variant=variant, **changes)
    return {
        "dataset": "digits", "method": "atom", "ipc": 1, "seed": 0, "variant": variant,
        "accuracies": accuracies, "distill": config.model_dump(mode="json"),
        "evaluate": EvalConfig().model_dump(mode="json"),
        "evaluation": {"hardware": "a machine", "versions": {}},
    }  # fmt: skip


RECORDS = [
    record("text", [70.0, 71.0, 72.5]),
    record("text+norm", [60.0, 61.0, 59.5], norm="batch"),
    record("text+scale", [70.5, 71.0, 72.0], loss_scale=100.0),
]


def test_interval_is_students_over_the_networks():
    table = variant_table(RECORDS).set_index("variant")
    a = np.array(RECORDS[0]["accuracies"])
    half = stats.t.ppf(0.975, 2) * a.std(ddof=1) / np.sqrt(3)
    row = table.loc["text"]
    assert (row["mean"], row["std"]) == pytest.approx((a.mean(), a.std()), abs=0.006)
    assert (row.low, row.high) == pytest.approx((a.mean() - half, a.mean() + half), abs=0.006)


def test_one_network_has_no_interval():
    table = variant_table([record("text", [70.0])])
    assert table[["low", "high"]].isna().all(axis=None)


def test_sentences_say_above_below_and_not_told_apart_by_the_test():
    below, same = against(RECORDS, "text")
    assert below.startswith("text+norm is below text: -11.0 points (Welch's t-test over 3 and 3")
    assert same.startswith("text+scale is not told apart from text")
    p = stats.ttest_ind([70.5, 71.0, 72.0], [70.0, 71.0, 72.5], equal_var=False).pvalue
    assert f"p = {p:.2g}" in same


def test_what_differs_between_variants_is_not_said_of_all():
    note = provenance(
        [record(v, [1.0], width=16, norm=n) for v, n in (("a", "batch"), ("b", "none"))]
    )
    assert "width 16 (default 128)" in note
    assert "norm" not in note.replace("normalisation", "")


def test_forest_draws_every_variant_at_its_mean():
    figure = figures.forest_figure(variant_table(RECORDS), base="text")
    (axis,) = figure.axes
    points = axis.containers[0].lines[0]
    assert points.get_xdata().tolist() == pytest.approx([71.17, 60.17, 71.17], abs=0.01)
    assert [label.get_text() for label in axis.get_yticklabels()] == [r["variant"] for r in RECORDS]


def test_heat_map_puts_each_pair_at_its_place():
    made = [record(f"ps{p}.pc{q}", [10.0 * p + q]) for p in (1, 2, 4) for q in (1, 2, 4)]
    figure = figures.power_figure(variant_table(made))
    values = figure.axes[0].collections[0].get_array().reshape(3, 3)
    np.testing.assert_allclose(values, [[10 * p + q for q in (1, 2, 4)] for p in (1, 2, 4)])


def test_hyperparameters_are_those_of_the_configs():
    table = hyperparameters().set_index(["part", "setting"])
    assert table.loc[("distillation", "iterations"), "default"] == "8000"
    assert table.loc[("distillation", "image_momentum"), "allowed"] == "≥ 0 and < 1"
    assert table.loc[("augmentation", "rotate"), "default"] == "15"
    assert table.loc[("evaluation", "schedule"), "allowed"] == "halfway, step, constant"
    assert set(table.loc["distillation"].index) == set(DistillConfig.model_fields) - {"dsa"}
    assert (table.meaning != "").all()
