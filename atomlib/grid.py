"""The cells of an experiment: every combination of data, IPC, method and seed, checked first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from atomlib.config import METHODS, DistillConfig, EvalConfig
from atomlib.datasets import ImageData, load_dataset
from atomlib.errors import SettingError, check_choice
from atomlib.execution import operations
from atomlib.variants import PARTS, Variant
from atomlib.whole import WHOLE_EPOCHS


@dataclass(frozen=True)
class Cell:
    """One distilled set to make and evaluate."""

    data: ImageData
    distill: DistillConfig
    evaluation: EvalConfig


@dataclass(frozen=True)
class WholeCell:
    """Networks to train on a whole training set, as the cells of its data are evaluated."""

    data: ImageData
    evaluation: EvalConfig
    zca: bool


def cells(
    datasets: Sequence[str],
    methods: Sequence[str] = METHODS,
    ipcs: Sequence[int] = (1, 10),
    seeds: Sequence[int] = (0,),
    *,
    variants: Mapping[str, Variant] | None = None,
    settings: Mapping[str, Any] | None = None,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    resize: int | None = None,
) -> list[Cell]:
    """All combinations, in the order data, IPC, method, variant, seed.

    ``settings`` change every DistillConfig, ``method_settings`` those of one method, and
    ``evaluation`` the EvalConfig; a variant (see atomlib.variants) changes both once more.
    ``resize`` is the side in pixels that images of a folder are brought to.
    Everything is resolved against its data, so that a bad setting is a SettingError before
    the first cell costs any time.
    """
    lists = {"datasets": datasets, "methods": methods, "ipcs": ipcs, "seeds": seeds}
    for name, values in lists.items():
        if not isinstance(values, list | tuple) or not values:
            raise SettingError(f"{name} is {values!r}; allowed: a list of at least one")
    settings, method_settings = settings or {}, method_settings or {}
    evaluation = evaluation or {}
    maps = {"settings": settings, "method_settings": method_settings, "evaluation": evaluation}
    if isinstance(method_settings, Mapping):
        maps |= {f"method_settings[{name!r}]": given for name, given in method_settings.items()}
    for name, values in maps.items():
        if not isinstance(values, Mapping):
            raise SettingError(f"{name} is {values!r}; allowed: settings by name")
    for method in [*methods, *method_settings]:
        check_choice("method", method, METHODS)
    variants = variants or {"": {}}
    for name, change in variants.items():
        for part in change:
            check_choice(f"part of variant {name!r}", part, PARTS)
    made = []
    loaded = [load_dataset(name, resize=resize) for name in datasets]
    for data, ipc, method, variant, seed in product(loaded, ipcs, methods, variants, seeds):
        change = variants[variant]
        changed = {**settings, **method_settings.get(method, {}), **change.get("settings", {})}
        own = {"method": method, "ipc": ipc, "seed": seed, "variant": variant}
        config = DistillConfig(**{**changed, **own})
        evaluated = EvalConfig(**{**evaluation, **change.get("evaluation", {})})
        cell = Cell(data, config.resolve(data), evaluated.resolve(data.image_size))
        operations(cell.distill, data), operations(cell.evaluation, data)  # both can be built
        made.append(cell)
    return made


def whole_cells(grid: Sequence[Cell], changes: Mapping[str, Any] | None) -> list[WholeCell]:
    """One for each data set and ZCA of ``grid``; none where ``changes`` is None.

    ``changes`` are to the evaluation settings of the grid's cells; epochs are 200 unless they
    say otherwise (WHOLE_EPOCHS). Raises SettingError for a setting that there is none of.
    """
    if changes is None:
        return []
    if not isinstance(changes, Mapping):
        raise SettingError(f"whole is {changes!r}; allowed: settings by name, or None")
    made = {}
    for cell in grid:
        evaluation = cell.evaluation.but(**{"epochs": WHOLE_EPOCHS, **changes})
        made.setdefault(
            (cell.data, cell.distill.zca), WholeCell(cell.data, evaluation, cell.distill.zca)
        )
    return list(made.values())
