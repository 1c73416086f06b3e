"""Tables and figures: numbers as numpy has them, pixels as they are, daggers where due."""

import hashlib
import json
import re
from dataclasses import replace
from itertools import permutations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import ttest_ind, ttest_rel

from atomlib.augmentation import DSAConfig
from atomlib.distill import distill
from atomlib.distilled_set import DistilledSet
from atomlib.methods import ATOM, DM, METHODS
from atomlib.report import findings, sentences, tables
from atomlib.report.figures import (
    WIDEST,
    accuracy_figure,
    cost_figure,
    loss_figure,
    style,
    write_figure,
)
from atomlib.report.findings import compare
from atomlib.report.pictures import distilled_grid, image_grid, methods_grids
from atomlib.report.published import TABLES, published, readable_published
from atomlib.report.readable import main as readable
from atomlib.report.readable import provenance
from atomlib.report.records import changes, data_of, is_reduced, lasts, plain
from atomlib.report.tables import main_table
from atomlib.report.writing import write_table
from atomlib.runs import Store
from atomlib.training import EvalConfig
from tests.test_environment import ROOT


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def record(dataset="cifar10", method="atom", ipc=1, seed=0, accuracies=(10.0, 20.0), **settings):
    """A record of the paper's settings, but for ``settings`` of the distillation."""
    evaluation = settings.pop("evaluation", {})
    config = METHODS[method](ipc=ipc, seed=seed, **settings)
    return {
        "name": f"{dataset}-{method}-{ipc}-{seed}-{config.length}",
        "dataset": dataset,
        "method": method,
        "ipc": ipc,
        "seed": seed,
        "accuracies": list(accuracies),
        "distill": config.model_dump(mode="json"),
        "evaluate": EvalConfig(**evaluation).model_dump(mode="json"),
        "evaluation": {"hardware": "an abacus", "versions": {"torch": "9.9"}},
    }


def row(table, **wanted):
    """The one row of a table with these entries."""
    for key, value in wanted.items():
        table = table[table[key] == value]
    assert len(table) == 1
    return table.iloc[0]


# The published figures


def test_published_figures_are_accuracies_each_given_once():
    table = published()
    assert len(table) == 198
    assert not table.duplicated(["dataset", "ipc", "method"]).any()
    assert table.accuracy.between(0, 100).all()
    assert table["std"].dropna().between(0, 100).all()
    assert table.checked.dtype == bool
    assert {"dm", "datadam", "atom", "random", "herding", "kcenter"} <= set(table.method)


def test_only_atoms_nine_figures_are_recalled():
    for name in TABLES:
        table = published(name)
        assert set(table[~table.checked].get("method", [])) <= {"atom"}
        assert (~table.checked).sum() == (9 if name == "main_table" else 0)
        assert table.source.notna().all()


def test_each_source_of_a_published_figure_is_told_of_in_the_facts():
    known = (ROOT / "docs" / "facts.md").read_text()
    for name in TABLES:
        for source in {
            part.split(",")[0] for text in published(name).source for part in text.split("; ")
        }:
            assert source.removeprefix("standard deviation ") in known


DIGESTS = {
    "main_table": "f93829b96a11541836f66b549b238b0ee91728233430b937388df6598fae59f3",
    "cross_architecture": "df1f0b8a82926892af6674ac4e7c9eb08ecc6146591d3d14b32a7f85ba7da145",
    "cost": "e5c48a7a36090ef7caf0db4eb8f90db5ba783337cf91e601d9fe412c0e9c17a5",
    "nas": "19bb13897358a402236f58b424e39320804527d035c42dc0bdd49334c9db757b",
}
"""Of the CSV files, SHA-256. Each was compared with its sources: who changes one does so again."""


@pytest.mark.parametrize("name", TABLES)
def test_no_published_figure_has_slipped(name):
    text = (ROOT / "atomlib" / "report" / "published" / f"{name}.csv").read_text()
    assert hashlib.sha256(text.encode()).hexdigest() == DIGESTS[name]


def test_the_figures_that_the_facts_repeat_are_those_of_the_table():
    facts = " ".join((ROOT / "docs" / "facts.md").read_text().split())
    figures = published().set_index(["dataset", "ipc", "method"])
    whole = [figures.accuracy[d, "whole", "whole"] for d in ("cifar10", "cifar100", "tinyimagenet")]
    assert "on the full data: {}, {} and {} everywhere".format(*whole) in facts
    for method, words in (
        ("dm", "IPC 50: {} ± {} in NCFM and PAD"),
        ("dm (datadam table)", "{} ± {} on the DataDAM poster"),
        ("dsa", "IPC 50 ({} ± {}), is below its own IPC 10"),
    ):
        figure = figures.loc["tinyimagenet", "50", method]
        assert words.format(figure.accuracy, figure["std"]) in facts


@pytest.mark.parametrize(
    ("name", "method", "column", "text"),
    [
        ("cross_architecture", "DataDAM", "VGG-11", "64.8 ± 0.5"),
        ("cost", "MTT", "IPC 50, s / iteration", "out of memory"),
        ("cost", "DM", "IPC 1, GB", "3.32"),
        ("nas", "DataDAM", "Spearman, top 20 %", "0.69"),
    ],
)
def test_the_predecessors_tables_are_readable(name, method, column, text):
    table = readable_published(name)
    assert row(table, **{table.columns[0]: method})[column] == text
    assert table.columns[-1] == "source"


# The main table


def test_spread_over_networks_and_over_seeds_are_told_apart():
    table = main_table(
        [
            record(accuracies=(10.25, 20.5, 40), seed=0),
            record(accuracies=(30, 31), seed=5),
            record(accuracies=(7,), ipc=10),
        ]
    )
    cell = row(table, ipc=1)
    values = [10.25, 20.5, 40, 30, 31]
    assert cell["mean"] == pytest.approx(np.mean([np.mean(values[:3]), 30.5]))
    deviations = np.array(values) - np.repeat([np.mean(values[:3]), np.mean(values[3:])], [3, 2])
    assert cell["std"] == pytest.approx(np.sqrt(np.mean(deviations**2)), abs=0.005)
    assert cell.seed_std == pytest.approx(np.std([np.mean(values[:3]), 30.5]), abs=0.005)
    assert (cell.networks, cell.seeds) == (5, 2)
    cell = row(table, ipc=10)
    assert (cell["mean"], cell["std"], cell.networks, cell.seeds) == (7, 0, 1, 1)
    assert np.isnan(cell.seed_std)


def checkpoint(iterations, *accuracies, seed=0, full=90):
    variant = {} if iterations == full else {"variant": f"it{iterations}"}
    made = record("digits", accuracies=accuracies, seed=seed, iterations=iterations, **variant)
    return made | {"variant": made["distill"]["variant"]}


def test_best_checkpoint_and_last_iterate_are_both_given_seed_by_seed():
    records = [
        *(checkpoint(30, 50, 60), checkpoint(90, 40, 41), checkpoint(60, 30, 80)),
        *(checkpoint(30, 1, 2, seed=1), checkpoint(60, 3, 4, seed=1), checkpoint(90, 7, 8, seed=1)),
    ]
    cell = row(main_table(records), dataset="digits")
    assert cell["mean"] == pytest.approx((40.5 + 7.5) / 2)
    assert cell.best == pytest.approx((55 + 7.5) / 2)  # the earlier one where two are equal
    assert (cell.best_at, cell.checkpoints, cell.seeds, cell.networks) == ("30/90", 3, 2, 4)
    shown = row(readable(main_table(records)), method="ATOM")
    assert shown["IPC 1"] == "24.0 ± 0.5 (seeds ± 16.5)"
    assert shown["IPC 1, best of 3"] == "31.2"
    assert [r["distill"]["iterations"] for r in lasts(records)] == [90, 90]


def test_of_equal_checkpoints_the_earlier_is_the_best_whatever_their_order():
    made = [checkpoint(30, 50, 60), checkpoint(60, 30, 80), checkpoint(90, 40, 41)]
    for records in permutations(made):
        assert main_table(records).best_at[0] == "30"


def test_the_best_is_a_mean_over_seeds_as_the_mean_is():
    records = [checkpoint(30, 50, 60, 70), checkpoint(90, 40, 41, 42), checkpoint(90, 7, seed=1)]
    cell = row(main_table(records), dataset="digits")
    assert cell["mean"] == pytest.approx((41 + 7) / 2)
    assert cell.best == pytest.approx((60 + 7) / 2)
    assert cell.checkpoints == 2


def test_each_seed_counts_once_however_many_networks_it_has():
    """As their tests have it, against the published figure and against another method."""
    atom = [record(seed=0, accuracies=(30, 31, 32, 33, 34)), record(seed=1, accuracies=(36,)),
            record(seed=2, accuracies=(35, 38))]  # fmt: skip
    dm = [record(method="dm", seed=seed, accuracies=(30.0 + seed,)) for seed in range(3)]
    rival, cell = main_table([*atom, *dm]).itertuples()
    steps = np.linspace(-1, 1, 5)
    theirs = cell.published + cell.published_std * steps / steps.std()
    p = ttest_ind([32, 36, 36.5], theirs, equal_var=False).pvalue
    assert findings.against_published(cell).p == pytest.approx(p)
    (found,) = findings.findings([*atom, *dm])
    assert cell.mean - rival.mean == pytest.approx(found.gap)


def test_one_reduced_seed_makes_a_row_reduced():
    for iterations in ((8000, 400), (400, 8000)):
        table = main_table(record(seed=s, iterations=n) for s, n in enumerate(iterations))
        assert row(table, method="atom").reduced


def test_each_row_leads_back_to_its_runs():
    records = [record(seed=1), record(), record(iterations=90), record(method="dm")]
    table = main_table(records)
    assert row(table, method="dm").runs == "cifar10-dm-1-0-8000"
    assert row(table, method="atom").runs.split() == [
        "cifar10-atom-1-1-8000", "cifar10-atom-1-0-90", "cifar10-atom-1-0-8000",
    ]  # fmt: skip


def whole(dataset="digits", accuracies=(90.0, 92.0), **evaluation):
    config = EvalConfig(**{"epochs": 200} | evaluation)
    about = {"dataset": dataset, "method": "whole", "ipc": "whole", "seed": 0, "variant": ""}
    return record() | about | {
        "accuracies": list(accuracies), "distill": {"zca": False},
        "evaluate": config.model_dump(mode="json"),
    }  # fmt: skip


def test_the_whole_data_set_is_the_last_row_and_the_ceiling_of_every_ipc():
    records = [whole("cifar10"), record(ipc=10), record(), whole(), record("digits")]
    table = main_table(records)
    assert table.ipc.tolist() == [1, 10, "whole", 1, "whole"]
    assert row(table, dataset="cifar10", ipc="whole").published == 84.8
    shown = row(readable(table), data="CIFAR-10", method="full data")
    assert shown["IPC 1"] == shown["IPC 10"] == "91.0 ± 1.0"
    assert findings.findings(records) == []  # ATOM has no rival here


def test_the_note_tells_the_settings_of_the_whole_data_set_apart():
    note = provenance([record(evaluation={"epochs": 500}), whole(epochs=10, width=64)])
    assert "Reduced: epochs 500 (default 1000)." in note
    assert "Full data: reduced: width 64 (default 128); epochs 10 (default 200)." in note
    assert is_reduced(whole(epochs=10)) and not is_reduced(whole())


def test_the_note_gives_the_default_of_each_recipe():
    note = provenance(
        [record(iterations=1000, recipe=recipe, evaluation={"recipe": recipe})
         for recipe in ("text", "code")]
    )  # fmt: skip
    assert "Reduced: iterations 1000 (default 8000 or 20000)." in note


def test_the_note_gives_what_each_method_ran_at_and_its_own_default():
    note = provenance(
        [
            record(method="dc", iterations=25, real_batch=64),
            record(method="dm", iterations=200, real_batch=64),
            record(method="atom", iterations=200, real_batch=64),
            record(method="random"),
        ]
    )
    assert "iterations 25 for DC (default 1000)" in note
    assert "iterations 200 for DM and ATOM (default 8000)" in note
    assert "real batch 64 for DC (default 256); real batch 64 for DM and ATOM (default 128)" in note


def test_one_seed_is_compared_over_networks_and_several_over_seeds():
    def records(method, *means):
        return [
            record("digits", method, seed=s, accuracies=(m - 1, m, m + 1))
            for s, m in enumerate(means)
        ]

    (one,) = findings.findings([*records("atom", 50), *records("dm", 40)])
    assert "Welch's t-test over 3 and 3 networks of one seed" in str(one)
    (three,) = findings.findings([*records("atom", 50, 61, 72), *records("dm", 40, 50, 60)])
    p = ttest_rel([50, 61, 72], [40, 50, 60]).pvalue
    assert str(three) == (
        f"digits (8 x 8), IPC 1: ATOM is above DM: +11.0 points (paired t-test over 3 "
        f"distillation seeds, p = {p:.2g})."
    )
    (unsure,) = findings.findings([*records("atom", 50, 40, 60), *records("dm", 49, 44, 50)])
    assert "ATOM is not told apart from DM" in str(unsure)
    (two,) = findings.findings([*records("atom", 50, 61), *records("dm", 40, 50)])
    assert str(two).endswith("not tested: 2 distillation seeds are too few.")
    for lead in (2, 0):
        found = [*records("atom", 52, 53, 55), *records("dm", 52 - lead, 53 - lead, 55 - lead)]
        (constant,) = findings.findings(found)
        assert constant.gap == lead
        assert str(constant).endswith("not tested: the same at each of 3 distillation seeds.")


def test_what_is_at_chance_at_another_seed_is_no_matter():
    def records(method, *accuracies):
        return [record(method=method, seed=s, accuracies=(a,)) for s, a in enumerate(accuracies)]

    dm = records("dm", 30, 31, 35)
    (three,) = findings.findings([*records("atom", 50, 52, 54), *dm])
    assert three.verdict.word == "above"
    assert findings.findings([*records("atom", 50, 52, 54, 10), *dm]) == [three]
    (collapsed,) = findings.findings([*records("atom", 50, 52, 10), *dm])
    assert collapsed.how == "some networks are at chance"


def test_a_mean_of_one_network_shows_no_spread():
    shown = row(readable(main_table([record(accuracies=(73.6,))])), method="ATOM")
    assert shown["IPC 1"] == "73.6 (one network)"


@pytest.mark.parametrize("dataset", ["cifar10", "cifar10-jpeg"])
@pytest.mark.parametrize(("ipc", "method"), [(1, "atom"), (10, "datadam"), (50, "dm")])
def test_the_published_figure_stands_beside_ours(dataset, ipc, method):
    known = row(published(), dataset="cifar10", ipc=str(ipc), method=method)
    cell = row(main_table([record(dataset, method, ipc, accuracies=(30, 31))]), dataset=dataset)
    assert cell.published == known.accuracy
    assert cell.published_std == known["std"]
    assert cell.source == known.source
    assert cell.checked == known.checked
    assert cell.difference == pytest.approx(30.5 - known.accuracy)


@pytest.mark.parametrize(("dataset", "ipc"), [("digits", 1), ("cifar10", 7), ("mine", 10)])
def test_nothing_stands_where_nothing_was_published(dataset, ipc):
    cell = row(main_table([record(dataset, ipc=ipc)]), dataset=dataset)
    assert cell["mean"] == 15
    assert cell[["published", "published_std", "difference", "source"]].isna().all()


def test_rows_go_by_dataset_ipc_and_the_order_of_methods():
    keys = [
        (dataset, ipc, method)
        for dataset in ("cifar10", "digits")
        for ipc in (1, 2, 10)
        for method in ("random", "dm", "datadam", "atom")
    ]
    table = main_table(record(d, m, ipc) for d, ipc, m in reversed(keys))
    assert list(table[["dataset", "ipc", "method"]].itertuples(index=False, name=None)) == keys


@pytest.fixture
def made_up_figures(monkeypatch):
    """One published figure that was checked, one that was not, one without a spread."""
    table = pd.DataFrame(
        [
            ("digits", "1", "random", 11.1, 0.5, "a page", True, ""),
            ("digits", "1", "dm", 22.2, 0.5, "a page", False, ""),
            ("digits", "1", "datadam", 33.3, np.nan, "a page", True, "doubtful: a slip"),
        ],
        columns=["dataset", "ipc", "method", "accuracy", "std", "source", "checked", "note"],
    )
    monkeypatch.setattr(tables, "published", lambda: table)


def test_a_dagger_is_on_exactly_the_unchecked_figures_and_another_on_the_doubtful(made_up_figures):
    methods = ("random", "dm", "datadam", "atom")
    table = readable(main_table(record("digits", method) for method in methods))
    assert table["IPC 1, published"].tolist() == ["11.1 ± 0.5", "22.2 ± 0.5†", "33.3‡", "–"]
    assert table["IPC 1"].tolist() == ["15.0 ± 5.0"] * 4
    assert table["method"].tolist() == ["Random", "DM", "DataDAM", "ATOM"]


def test_a_cell_that_was_not_measured_is_a_dash():
    table = readable(main_table([record(ipc=1), record(ipc=10), record(method="dm", ipc=1)]))
    assert row(table, method="DM")["IPC 10"] == "–"
    assert row(table, method="ATOM")["IPC 10"] == "15.0 ± 5.0"


def test_the_csv_has_its_columns_and_is_read_back_equal(tmp_path):
    table = main_table([record(), record("digits", "dm", 10), record("cifar10-jpeg", "random")])
    written = write_table(table, tmp_path / "report", "main_table", "The note.")
    assert [path.name for path in written] == ["main_table.csv", "main_table.md", "main_table.tex"]
    found = pd.read_csv(written[0], dtype={"best_at": str})
    wanted = {"dataset", "method", "ipc", "mean", "std", "networks", "published"}
    assert wanted <= set(found.columns)
    pd.testing.assert_frame_equal(found, table, check_dtype=False)


def test_the_markdown_holds_the_readable_table_and_the_note(tmp_path):
    table = main_table([record(method="dm"), record("digits", "dm", 10)])
    write_table(table, tmp_path, "main_table", "The note.")
    text = (tmp_path / "main_table.md").read_text()
    assert text.endswith(f"\n\nThe note. {findings.HOW}\n")
    lines = [line.split("|")[1:-1] for line in text.splitlines() if "|" in line]
    cells = [[cell.strip() for cell in line] for line in lines]
    expected = readable(table)
    assert cells[0] == list(expected.columns)
    assert cells[2:] == expected.to_numpy().tolist()


@pytest.mark.parametrize(
    ("accuracies", "text"),
    [
        ((33.0, 33.1, 32.9), "-1.8 ▼"),
        ((37.0, 37.1, 36.9), "+2.2 ▲"),
        ((34.6, 35.1, 34.1), "-0.2 ≈"),
        ((34.6, 35.0), "+0.0 ?"),
    ],
)
def test_each_cell_says_how_it_stands_to_its_published_figure(accuracies, text):
    shown = row(readable(main_table([record(accuracies=accuracies)])), method="ATOM")
    assert shown["IPC 1, published"] == "34.8 ± 1.0†"
    assert shown["IPC 1, difference"] == text


def test_the_latex_is_the_same_table_in_latex(tmp_path):
    table = main_table([record(), record("my_data", "dm", 10)])
    write_table(table, tmp_path, "main_table", "The note.")
    text = (tmp_path / "main_table.tex").read_text()
    assert text.isascii()
    rows = [line.removesuffix("\\\\").split("&") for line in text.splitlines() if "&" in line]
    rows = [[cell.strip() for cell in row] for row in rows]
    expected = readable(table)
    assert rows[0] == list(expected.columns)
    signs = {"±": r"$\pm$", "†": r"\textsuperscript{\dag}", "–": "--", "_": r"\_"}
    signs |= {"▲": r"$\bigtriangleup$", "▼": r"$\bigtriangledown$", "≈": r"$\approx$"}
    cells = [[str(cell) for cell in row] for row in expected.to_numpy()]
    for sign, command in signs.items():
        cells = [[cell.replace(sign, command) for cell in row] for row in cells]
    assert rows[1:] == cells


def test_clipped_pixels_are_counted_by_definition(make_data):
    made = distill(make_data(size=2, channels=1, counts=(1,)), METHODS["random"](), progress=False)
    pixels = torch.tensor([0, 1, 0.5, 0.5]).view(1, 1, 2, 2)
    (cell,) = tables.clipping_table([replace(made, images=pixels)]).to_dict("records")
    deviation = round((2 * 0.5**2 / 3) ** 0.5, 3)  # over n - 1
    assert cell == {
        "images": 1, "pixels at 0 or 1, %": 50.0, "mean": 0.5, "standard deviation": deviation,
    }  # fmt: skip


def test_a_table_that_cannot_be_written_is_a_complaint(tmp_path, complains):
    (tmp_path / "report").write_text("a file")
    with complains("main_table.csv", "could not be written"):
        write_table(main_table([record()]), tmp_path / "report", "main_table", "")


# What is said about the settings


def test_the_papers_settings_are_no_change():
    for method in ("random", "dm", "datadam", "atom"):
        assert changes(record(method=method)) == {}
        assert not is_reduced(record(method=method))


@pytest.mark.parametrize(
    ("settings", "change", "reduced"),
    [
        ({"iterations": 300}, {"iterations": (300, 8000)}, True),
        ({"iterations": 20_000}, {"iterations": (20_000, 8000)}, False),
        ({"loss_scale": 100.0}, {"loss_scale": (100.0, 1.0)}, False),
        ({"dsa": DSAConfig(flip=0)}, {"dsa flip": (0, 0.5)}, False),
        ({"evaluation": {"networks": 3}}, {"networks": (3, 5)}, True),
        ({"evaluation": {"epochs": 100}}, {"epochs": (100, 1000)}, True),
        ({"evaluation": {"model": "vit"}}, {"model of evaluation": ("vit", "convnet")}, False),
        ({"evaluation": {"precision": "bfloat16", "compile": "on", "together": 2}}, {}, False),
        (
            {"zca": False, "depth": 2, "image_lr": 5.0},
            {"zca": (False, True), "depth": (2, 3), "image_lr": (5.0, 1.0)},
            False,
        ),
    ],
    ids=str,
)
def test_a_change_is_told_and_a_smaller_size_is_called_reduced(settings, change, reduced):
    made = record(**settings)
    assert changes(made) == change
    assert is_reduced(made) is reduced
    assert row(main_table([made]), ipc=1).reduced == reduced
    assert readable(main_table([made]))["data"][0].endswith("reduced") is reduced
    text = provenance([made])
    assert ("Reduced:" in text) is reduced
    for key, (ours, papers) in change.items():
        assert f"{key.replace('_', ' ')} {plain(ours)} (default {plain(papers)})" in text


def test_a_default_that_depends_on_ipc_or_data_is_that_of_the_record():
    def changed(dataset="cifar10", data=None, **settings):
        return changes(record(dataset, "mtt", **settings) | {"data": data})

    published = {"student_steps": 30, "image_lr": 100.0, "zca": "unit"}  # docs/facts.md, "MTT"
    assert changed(ipc=10, **published) == {}
    assert changed(ipc=1, **published) == {"student_steps": (30, 50)}
    assert changed("digits", ipc=1, student_steps=10)["student_steps"] == (10, 50)
    assert changed("digits", zca="unit")["zca"] == ("unit", False)
    assert changed("a folder", "f" * 64, zca="unit", student_steps=10) == {}  # not known


@pytest.mark.parametrize(("distilled", "evaluated", "change", "reduced"), [
    (16, 256, {"width": (16, 128), "width of evaluation": (256, 128)}, True),
    (128, 64, {"width of evaluation": (64, 128)}, True),
    (64, 64, {"width": (64, 128)}, True),
    (256, 256, {"width": (256, 128)}, False),
])  # fmt: skip
def test_a_setting_of_both_parts_is_told_of_each(distilled, evaluated, change, reduced):
    made = record(width=distilled, evaluation={"width": evaluated})
    assert changes(made) == change and is_reduced(made) is reduced


def test_a_record_tells_what_its_data_bring(make_data, tmp_path):
    """As TinyImageNet, which no fingerprint tells: it is known by its archive."""
    toy = make_data("tinyimagenet", counts=(6, 5, 6))
    data = replace(toy, label="TinyImageNet", note="Blurred.", published_as="tinyimagenet")
    store = Store(tmp_path, progress=False)
    small = {"networks": 1, "epochs": 1, "width": 4, "depth": 2}
    made = store.distilled(data, METHODS["random"](ipc=1))
    ours = store.accuracies(made, data, EvalConfig(**small))
    whole = store.full_data(data, EvalConfig(**small), zca=False)
    for found in (ours, whole):
        told = data_of(json.loads(json.dumps(found)))
        assert (told.label, told.note, told.published_as) == (
            "TinyImageNet", "Blurred.", "tinyimagenet",
        )  # fmt: skip
        assert (told.shape, told.classes, told.smallest_class) == ((17, 6, 3, 8), 3, 5)
    table = main_table([ours])
    theirs = row(published(), dataset="tinyimagenet", method="random", ipc="1")
    assert table.published[0] == theirs.accuracy
    assert "Blurred." in provenance([ours])
    assert findings.at_chance(ours | {"accuracies": [34.0]})
    dm = METHODS["dm"](ipc=1).resolve(data)  # a real batch is no larger than the smallest class
    assert "real_batch" not in changes({**ours, "method": "dm", "distill": dm.recorded()})


def test_the_note_names_data_hardware_and_versions():
    text = provenance([record(), record("cifar10-jpeg")])
    for part in ("CIFAR-10 (JPEG)", "re-encoded", "an abacus", "torch 9.9"):
        assert part in text
    assert "re-encoded" not in provenance([record()])


def test_the_note_names_every_machine_and_every_version():
    def made(hardware, version):
        return {"hardware": hardware, "versions": {"torch": version}}

    here = record() | {"distillation": made("a slide rule", "9.9")}
    assert "Made on a slide rule and on an abacus with torch 9.9." in provenance(
        [here, record(seed=1)]
    )
    later = record(seed=2) | {"evaluation": made("a loom", "10.0")}
    text = provenance([here, later, record(seed=1)])
    assert (
        "Made on a slide rule and on an abacus with torch 9.9; on a loom with torch 10.0." in text
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ((50, 51, 52), (30, 31, 32), "ATOM is above DM: +20.0 points"),
        ((30, 31, 32), (50, 51, 52), "ATOM is below DM: -20.0 points"),
        ((30, 40, 50), (31, 41, 51), "ATOM is not told apart from DM: -1.0 points"),
    ],
)
def test_a_comparison_says_what_welchs_test_says(ours, theirs, verdict):
    sentence = str(compare(record(accuracies=ours), record(method="dm", accuracies=theirs)))
    assert sentence.startswith(verdict)
    assert f"p = {ttest_ind(ours, theirs, equal_var=False).pvalue:.2g}" in sentence


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_networks_are_not_tested(count):
    ours, theirs = (50.0, 51.0, 52.0), (30.0, 31.0)[:count]
    found = compare(record(accuracies=ours), record(method="dm", accuracies=theirs))
    gap = np.mean(ours) - np.mean(theirs)
    assert str(found) == (
        f"ATOM and DM are {gap:+.1f} points apart; not tested: 3 and {count} networks are too few."
    )


@pytest.mark.parametrize(("dataset", "least", "tested"), [
    ("cifar10", 10.8, False), ("cifar10", 11.0, True),  # three standard errors of 10,000 images
    ("digits", 14.5, False), ("digits", 15.0, True),  # and of 355
    ("of my own", 1.0, True),  # of how many classes, nobody knows
])  # fmt: skip
def test_a_network_at_chance_is_not_tested(dataset, least, tested):
    ours = record(dataset, accuracies=(83.0, 82.0, 84.0))
    theirs = record(dataset, method="dm", accuracies=(60.0, least, 61.0))
    sentence = str(compare(ours, theirs))
    assert ("p =" in sentence) == tested
    assert sentence.endswith("not tested: networks on DM are at chance.") != tested


def test_only_records_of_one_seed_are_compared_over_their_networks():
    """Whatever their order: where a run is not whole yet, methods may lack each other's seeds."""
    atom = [record(seed=s, accuracies=(m - 1, m, m + 1)) for s, m in ((0, 40), (1, 30))]
    dm = record(method="dm", seed=1, accuracies=(34, 35, 36))
    for ours in (atom, atom[::-1]):
        (found,) = findings.findings([*ours, dm])
        assert str(found) == str(compare(atom[1], dm, "CIFAR-10, IPC 1"))
    (found,) = findings.findings([atom[0], dm])
    assert str(found) == (
        "CIFAR-10, IPC 1: ATOM and DM are +5.0 points apart; not tested: they have no "
        "distillation seed in common."
    )


def test_a_curve_of_one_point_brings_nothing_to_tell():
    assert sentences.of_curves([record(method="random")]) == []


def test_tests_are_rows_of_a_table():
    def of(method, *values):
        return record(method=method, accuracies=values)

    found = findings.findings([of("atom", 50, 51, 52), of("dm", 40, 41, 42), of("random", 9, 9, 9)])
    random, dm = findings.as_table(found).to_dict("records")
    assert random["verdict"] == "? not tested" and random["p"] == "–"
    assert random["test"] == "networks on Random are at chance"
    p = ttest_ind([50, 51, 52], [40, 41, 42], equal_var=False).pvalue
    assert dm == {
        "where": "CIFAR-10, IPC 1", "measured": "ATOM", "against": "DM", "points": "+10.0",
        "verdict": "▲ above", "p": f"{p:.2g}",
        "test": "Welch's t-test over 3 and 3 networks of one seed",
    }  # fmt: skip
    (beside,) = findings.beside_random(
        [of("atom", 50, 51, 52), of("dm", 30, 31, 32), of("random", 20, 21, 22)]
    )
    p = ttest_ind([30, 31, 32], [20, 21, 22], equal_var=False).pvalue
    assert str(beside).startswith("CIFAR-10, IPC 1: DM is above Random: +10.0 points")
    assert beside.verdict.p == pytest.approx(p)
    assert findings.beside_random([of("dm", 30, 31, 32)]) == []
    said = "Of 2 comparisons ATOM is above in 1, below in 0, not told apart in 0, not tested in 1; "
    assert findings.in_words(found).startswith(said)
    assert findings.in_words([]) == ""


def test_published_figures_are_tested_for_several_numbers_of_their_networks():
    values = [33.0, 34.0, 35.0]
    table = main_table([record(method="atom", accuracies=values), record("digits", "dm")])
    (row,) = findings.beside_published(table).to_dict("records")
    assert (row["where"], row["method"], row["measured"]) == ("CIFAR-10, IPC 1", "ATOM", "34.0")
    assert (row["published"], row["points"]) == ("34.8 ± 1.0†", "-0.8")
    for n in (5, 10, 20):
        # So many networks whose mean and population spread are the published ones.
        steps = np.linspace(-1, 1, n)
        theirs = 34.8 + steps / steps.std()
        p = ttest_ind(values, theirs, equal_var=False).pvalue
        assert row[f"p, of {n} networks"] == f"{p:.2g}"
    none = findings.beside_published(main_table([record("digits", "dm")]))
    assert none.to_dict("records") == [{"measured": "no figure is published for these data"}]


def test_pairs_of_powers_are_averaged_by_which_is_the_higher():
    grid = {(1, 1): 50, (1, 4): 60, (4, 1): 40, (4, 4): 52}
    records = [
        record("digits", accuracies=[value - 1, value + 1]) | {"variant": f"ps{p}.pc{q}"}
        for (p, q), value in grid.items()
    ]
    assert sentences.of_powers(tables.variant_table(records)) == [
        "digits (8 x 8), IPC 1: the highest is ps1.pc4, 60.0; on average 60.0 with the higher "
        "channel power (1 of 4 pairs), 40.0 with the higher spatial power (1 of 4 pairs), 51.0 "
        "with equal powers (2 of 4 pairs)."
    ]


# Figures


def canvas(figure):
    return figure.axes[0].images[0].get_array()


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_draws_pixels_unscaled_row_by_row(channels):
    # Values from 0.2 to 0.7: stretching them to the whole range would show.
    images = 0.2 + 0.5 * torch.rand(6, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    figure = image_grid(images, ["ant", "bee", "cat"], 2)
    drawn = np.asarray(canvas(figure)).reshape(8 * 3 + 2, 8 * 2 + 1, channels)
    for index, image in enumerate(images):
        top, left = 9 * (index // 2), 9 * (index % 2)
        np.testing.assert_allclose(drawn[top : top + 8, left : left + 8], image.permute(1, 2, 0))
    artist = figure.axes[0].images[0]
    assert (artist.norm.vmin, artist.norm.vmax) == (0, 1)
    assert artist.get_interpolation() == "nearest"
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ant", "bee", "cat"]


def test_one_image_per_class_is_laid_across_under_its_name():
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    names = [f"class {number}" for number in range(12)]
    figure = image_grid(images, names, 1)
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in shown] == names
    for axis, image in zip(shown, images, strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), image.permute(1, 2, 0))
    wide, high = figure.get_size_inches()
    assert wide > 3 * high


def test_distilled_grid_shows_the_first_images_of_each_class(make_data):
    data = make_data()
    images = torch.rand(9, 3, 8, 8)
    made = DistilledSet(
        images, images + 5, torch.arange(3).repeat_interleave(3),
        ATOM(ipc=3).resolve(data), "toy", data.fingerprint, data.class_names, {},
    )  # fmt: skip
    shown = canvas(distilled_grid(made, columns=2, classes=2))
    expected = canvas(image_grid(images[[0, 1, 3, 4]], ["ant", "bee"], 2))
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("given", [{"columns": 0}, {"classes": 0}, {"columns": True}])
def test_a_picture_of_nothing_is_refused(make_data, complains, given):
    made = distill(make_data(), METHODS["random"](ipc=1), progress=False)
    with complains(f"{next(iter(given))} is", "1 or more"):
        distilled_grid(made, **given)


def test_methods_stand_beside_each_other_one_row_each_with_their_first_images(make_data):
    data = make_data()

    def made(method):
        images = torch.rand(6, 3, 8, 8)
        return DistilledSet(
            images, images, torch.arange(3).repeat_interleave(2),
            method.resolve(data), "toy", data.fingerprint, data.class_names, {},
        )  # fmt: skip

    dm, code = made(DM(ipc=2)), made(ATOM(ipc=2, recipe="code"))
    alone = replace(made(DM(ipc=2)), data_name="other")
    (name, figure), *others = methods_grids([dm, code, alone]).items()
    assert name == "toy-ipc2" and not others
    expected = image_grid(torch.cat([dm.images[::2], code.images[::2]]), ["a", "b"], 3)
    np.testing.assert_array_equal(canvas(figure), canvas(expected))
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["DM", "ATOM, by the code"]
    assert [text.get_text() for text in axis.get_xticklabels()] == [*data.class_names]
    # Each name stands below the middle of its image: 8 pixels, and one between.
    assert axis.get_xticks().tolist() == [4, 13, 22]


def test_the_same_figure_is_the_same_bytes_twice_as_pixels_and_as_vectors(tmp_path):
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def write(folder):
        return write_figure(image_grid(images, ["ant", "bee"], 2, title="x"), folder, "grid")

    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    assert first == tmp_path / "a" / "figures" / "grid.png"
    with Image.open(first) as picture:
        assert picture.format == "PNG"
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        content = first.with_suffix(f".{kind}").read_bytes()
        assert content.startswith(start)
        assert content == second.with_suffix(f".{kind}").read_bytes()
        assert b"CreationDate" not in content and b"<dc:date>" not in content


def test_published_means_stand_with_their_spread_and_panels_share_an_axis():
    records = [record(ipc=ipc, accuracies=(30, 31, 32)) for ipc in (1, 10)]
    table = main_table(records)
    for axis, cell in zip(accuracy_figure(records, table).axes, table.itertuples(), strict=True):
        (bar,) = axis.containers
        (ends,) = bar.lines[2][0].get_segments()
        low, high = cell.published - cell.published_std, cell.published + cell.published_std
        np.testing.assert_allclose(ends[:, 0], [low, high])
        assert axis.get_xlim() == accuracy_figure(records, table).axes[0].get_xlim()
        published = min(line.get_zorder() for line in (*axis.lines[:1], *bar.lines[2]))
        assert published > max(dots.get_zorder() for dots in axis.collections[:1])  # not hidden


def test_a_method_has_one_line_in_all_panels():
    """Also one that a panel has no network of: DQ at IPC 1 here."""
    records = [record(method="random"), record(method="atom"), record(method="random", ipc=10)]
    records += [record(method="dq", ipc=10), record(method="atom", ipc=10)]
    first, second = accuracy_figure(records, main_table(records)).axes
    names = [tick.get_text() for tick in first.get_yticklabels()]
    assert names == ["Random", "DQ (samples)", "ATOM"]
    lines = [
        sorted({round(y) for dots in axis.collections for y in dots.get_offsets()[:, 1]})
        for axis in (first, second)
    ]
    assert lines == [[0, 2], [0, 1, 2]]


def test_both_recipes_stand_side_by_side():  # the first above the second: y goes down
    text = record(accuracies=(30, 31, 32))
    code = record(accuracies=(40, 41, 42), recipe="code", evaluation={"recipe": "code"})
    (axis,) = accuracy_figure([text, code], main_table([text, code])).axes
    found = [dots for dots in axis.collections if len(dots.get_offsets()) == 3]
    places = {tuple(dots.get_offsets()[:, 0]): dots for dots in found}
    first, second = places[30, 31, 32], places[40, 41, 42]
    assert first.get_offsets()[:, 1].max() < second.get_offsets()[:, 1].min()
    assert axis.yaxis_inverted()
    assert len(second.get_facecolor()) == 0 < len(first.get_facecolor())


def test_the_legend_of_accuracies_hides_no_dot():
    records = [record(method=method, ipc=ipc) for method in ("random", "atom") for ipc in (1, 10)]
    records.append(record(recipe="code", evaluation={"recipe": "code"}))
    with plt.rc_context():
        style()
        figure = accuracy_figure(records, main_table(records))
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.texts) == 3
    covered = legend.get_window_extent()
    assert not any(covered.overlaps(axis.get_tightbbox()) for axis in figure.axes)


def learned(data, method, ipc, losses, **settings):
    images = torch.rand(3 * ipc, 3, 8, 8)
    made = METHODS[method](ipc=ipc, **settings).resolve(data)
    return DistilledSet(
        images, images, torch.arange(3).repeat_interleave(ipc), made, "toy", data.fingerprint,
        data.class_names, {}, history=list(enumerate(losses)),
    )  # fmt: skip


def test_losses_of_other_terms_or_scale_are_in_panels_of_their_own(make_data):
    data = make_data()
    sets = [
        learned(data, "atom", 1, [22.0, 14.0]), learned(data, "atom", 2, [20.0, 13.0]),
        learned(data, "dm", 1, [900.0, 6.0]), learned(data, "atom", 1, [2200.0], recipe="code"),
    ]  # fmt: skip
    figure = loss_figure(sets)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["ATOM", "DM", "ATOM, by the code"]
    assert [len(axis.lines) for axis in figure.axes] == [2, 1, 1]
    figure.canvas.draw()
    ticks = [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes]
    assert {"14", "22"} <= set(ticks[0]) and {"10", "100"} <= set(ticks[1])
    assert figure.axes[1].get_yscale() == "log" and figure.axes[0].get_yscale() == "linear"
    assert loss_figure([]).axes[0].get_title() == ""


def test_losses_of_several_seeds_are_faint_below_their_mean(make_data):
    data = make_data()
    rows = [9.0, 4.0], [5.0, 2.0]
    sets = [learned(data, "atom", 1, row, seed=seed) for seed, row in enumerate(rows)]
    figure = loss_figure([*sets, learned(data, "atom", 2, [3.0, 1.0])])
    (axis,) = figure.axes
    *seeds, mean, alone = axis.lines
    assert [list(line.get_ydata()) for line in seeds] == [*map(list, rows)]
    assert list(mean.get_ydata()) == [7.0, 3.0] and list(alone.get_ydata()) == [3.0, 1.0]
    assert {line.get_alpha() for line in seeds} == {0.25} and mean.get_alpha() is None
    (legend,) = figure.legends  # of every IPC, whichever panel has it
    assert [text.get_text() for text in legend.get_texts()] == ["IPC 1", "IPC 2"]

    cut = loss_figure([sets[0], learned(data, "atom", 1, [5.0], seed=1)])
    assert [len(line.get_ydata()) for line in cut.axes[0].lines] == [2, 1]  # no mean of unequals


def test_the_bars_of_a_cost_are_the_fastest_and_the_slowest_step():
    row = {"ipc": 1, "step_s": 0.5, "step_low_s": 0.4, "step_high_s": 0.9, "bound_s": 0.1}
    row |= {"recipe": "text", "step_peak_mb": 2000.0}
    table = pd.DataFrame([row | {"method": m} for m in ("dm", "atom")])
    left, right = cost_figure(table).axes
    bars = [c for c in left.containers if hasattr(c, "has_yerr")]
    assert len(bars) == 2
    for bar in bars:
        np.testing.assert_allclose(bar.lines[2][0].get_segments()[0][:, 1], [0.4, 0.9])
    assert [patch.get_height() for patch in right.patches] == [2.0, 2.0]


def test_text_in_an_svg_is_text(tmp_path):
    path = write_figure(image_grid(torch.rand(2, 3, 8, 8), ["ant", "bee"], 1), tmp_path, "grid")
    assert re.search(r"<text[^>]*>ant</text>", path.with_suffix(".svg").read_text())


@pytest.mark.parametrize("ipcs", [1, 2, 3, 5])
def test_a_figure_of_many_panels_fits_a_page(ipcs):
    records = [record(ipc=ipc) for ipc in range(1, ipcs + 1)]
    figure = accuracy_figure(records, main_table(records))
    assert len(figure.axes) == ipcs
    assert figure.get_size_inches()[0] <= WIDEST
