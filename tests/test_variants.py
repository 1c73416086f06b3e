"""What the ablation, the powers and the disagreements change, and nothing else."""

from dataclasses import replace

import pytest

from atomlib.errors import SettingError
from atomlib.methods import ATOM, METHODS
from atomlib.runs import Store, sweep
from atomlib.runs.grid import (
    DISAGREEMENTS,
    ablation,
    candidates,
    cells,
    disagreements,
    own_disagreements,
    powers,
)
from atomlib.runs.status import status
from atomlib.training import EvalConfig


def test_ablation_has_every_combination_once_and_the_methods_among_them():
    made = ablation()
    switches = {
        tuple(v["settings"][t] for t in ("output", "spatial", "channel")) for v in made.values()
    }
    assert len(made) == len(switches) == 7
    assert (False, False, False) not in switches
    for name, method in (("output", "dm"), ("output+spatial", "datadam")):
        assert not made[name]["settings"]["channel"], method
    assert all(made["output+spatial+channel"]["settings"].values())


def test_the_output_term_weighs_the_same_in_every_combination():
    grid = cells(["digits"], ["atom"], [1], variants=ablation(), settings={"width": 8})
    assert {cell.method.task_balance for cell in grid} == {0.01}


def test_powers_are_every_pair():
    made = powers([1, 4, 8])
    pairs = {tuple(v["settings"].values()) for v in made.values()}
    assert pairs == {(float(p), float(q)) for p in (1, 4, 8) for q in (1, 4, 8)}
    assert made["ps8.pc1"]["settings"] == {"spatial_power": 8.0, "channel_power": 1.0}


def test_powers_without_the_default_have_nothing_to_be_held_against():
    with pytest.raises(SettingError, match=r"powers is \[1, 2\]; allowed: numbers with 4 among"):
        powers([1, 2])


def test_a_change_that_is_none_for_some_data_has_no_cell():
    def made(recipe):
        variants = disagreements(recipe, ["norm", "zca"], base="recipe")
        return [
            c.variant for c in cells(["digits"], ["atom"], [1], recipes=[recipe], variants=variants)
        ]

    # Digits are not whitened by the text, and are by the code.
    assert made("text") == ["recipe", "norm"]
    assert made("code") == ["recipe", "norm", "zca"]


def test_candidates_are_all_combinations_within_each_grid_and_the_whole():
    made = candidates([{"norm": ["batch"], "image_lr": [0.3, 3.0]}, {"epochs": [7]}])
    assert made == {
        "": {},
        "norm.batch+image_lr.0.3": {
            "settings": {"norm": "batch", "image_lr": 0.3}, "evaluation": {"norm": "batch"},
        },
        "norm.batch+image_lr.3": {
            "settings": {"norm": "batch", "image_lr": 3.0}, "evaluation": {"norm": "batch"},
        },
        "epochs.7": {"settings": {}, "evaluation": {"epochs": 7}},
    }  # fmt: skip
    grid = cells(["digits"], ["atom"], [1], variants=made, settings={"width": 8})
    assert [cell.method.variant for cell in grid] == [*[*made][:3], ""]  # no set for evaluation's
    assert [cell.variant for cell in grid] == [*made]


@pytest.mark.parametrize(
    ("tried", "complaint"),
    [
        ([{"image_lr": 3.0}], "image_lr of tried is 3.0; allowed: a list"),
        ([{"image_lr": []}], "image_lr of tried is .*; allowed: a list"),
        (["image_lr"], "tried is 'image_lr'; allowed: settings by name"),
    ],
)
def test_bad_candidates_are_refused(tried, complaint):
    with pytest.raises(SettingError, match=complaint):
        candidates(tried)


def flat(variant):
    return {(part, k): v for part, changes in variant.items() for k, v in changes.items()}


def resolved(recipe, variant):
    """All settings of a cell of a recipe, by part and name."""
    made = {"settings": ATOM, "evaluation": EvalConfig}
    return {
        (part, k): v
        for part, settings in made.items()
        for k, v in settings(**variant.get(part, {}), recipe=recipe).model_dump().items()
    }


@pytest.mark.parametrize(("recipe", "other"), [("text", "code"), ("code", "text")])
def test_a_disagreement_changes_one_thing_of_a_recipe(recipe, other):
    made = disagreements(recipe)
    assert [*made] == ["", *DISAGREEMENTS] and not made[""]
    assert [*disagreements(recipe, ["norm"], "recipe")] == ["recipe", "norm"]
    base, far = resolved(recipe, {}), resolved(other, {})
    apart = {key for key in base if base[key] != far[key]} - {
        ("settings", "recipe"), ("evaluation", "recipe"), ("settings", "iterations"),
        ("settings", "zca"),  # the text's is left to the data, which is on for CIFAR
    }  # fmt: skip
    towards = set()
    for name in DISAGREEMENTS:
        changed = resolved(recipe, made[name])
        differ = {key for key in base if base[key] != changed[key]}
        assert differ == set(flat(made[name])), name  # nothing is asked for that is so already
        if differ & apart:
            assert all(changed[key] == far[key] for key in differ), name
            towards |= differ
    assert towards == apart  # every difference of the recipes is measured


def test_cells_carry_their_variant_and_its_changes():
    grid = cells(
        ["digits"], ["atom"], [1], variants={**ablation(), **disagreements("text", ["norm"])},
        settings={"width": 8}, evaluation={"width": 8},
    )  # fmt: skip
    by_name = {cell.method.variant: cell for cell in grid}
    # All three terms are ATOM itself: nothing is changed.
    assert set(by_name) == {*ablation(), "", "norm"} - {"output+spatial+channel"}
    assert len(by_name) == len(grid)
    assert (by_name["spatial"].method.spatial, by_name["spatial"].method.output) == (True, False)
    assert by_name["norm"].method.norm == by_name["norm"].evaluation.norm == "batch"
    assert by_name[""].method.norm == by_name[""].evaluation.norm == "instance"


@pytest.mark.parametrize(
    ("variants", "complaint"),
    [
        ({"a": {"setings": {}}}, "part of variant 'a' is 'setings'.*'settings'"),
        ({"a": {"settings": {"norm": "bach"}}}, "norm is 'bach'.*'batch'"),
        ({"A/B": {}}, "variant is 'A/B'"),
    ],
)
def test_bad_variants_are_refused(variants, complaint):
    with pytest.raises(SettingError, match=complaint):
        cells(["digits"], ["atom"], [1], variants=variants)


@pytest.mark.parametrize("recipe", ["text", "code"])
def test_every_disagreement_can_be_asked_for(recipe):
    grid = cells(
        ["digits"], ["atom"], [1], recipes=[recipe], variants=disagreements(recipe),
        settings={"width": 8}, evaluation={"width": 8},
    )  # fmt: skip
    none = {"zca"} if recipe == "text" else set()  # by the text, digits are not whitened
    assert [cell.variant for cell in grid] == ["", *(d for d in DISAGREEMENTS if d not in none)]


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.disagreements])
def test_a_methods_own_disagreement_changes_what_it_names(name):
    grid = cells(["digits"], [name], [1], variants=own_disagreements(name))
    own = {k: v for k, v in METHODS[name].disagreements.items() if k != "zca"}  # off on digits
    assert [cell.variant for cell in grid] == ["", *own]
    base, *others = (
        {("settings", key): v for key, v in cell.method.model_dump().items()}
        | {("evaluation", key): v for key, v in cell.evaluation.model_dump().items()}
        for cell in grid
    )
    for change, cell in zip(own.values(), others, strict=True):
        differ = {key[1] for key in base if base[key] != cell[key]} - {"variant"}
        wanted = flat(change)
        assert differ ^ {key for _, key in wanted} <= {"zca"}  # DM's own: off, as it is on digits
        cell["evaluation", "dsa"] = {"strategies": cell["evaluation", "dsa"]["strategies"]}
        if ("settings", "real_batch") in wanted:
            wanted["settings", "real_batch"] = 140  # all that the smallest class has
        assert {key: cell[key] for key in wanted} == wanted


def test_disagreements_of_a_method_are_those_of_the_docs():
    """docs/methods.md: DM as in its own paper, CAFE's two readings, MTT's whitening."""
    plain = {"evaluation": {"dsa": {"strategies": ()}}}
    cafe = {"leak": {"settings": {"leak": True}}}
    cafe |= {"settled": {"settings": {"inner_rule": "settled"}}}
    wanted = {
        "dm": {"own": {"settings": {"iterations": 20_000, "real_batch": 256, "zca": False}}},
        "dc": {"plain": plain},
        "cafe": cafe | {"plain": plain},
        "cafe_dsa": cafe,
        "mtt": {"zca": {"settings": {"zca": False}}, "zca_from": {"settings": {"zca": True}}},
    }
    assert {name: METHODS[name].disagreements for name in wanted} == wanted


def test_a_method_without_disagreements_of_its_own_is_refused():
    with pytest.raises(
        SettingError, match=r"atom has no disagreements .*allowed: cafe, .*dc, .*mtt"
    ):
        own_disagreements("atom")


def test_what_changes_the_evaluation_only_is_measured_on_the_same_set(tmp_path, monkeypatch):
    grid = cells(
        ["digits"], ["atom"], [1], variants=disagreements("text", ["scale", "epochs", "schedule"]),
        settings={"width": 8, "iterations": 2},
        evaluation={"width": 8, "epochs": 3, "networks": 2},
    )  # fmt: skip
    assert [cell.variant for cell in grid] == ["", "scale", "epochs", "schedule"]
    assert [cell.method.variant for cell in grid] == ["", "scale", "", ""]
    shorter = {1800: 5}  # the change itself would take long
    grid = [
        replace(c, evaluation=c.evaluation.but(epochs=shorter.get(c.evaluation.epochs, 3)))
        for c in grid
    ]
    records, _ = sweep(Store(tmp_path, progress=False), grid)
    assert [r["variant"] for r in records] == ["", "scale", "epochs", "schedule"]
    names = "digits-atom-ipc1-seed0"
    assert [r["name"] for r in records] == [
        names, f"{names}-scale", f"{names}-by-epochs", f"{names}-by-schedule"
    ]  # fmt: skip
    digests = [r["set"] for r in records]
    assert digests[0] == digests[2] == digests[3] != digests[1]
    assert len(list((tmp_path / "distilled").iterdir())) == 2
    assert {line.state for line in status(tmp_path)} == {"done"}
    again, _ = sweep(Store(tmp_path, progress=False), grid)
    assert again == records  # each is read by its own name


def test_unknown_disagreement_or_recipe_names_the_nearest():
    with pytest.raises(SettingError, match=r"disagreement is 'nrom' .did you mean 'norm'"):
        disagreements("text", ["nrom"])
    with pytest.raises(SettingError, match=r"recipe is 'txt' .did you mean 'text'"):
        disagreements("txt")


def test_a_recipe_leaves_other_papers_settings_as_they_are():
    text, code = (
        cells(["digits"], ["dc", "cafe", "mtt"], [1], recipes=[recipe])
        for recipe in ("text", "code")
    )
    for mine, other in zip(text, code, strict=True):
        ours, theirs = mine.method.model_dump(), other.method.model_dump()
        assert {key for key in ours if ours[key] != theirs[key]} == {"recipe"}
        assert (mine.evaluation.epochs, other.evaluation.epochs) == (1000, 1800)
