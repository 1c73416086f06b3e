"""Tables, intervals and sentences on variants."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from atomlib.methods import ATOM
from atomlib.report import figures, hyperparameters, readable, sentences
from atomlib.report.findings import against, transfer_findings
from atomlib.report.readable import provenance
from atomlib.report.records import named_by_recipe
from atomlib.report.tables import curve_table, transfer_table, variant_table
from atomlib.report.worth import readable_worth, worth_sentences, worth_table
from atomlib.training import EvalConfig


def record(variant, accuracies, **changes):
    config = ATOM(variant=variant, **changes)
    return {
        "name": f"run of {variant}",
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


def test_each_row_leads_back_to_its_run():
    assert [*variant_table(RECORDS).runs] == [
        "run of text",
        "run of text+norm",
        "run of text+scale",
    ]


def test_interval_is_students_over_the_networks():
    table = variant_table(RECORDS).set_index("variant")
    a = np.array(RECORDS[0]["accuracies"])
    half = stats.t.ppf(0.975, 2) * a.std(ddof=1) / np.sqrt(3)
    row = table.loc["text"]
    assert (row["mean"], row["std"]) == pytest.approx((a.mean(), a.std()), abs=0.006)
    assert (row.low, row.high) == pytest.approx((a.mean() - half, a.mean() + half), abs=0.006)


@pytest.mark.filterwarnings("error")
def test_equal_accuracies_have_no_interval():
    (row,) = variant_table([record("whole", [7.5, 7.5, 7.5])]).itertuples()
    assert (row.mean, row.std, row.networks) == (7.5, 0.0, 3)
    assert np.isnan([row.low, row.high]).all()


def test_one_network_has_no_interval():
    table = variant_table([record("text", [70.0])])
    assert table[["low", "high"]].isna().all(axis=None)


def test_sentences_say_above_below_and_not_told_apart_by_the_test():
    below, same = map(str, against(RECORDS, "text"))
    assert below.startswith(
        "digits (8 x 8), IPC 1: text+norm is below text: -11.0 points (Welch's t-test over 3 and 3"
    )
    assert "text+scale is not told apart from text" in same
    p = stats.ttest_ind([70.5, 71.0, 72.0], [70.0, 71.0, 72.5], equal_var=False).pvalue
    assert f"p = {p:.2g}" in same


def test_each_change_is_held_against_the_recipe_in_which_it_was_made():
    records = named_by_recipe(
        [
            record("", [70.0, 71.0, 72.5]),
            record("norm", [60.0, 61.0, 59.5], norm="batch"),
            record("", [20.0, 21.0, 22.5], recipe="code"),
            record("norm", [66.0, 67.0, 69.0], recipe="code", norm="instance"),
        ]
    )
    assert [r["variant"] for r in records] == ["text", "text+norm", "code", "code+norm"]
    own = [record("recipe", [70.0, 71.0]), record("norm", [60.0, 61.0])]
    assert [r["variant"] for r in named_by_recipe(own, "recipe")] == ["text", "text+norm"]
    evaluated = named_by_recipe([record("schedule.recipe", [1.0]), record("it5", [1.0])], "recipe")
    assert [r["variant"] for r in evaluated] == ["text+schedule", "text+it5"]
    (below,), (above,) = (against(records, recipe) for recipe in ("text", "code"))
    assert "text+norm is below text: -11.0 points" in str(below)
    assert "code+norm is above code: +46.2 points" in str(above)


def test_other_pixels_are_a_change_of_the_recipe_on_the_first_data():
    jpeg = record("", [60.0, 61.0, 59.5]) | {"dataset": "digits32", "data": "f" * 64}
    records = named_by_recipe([record("", [70.0, 71.0, 72.5]), jpeg], other_pixels=["digits32"])
    assert [r["variant"] for r in records] == ["text", "text+digits32"]
    assert [r["dataset"] for r in records] == ["digits", "digits"]
    table = worth_table(records)
    assert table.worth.tolist()[1] == pytest.approx(60.1667 - 71.1667, abs=1e-3)
    assert readable_worth(table)["data"].nunique() == 1


def test_what_differs_between_variants_is_not_said_of_all():
    note = provenance(
        [record(v, [1.0], width=16, norm=n) for v, n in (("a", "batch"), ("b", "none"))]
    )
    assert "width 16 (default 128)" in note
    assert "norm" not in note.replace("normalisation", "")


def test_forest_draws_every_variant_at_its_mean():
    figure = figures.forest_figure(variant_table(RECORDS), "text")
    (axis,) = figure.axes
    points, _, (bars,) = axis.containers[0].lines
    assert points.get_xdata().tolist() == pytest.approx([71.17, 60.17, 71.17], abs=0.01)
    table = variant_table(RECORDS)
    drawn = [ends[:, 0].tolist() for ends in bars.get_segments()]
    np.testing.assert_allclose(drawn, table[["low", "high"]])
    assert [label.get_text() for label in axis.get_yticklabels()] == [r["variant"] for r in RECORDS]


def test_heat_map_puts_each_pair_at_its_place():
    made = [record(f"ps{p}.pc{q}", [10.0 * p + q]) for p in (1, 2, 4) for q in (1, 2, 4)]
    figure = figures.power_figure(variant_table(made))
    values = figure.axes[0].collections[0].get_array().reshape(3, 3)
    np.testing.assert_allclose(values, [[10 * p + q for q in (1, 2, 4)] for p in (1, 2, 4)])


def test_variants_of_two_recipes_have_panels_and_a_column_of_their_own():
    made = [
        record(f"ps{p}.pc{q}", [value + p + q], recipe=recipe)
        for recipe, value in (("text", 10.0), ("code", 50.0))
        for p in (1, 4)
        for q in (1, 4)
    ]
    table = variant_table(made)
    figure = figures.power_figure(table)
    first, second = (axis for axis in figure.axes if axis.get_title())
    assert first.get_title() == "digits (8 x 8), IPC 1"
    assert second.get_title() == "digits (8 x 8), IPC 1, by the code"
    values = [axis.collections[0].get_array().flatten() for axis in (first, second)]
    assert np.allclose(values, [[12, 15, 15, 18], [52, 55, 55, 58]])
    forest = figures.forest_figure(table, "ps4.pc4")
    assert [axis.get_title() for axis in forest.axes] == [first.get_title(), second.get_title()]
    assert [axis.lines[-1].get_xdata()[0] for axis in forest.axes] == [18, 58]
    assert readable.variants(table).recipe.tolist() == ["text"] * 4 + ["code"] * 4
    assert "recipe" not in readable.variants(table[table.recipe == "code"])


def test_transfer_by_another_recipe_is_hollow_beside_the_first():
    made = [
        record("", [value, value + 1], recipe=recipe)
        for recipe, value in (("code", 50.0), ("text", 10.0))
    ]
    assert readable.transfer(transfer_table(made)).method.tolist() == ["ATOM, by the code", "ATOM"]
    axis = figures.transfer_figure(made).axes[0]
    assert axis.get_title() == "digits (8 x 8), IPC 1"
    hollow, full = axis.collections
    assert (hollow.get_facecolor()[0, :3] == 1).all() and (full.get_facecolor()[0, :3] < 1).any()
    assert full.get_offsets()[0, 0] < hollow.get_offsets()[0, 0]
    assert [line.get_linestyle() for line in axis.lines[:2]] == [":", "-"]


def test_hyperparameters_are_those_of_the_configs():
    table = hyperparameters.table().set_index(["part", "setting"])
    assert table.loc[("distillation", "iterations"), "default"] == "8000"
    assert table.loc[("distillation", "image_momentum"), "allowed"] == "≥ 0 and < 1"
    assert table.loc[("augmentation", "rotate"), "default"] == "15"
    assert table.loc[("evaluation", "schedule"), "allowed"] == "halfway, step, constant"
    assert set(table.loc["distillation"].index) == set(ATOM.model_fields) - {"dsa"}
    assert (table.meaning != "").all()


# Checkpoints, other networks, architecture search


def checkpoint(iterations, accuracies, last=90):
    variant = "" if iterations == last else f"it{iterations}"
    return record(variant, accuracies, iterations=iterations)


CURVE = [
    checkpoint(90, [80.0, 81.0, 82.0]), checkpoint(0, [50.0, 50.5, 51.0]),
    checkpoint(30, [90.0, 90.2, 90.4]),
]  # fmt: skip


def test_a_curve_is_in_the_order_of_iterations():
    table = curve_table(CURVE)
    assert table.iterations.tolist() == [0, 30, 90]
    assert table["mean"].tolist() == [50.5, 90.2, 81.0]
    assert readable.curve(table).iterations.tolist() == [0, 30, 90]
    assert readable.curve(table)["accuracy, %"].tolist() == ["50.5", "90.2", "81.0"]


def test_of_equal_checkpoints_the_earlier_is_called_the_best():
    equal = [checkpoint(i, [80.0, 81.0, 82.0]) for i in (0, 30, 90)]
    for run in (equal, equal[::-1]):
        assert "the best, at 0, is 0.0 above the last" in sentences.of_curves(run)[0]


def test_what_iterations_bring_and_what_choosing_hides_is_said():
    (sentence,) = sentences.of_curves(CURVE)
    gained = stats.ttest_ind([80.0, 81.0, 82.0], [50.0, 50.5, 51.0], equal_var=False).pvalue
    assert "90 iterations bring +30.5 points over 0" in sentence
    assert f"(Welch's t-test over networks, p = {gained:.2g})" in sentence
    assert "the best, at 30, is 9.2 above the last" in sentence
    (sentence,) = sentences.of_curves([checkpoint(0, [1.0]), checkpoint(90, [2.0])])
    assert "not tested: 1 and 1 networks are too few" in sentence
    assert "the last iterate is the best" in sentence


def test_the_curve_figure_marks_best_and_last():
    figure = figures.curve_figure([], curve_table(CURVE))
    marks = {
        line.get_marker(): line.get_xydata()[0].tolist()
        for line in figure.axes[0].lines
        if line.get_marker() in ("o", "*")
    }
    assert marks == {"o": [90.0, 81.0], "*": [30.0, 90.2]}
    (band,) = figure.axes[0].collections
    heights = {(x, round(y, 6)) for x, y in band.get_paths()[0].vertices}
    for row in curve_table(CURVE).itertuples():
        assert {(row.iterations, round(y, 6)) for y in (row.low, row.high)} <= heights


def on(network, method, accuracies):
    evaluate = EvalConfig(model=network).model_dump(mode="json")
    return record("", accuracies) | {"method": method, "evaluate": evaluate}


def test_transfer_has_methods_down_and_networks_across():
    records = [
        on(n, m, [float(v), v + 1.0, v + 2.0])
        for n, m, v in (
            ("convnet", "random", 20), ("convnet", "atom", 30),
            ("vit", "random", 8), ("vit", "atom", 9),
        )
    ]  # fmt: skip
    table = transfer_table(records)
    shown = readable.transfer(table)
    assert shown.method.tolist() == ["Random", "ATOM"]
    assert shown["ConvNet"].tolist() == ["21.0 ± 0.8", "31.0 ± 0.8"]
    assert shown["ViT"].tolist() == ["9.0 ± 0.8", "10.0 ± 0.8"]
    first, second = map(str, transfer_findings(records))
    assert first.startswith("ConvNet, digits (8 x 8), IPC 1: ATOM is above Random: +10.0 points")
    assert second.startswith("ViT, ") and "networks on ATOM and Random are at chance" in second
    assert "model" not in readable.provenance(records), "the columns say which network"
    assert "model of evaluation vit (default convnet)" in readable.provenance(records[2:])
    dots = figures.transfer_figure(records).axes[0].collections
    assert sorted(d.get_offsets()[:, 1].tolist() for d in dots) == sorted(
        r["accuracies"] for r in records
    )


def changes_of_both():
    records = [
        *RECORDS,
        record("code", [49.0, 51.0, 50.0]),
        record("code+norm", [59.0, 61.0, 60.0]),
    ]
    return [records[i] for i in (2, 0, 4, 1, 3)]  # in no order


def test_changes_are_ranked_by_what_they_are_worth_below_their_whole():
    table = worth_table(changes_of_both())
    assert table.variant.tolist() == ["text", "text+norm", "text+scale", "code", "code+norm"]
    assert table.worth.tolist() == pytest.approx([np.nan, -11.0, 0.0, np.nan, 10.0], nan_ok=True)
    assert table.verdict.tolist()[1:3] == ["below", "not told apart"]


def test_the_interval_of_a_worth_is_welchs():
    a, b = np.array([60.0, 61.0, 59.5]), np.array([70.0, 71.0, 72.5])
    table = worth_table(changes_of_both()).set_index("variant").loc["text+norm"]
    va, vb = a.var(ddof=1) / 3, b.var(ddof=1) / 3
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(va + vb)
    wanted = (a.mean() - b.mean() - half, a.mean() - b.mean() + half)
    assert (table.worth_low, table.worth_high) == pytest.approx(wanted)


def test_a_change_whose_whole_was_not_run_is_worth_nothing_that_is_known():
    (row,) = worth_table([record("text+norm", [60.0, 61.0, 59.5])]).itertuples()
    assert np.isnan(row.worth) and row.whole == "text"
    shown = readable_worth(worth_table([RECORDS[0], record("text+norm", [60.0])]))
    assert shown["worth, points"].tolist() == ["–", "-11.2 ?"]
    assert shown["95 % interval"].tolist() == ["–", "–"]


def test_what_is_told_apart_is_said_by_size():
    assert worth_sentences(worth_table(changes_of_both())) == [
        "digits (8 x 8), IPC 1, from text: worth: norm -11.0; not told apart: scale.",
        "digits (8 x 8), IPC 1, from code: worth: norm +10.0.",
    ]


def test_the_figure_of_worths_has_each_change_at_its_own():
    (axis,) = figures.worth_figure(worth_table(changes_of_both())).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "text+norm", "text+scale", "code+norm",
    ]  # fmt: skip
    drawn = [bars.lines[0].get_xydata().tolist() for bars in axis.containers]
    np.testing.assert_allclose(np.concatenate(drawn), [[-11, 0], [0, 1], [10, 2]], atol=1e-9)
    table = worth_table(changes_of_both()).dropna(subset="worth")
    ends = [e[:, 0] for bars in axis.containers for e in bars.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, table[["worth_low", "worth_high"]], atol=1e-9)


def test_panels_of_worths_say_that_each_has_its_own_range():
    own = "each panel its own range"
    table = worth_table(changes_of_both())
    (alone,) = figures.worth_figure(table).axes
    beside = figures.worth_figure(pd.concat([table, table.assign(ipc=10)])).axes
    said = [own in axis.get_xlabel() for axis in (alone, *beside)]
    assert said == [False, True, True]


def test_a_figure_of_no_changes_says_so():
    """As while the whole is all that was made, or is not."""
    for records in (RECORDS[:1], [record("text+norm", [60.0, 61.0, 59.5])]):
        (axis,) = figures.worth_figure(worth_table(records)).axes
        assert [text.get_text() for text in axis.texts] == ["nothing to compare yet"]


def test_the_search_figure_shows_ranks():
    whole = pd.DataFrame({"name": ["a", "b", "c"], "validation": [1, 2, 3], "test": [9, 8, 8]})
    proxy = whole.assign(validation=[50, 70, 60])
    (axis,) = figures.nas_figure({"atom": proxy, "whole": whole}).axes
    dots, star = axis.collections
    assert dots.get_offsets().tolist() == [[3.0, 1.0], [1.0, 2.5], [2.0, 2.5]]
    assert star.get_offsets().tolist() == [[1.0, 2.5]]


def search(name, correlation, low, high, seconds, accuracy):
    return {
        "proxy": name, "correlation": correlation, "low": low, "high": high, "top5": np.nan,
        "seconds": seconds, "images": 100, "chosen": "d1-w32-relu-none-max",
        "accuracy": accuracy, "best": "d4-w32-relu-none-max", "best_accuracy": 90.0,
    }  # fmt: skip


def test_the_search_is_told_in_sentences_by_correlation():
    table = pd.DataFrame(
        [
            search("random", 0.5, 0.3, 0.6, 10, 80.0),
            search("atom", 0.8, 0.7, 0.9, 12, 88.0),
            search("whole", 0.95, 0.9, 1.0, 48, 90.0),
        ]
    )
    first, second, last = sentences.of_search(table)
    assert first.startswith("ATOM: Spearman 0.80 (0.70 to 0.90)") and "in 25 % of its time" in first
    assert "88.0 %, -2.0 points" in first and second.startswith("Random")
    assert last == "The intervals of ATOM and Random do not overlap."
    shown = readable.nas(table)
    assert shown["its first 5"].tolist() == ["–"] * 3
    assert shown["trained on"].tolist() == ["Random", "ATOM", "full data"]
    table.loc[0, "high"] = 0.75
    assert sentences.of_search(table)[-1].startswith("All proxies' intervals overlap")
    table.loc[0, ["correlation", "low", "high"]] = np.nan  # its accuracies are all the same
    first, second, last = sentences.of_search(table)
    assert first.startswith("ATOM") and second.startswith("Random: no correlation with training")
    assert last.startswith("Fewer than two proxies have a correlation")
