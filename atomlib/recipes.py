"""Recipes: named sets of settings for distillation and evaluation, where sources disagree.

"text" is what the paper prints (supplement, Table 1): the defaults. "code" is what the official
code of the predecessor, DataDAM, does (docs/design.md): BatchNorm in distillation and evaluation,
attention to the power of 1, the loss times 100, 64 real images per class, ZCA, up to 20,000
iterations, and networks trained for 1800 epochs in batches of 64.

A recipe fills in what is not given: ``ATOM(recipe="code", iterations=1000)`` runs 1000 iterations.
It speaks of matching random networks, so of DM, DataDAM and ATOM, of the coresets' ZCA, and of
every evaluation; methods of other papers keep their own settings.

A *disagreement* is one setting in which the sources differ. What it is worth is measured by
changing it alone, from each recipe.
"""

from collections.abc import Mapping
from typing import Any

Change = Mapping[str, Mapping[str, Any]]
"""Of "settings", which are the method's, and of the "evaluation", by name."""

RECIPES: dict[str, dict[str, Any]] = {
    "text": {},
    "code": {
        "norm": "batch",
        "spatial_power": 1.0,
        "channel_power": 1.0,
        "loss_scale": 100.0,
        "real_batch": 64,
        "iterations": 20_000,
        "zca": True,
        "epochs": 1800,
        "batch_size": 64,
    },
}
"""By name: each class of settings takes those that it has."""


def _settings(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"settings": changes}


def _evaluation(**changes: Any) -> dict[str, dict[str, Any]]:
    return {"evaluation": changes}


def _both(change: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    return dict.fromkeys(RECIPES, change)


NOT_AUGMENTED: Change = _evaluation(dsa={"strategies": ()})

DISAGREEMENTS: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
    "norm": {
        "text": _settings(norm="batch") | _evaluation(norm="batch"),
        "code": _settings(norm="instance") | _evaluation(norm="instance"),
    },
    "power": {
        "text": _settings(spatial_power=1.0, channel_power=1.0),
        "code": _settings(spatial_power=4.0, channel_power=4.0),
    },
    "scale": {"text": _settings(loss_scale=100.0), "code": _settings(loss_scale=1.0)},
    "batch": {"text": _settings(real_batch=64), "code": _settings(real_batch=128)},
    "epochs": {"text": _evaluation(epochs=1800), "code": _evaluation(epochs=1000)},
    "minibatch": {"text": _evaluation(batch_size=64), "code": _evaluation(batch_size=256)},
    "schedule": _both(_evaluation(schedule="step")),
    "rescale": _both(_evaluation(rescale=True)),
    "zca": _both(_settings(zca=False)),
    "zca_from": _both(_settings(zca="unit")),
    "statistics": _both(_settings(zca="computed")),
    "start": _both(_settings(init="noise")),
    "kmeans": _both(_settings(init="kmeans")),
    "refit": {
        "text": _settings(init="rewhitened", zca=True),
        "code": _settings(init="rewhitened"),
    },
}
"""What each disagreement changes in each recipe: towards the other recipe where they differ, else
towards what the text or an official code has besides (docs/design.md, 'Where text and code
disagree'). "rescale" is in no source: it shows what the growth of the images costs."""
