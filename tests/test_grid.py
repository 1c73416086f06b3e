"""Networks on the whole set, one for each data set of a grid."""

from dataclasses import replace

import pytest

from atomlib.datasets import load_dataset
from atomlib.runs import grid as module
from atomlib.runs.grid import candidates, cells, full_data_cells
from atomlib.runs.store import Store
from atomlib.runs.sweep import sweep
from atomlib.runtime import bookmark


@pytest.fixture(scope="module")
def grid():
    return cells(
        ["digits"], ["random", "atom"], [1, 2], [0, 1],
        settings={"width": 8}, evaluation={"width": 8, "networks": 4},
    )  # fmt: skip


def test_one_cell_a_data_set_trained_as_its_networks_are(grid):
    (cell,) = full_data_cells(grid, {"networks": 2})
    assert cell.data is grid[0].data and cell.zca is False
    assert cell.evaluation == grid[0].evaluation.but(networks=2, epochs=200)
    (cell,) = full_data_cells(grid, {"epochs": 5})
    assert cell.evaluation.epochs == 5


def test_one_ceiling_whatever_the_methods_whiten():
    """By the data set's own ZCA where a method has it: two would share a file and a row."""

    def whole(**zcas):
        made = cells(
            ["digits"], list(zcas), settings={"width": 8}, evaluation={"width": 8},
            method_settings={name: {"zca": zca} for name, zca in zcas.items()},
        )  # fmt: skip
        return [cell.zca for cell in full_data_cells(made, {})]

    assert whole(random=True, dc=False, atom=True) == [False]
    assert whole(random=True, mtt="unit") == [True]


@pytest.mark.parametrize("given", [
    {"evaluation": {"recipe": "code"}},
    {"evaluation": {"variant": "x"}},
    {"method_settings": {"atom": {"seed": 7}}},
    {"method_settings": {"atom": {"recipe": "code"}}},
    {"variants": {"x": {"evaluation": {"variant": "y"}}}},
], ids=str)  # fmt: skip
def test_what_the_grid_gives_itself_is_refused_elsewhere(given, complains):
    with complains("is given in", "allowed: "):
        cells(["digits"], ["atom"], [1], **given)


def test_a_variant_is_not_called_as_a_recipe(complains):
    """Its files would be those of the recipe's own set."""
    with complains("'code', a recipe's name"):
        cells(["digits"], ["atom"], [1], variants={"code": {}})


@pytest.mark.parametrize("name", ["it30", "lr.1.it30"])
def test_a_variant_is_not_called_as_a_checkpoint(complains, name):
    with complains(f"{name!r}, a checkpoint's name"):
        cells(["digits"], ["atom"], [1], variants={name: {"settings": {"image_lr": 0.5}}})


@pytest.mark.parametrize("networks", [0, -1, 1.5, True])
def test_networks_of_checkpoints_are_one_or_more(complains, networks):
    with complains(f"networks is {networks}", "allowed: "):
        cells(["digits"], ["atom"], [1], checkpoint_networks=networks)


@pytest.mark.parametrize("part", ["settings", "evaluation"])
def test_names_too_long_for_files_are_refused_before_any_work(
    tmp_path, monkeypatch, complains, part
):
    """At the first bookmark of the evaluation, hours after the distillation, it was."""
    data = replace(load_dataset("digits"), name="d" * 100)
    monkeypatch.setattr(module, "load_dataset", lambda name, resize=None: data)
    monkeypatch.setattr(bookmark, "EVERY_SECONDS", 0.0)

    def named(length):
        changes = {"settings": {"image_lr": 0.5}, "evaluation": {"lr": 0.02}}
        variants = {"": {}, "v" * length: {part: changes[part]}}
        few = {"width": 4, "compile": "off"}
        return cells(
            ["digits"], ["atom"], [1], variants=variants, settings={"iterations": 1, **few},
            evaluation={"networks": 1, "epochs": 2, **few},
        )  # fmt: skip

    # digits-atom-ipc1-seed0-<variant>, or ...-by-<variant>, and ".", "-evaluation.safetensors",
    # ".0123abcd.partial".
    fits = 155 - len("-atom-ipc1-seed0-") - 3 * (part == "evaluation") - 1 - 23 - 17
    with complains("variant 'vv", "data set 'dd", "256 bytes; allowed: 255 (shorten the two by 1)"):
        named(fits + 1)
    store = Store(tmp_path, progress=False)
    assert len(sweep(store, named(fits))[0]) == 2
    with complains("variant ", "vv", "allowed: "):  # of a checkpoint
        sweep(store, named(fits), lambda cell: [0])


def test_a_small_rate_has_a_name(complains):
    tried = [{"rate_lr": [1e-6, 2.5e-5]}, {"loss_scale": [10.0, 1e6]}, {"norm": ["batch"]}]
    assert list(candidates(tried)) == [
        "", "rate_lr.0.000001", "rate_lr.0.000025", "loss_scale.10", "loss_scale.1000000",
        "norm.batch",
    ]  # fmt: skip
    with complains("layers of tried has [1, 2]", "allowed: numbers"):
        candidates([{"layers": [[1, 2]]}])


def test_none_is_none(grid):
    assert full_data_cells(grid, None) == []


def test_bad_settings_are_refused(grid, complains):
    with complains("full_data is [1]", "settings by name, or None"):
        full_data_cells(grid, [1])
    with complains("'epoch'", "did you mean 'epochs'"):
        full_data_cells(grid, {"epoch": 5})
    with complains("depth"):  # 8 x 8 pixels are too few
        full_data_cells(grid, {"depth": 9})


@pytest.mark.parametrize(("name", "values"), [
    ("datasets", ["digits", "digits"]), ("methods", ["dm", "dm"]), ("ipcs", [1, 2, 1]),
    ("seeds", [0, 0]), ("recipes", ["text", "text"]),
])  # fmt: skip
def test_what_is_asked_twice_is_refused(name, values, complains):
    asked = {"datasets": ["digits"], "methods": ["atom"], "ipcs": [1], name: values}
    with complains(f"{name} is [", "each of them once"):
        cells(**asked)


def test_no_variants_at_all_are_refused(complains):
    with complains("variants is {}", "one or more, or None"):
        cells(["digits"], ["atom"], [1], variants={})


def test_a_variant_of_a_setting_that_no_method_of_the_grid_has_is_refused(complains):
    """It would change nothing, and be tested as if it did."""
    variants = candidates([{"spatial_power": [2.0]}])
    with complains("unknown setting 'spatial_power'", "allowed: "):
        cells(["digits"], ["dm"], [1], variants=variants)
    grid = cells(["digits"], ["dm", "atom"], [1], variants=variants)
    assert [(c.method.name, c.variant) for c in grid] == [
        ("dm", ""), ("atom", ""), ("atom", "spatial_power.2"),
    ]  # fmt: skip
    assert len(cells(["digits"], ["dm"], [1], settings={"spatial_power": 2.0})) == 1
