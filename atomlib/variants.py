"""Variants: what ablation, power grid and disagreements change, by the name in their tables.

A variant is {"settings": changes of the DistillConfig, "evaluation": changes of the EvalConfig}.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

from atomlib.errors import check_choice

PARTS = ("settings", "evaluation")
Variant = Mapping[str, Mapping[str, Any]]

TERMS = ("output", "spatial", "channel")


def ablation() -> dict[str, Variant]:
    """The seven combinations of the terms of the loss, e.g. "output+spatial" (DataDAM's)."""
    return {
        "+".join(on): {"settings": {term: term in on for term in TERMS}}
        for size in (1, 2, 3)
        for on in combinations(TERMS, size)
    }


def powers(values: Sequence[float]) -> dict[str, Variant]:
    """Every pair of a spatial and a channel power, e.g. "ps4.pc2"."""
    return {
        f"ps{p:g}.pc{q:g}": {"settings": {"spatial_power": float(p), "channel_power": float(q)}}
        for p, q in product(values, repeat=2)
    }


def _settings(**changes: Any) -> Variant:
    return {"settings": changes}


# Where the paper's text and its authors' earlier code disagree (DESIGN, section 3): the text's
# side, the code's side. For "start" the code's hand-picked images are nobody else's to have,
# so noise stands at its side: how much does the start matter at all?
DISAGREEMENTS: dict[str, tuple[Variant, Variant]] = {
    "norm": tuple(
        {"settings": {"norm": norm}, "evaluation": {"norm": norm}} for norm in ("instance", "batch")
    ),
    "power": tuple(_settings(spatial_power=p, channel_power=p) for p in (4.0, 1.0)),
    "scale": (_settings(loss_scale=1.0), _settings(loss_scale=100.0)),
    "batch": (_settings(real_batch=128), _settings(real_batch=64)),
    "zca": (_settings(zca=True), _settings(zca=False)),
    "start": (_settings(init="real"), _settings(init="noise")),
    "schedule": ({"evaluation": {"schedule": "step"}}, {"evaluation": {"schedule": "halfway"}}),
}


def disagreements(names: Sequence[str] = tuple(DISAGREEMENTS)) -> dict[str, Variant]:
    """All settings as in the text, all as in the code, and from each side one changed.

    "text" and "code" are the sides; "text+norm" is the text's with the code's norm, and
    "code+norm" the code's with the text's.
    """
    for name in names:
        check_choice("disagreement", name, DISAGREEMENTS)
    made: dict[str, Variant] = {}
    for side, base in enumerate(("text", "code")):
        for changed in (None, *names):
            variant: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
            for name in names:
                chosen = DISAGREEMENTS[name][side if name != changed else 1 - side]
                for part, changes in chosen.items():
                    variant[part].update(changes)
            made[base if changed is None else f"{base}+{changed}"] = variant
    return made
