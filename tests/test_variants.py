"""What the ablation, the powers and the disagreements change, and nothing else."""

import pytest

from atomlib.errors import SettingError
from atomlib.methods import ATOM
from atomlib.runs.grid import DISAGREEMENTS, ablation, cells, disagreements, powers
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
    made = powers([1, 2, 8])
    pairs = {tuple(v["settings"].values()) for v in made.values()}
    assert pairs == {(float(p), float(q)) for p in (1, 2, 8) for q in (1, 2, 8)}
    assert made["ps8.pc1"]["settings"] == {"spatial_power": 8.0, "channel_power": 1.0}


def flat(variant):
    return {(part, k): v for part, changes in variant.items() for k, v in changes.items()}


@pytest.mark.parametrize("other_start", ["start", "kmeans"])
def test_a_disagreement_changes_one_thing_from_its_side(other_start):
    names = [name for name in DISAGREEMENTS if name != other_start]
    made = disagreements(names)
    assert len(made) == 2 * (1 + len(names))
    for side, other in (("text", "code"), ("code", "text")):
        base, far = flat(made[side]), flat(made[other])
        for name in names:
            changed = flat(made[f"{side}+{name}"])
            differ = {key for key in base if base[key] != changed[key]}
            wanted = {(part, k) for part, c in DISAGREEMENTS[name][0].items() for k in c}
            assert differ == wanted, name
            assert all(changed[key] == far[key] for key in differ)


def test_the_texts_side_is_the_default_but_for_the_schedule():
    text = disagreements()["text"]
    default = ATOM().model_dump() | {"zca": True}
    assert {k: default[k] for k in text["settings"]} == text["settings"]
    assert text["evaluation"]["norm"] == EvalConfig().norm


def test_cells_carry_their_variant_and_its_changes():
    grid = cells(
        ["digits"], ["atom"], [1], variants={**ablation(), **disagreements(["norm"])},
        settings={"width": 8}, evaluation={"width": 8},
    )  # fmt: skip
    by_name = {cell.method.variant: cell for cell in grid}
    assert len(by_name) == len(grid) == 7 + 4
    assert (by_name["spatial"].method.spatial, by_name["spatial"].method.output) == (True, False)
    assert by_name["code"].method.norm == by_name["code"].evaluation.norm == "batch"
    assert by_name["text"].method.norm == by_name["text"].evaluation.norm == "instance"


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


def test_two_starts_are_no_two_disagreements(complains):
    with complains("disagreement is 'kmeans'", "'start'", "allowed: one of them"):
        disagreements(["norm", "kmeans", "start"])
    assert disagreements(["kmeans"])["text+kmeans"]["settings"] == {"init": "kmeans"}


def test_unknown_disagreement_names_the_nearest():
    with pytest.raises(SettingError, match=r"disagreement is 'nrom' .did you mean 'norm'"):
        disagreements(["nrom"])
