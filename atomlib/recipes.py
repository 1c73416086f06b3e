"""Recipes: named sets of settings for distillation and evaluation, where sources disagree.

"text" is what the paper prints (supplement, Table 1): the defaults. "code" is what the official
code of the predecessor, DataDAM, does (docs/design.md): BatchNorm in distillation and evaluation,
attention to the power of 1, the loss times 100, 64 real images per class, ZCA, up to 20,000
iterations, and networks trained for 1800 epochs in batches of 64.

A recipe fills in what is not given: ``ATOM(recipe="code", iterations=1000)`` runs 1000 iterations.
"""

from typing import Any

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
