"""The cells of an experiment: every combination of data, IPC, method and seed, checked first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from atomlib.config import METHODS, DistillConfig, EvalConfig
from atomlib.datasets import ImageData, load_dataset
from atomlib.errors import SettingError, check_choice, shown
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
            raise SettingError(f"{name} is {shown(values)}; allowed: a list of at least one")
    maps = {"settings": settings, "method_settings": method_settings, "evaluation": evaluation}
    maps["variants"] = variants
    for name, values in maps.items():
        maps[name] = {} if values is None else values
        _check_names(name, maps[name])
    settings, method_settings, evaluation, variants = maps.values()
    variants = variants or {"": {}}
    for outer, nested in (("method_settings", method_settings), ("variants", variants)):
        for name, values in nested.items():
            _check_names(f"{outer}[{shown(name)}]", values)
    for method in [*methods, *method_settings]:
        check_choice("method", method, METHODS)
    for name, change in variants.items():
        for part, values in change.items():
            check_choice(f"part of variant {shown(name)}", part, PARTS)
            _check_names(f"{part} of variant {shown(name)}", values)
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


def _check_names(name: str, values: object) -> None:
    """Raise SettingError unless ``values`` maps names to something."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise SettingError(f"{name} is {shown(values)}; allowed: settings by name")


def whole_cells(grid: Sequence[Cell], changes: Mapping[str, Any] | None) -> list[WholeCell]:
    """One for each data set and ZCA of ``grid``; none where ``changes`` is None.

    ``changes`` are to the evaluation settings of the grid's cells; epochs are 200 unless they
    say otherwise (WHOLE_EPOCHS). Raises SettingError for a setting that there is none of.
    """
    if changes is None:
        return []
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise SettingError(f"whole is {shown(changes)}; allowed: settings by name, or None")
    made = {}
    for cell in grid:
        evaluation = cell.evaluation.but(**{"epochs": WHOLE_EPOCHS, **changes})
        made.setdefault(
            (cell.data, cell.distill.zca), WholeCell(cell.data, evaluation, cell.distill.zca)
        )
    return list(made.values())
