"""The grid of an experiment: one cell per combination of data, IPC, method, variant and seed.

A variant is {"settings": changes of the distillation, "evaluation": changes of the EvalConfig}; the
variants of ablation, power grid and disagreements are made here. One that changes the evaluation
only is of the set of the variant that changes nothing, which is distilled once. Where a variant
changes nothing of what a data set has already (ZCA off, on digits), it has no cell.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from atomlib.datasets.image_data import ImageData
from atomlib.datasets.load import load_dataset
from atomlib.distilled_set import stem
from atomlib.errors import SettingError, check_choice, check_kind, did_you_mean, shown
from atomlib.full_data import FULL_DATA_EPOCHS
from atomlib.methods import METHODS, Method, find
from atomlib.methods.method import CHECKPOINT
from atomlib.models.build import NetworkConfig, operations
from atomlib.preprocess import ZCA
from atomlib.recipes import DISAGREEMENTS, RECIPES, Change
from atomlib.runtime.files import name_bytes
from atomlib.runtime.layout import Layout, evaluation_run, record_name
from atomlib.runtime.paths import LONGEST_NAME
from atomlib.settings import VARIANT
from atomlib.training import EvalConfig

OWN = {"ipc", "seed", "variant", "recipe"}
"""Settings of a method that a grid gives by arguments of their own."""
PARTS = ("settings", "evaluation")


@dataclass(frozen=True)
class Cell:
    """One distilled set to make and evaluate."""

    data: ImageData
    method: Method
    evaluation: EvalConfig
    of_checkpoints: EvalConfig
    """How the sets before the last are evaluated: on as many networks, or fewer."""

    @property
    def variant(self) -> str:
        """Of the set, or of its evaluation."""
        return self.evaluation.variant or self.method.variant


@dataclass(frozen=True)
class FullDataCell:
    """Networks to train on the full data, evaluated as the cells of the same data set."""

    data: ImageData
    evaluation: EvalConfig
    zca: ZCA


def cells(
    datasets: Sequence[str],
    methods: Sequence[str | type[Method]] = tuple(METHODS),
    ipcs: Sequence[int] = (1, 10),
    seeds: Sequence[int] = (0,),
    *,
    recipes: Sequence[str] = ("text",),
    networks: Sequence[str | None] = (None,),
    variants: Mapping[str, Change] | None = None,
    settings: Mapping[str, Any] | None = None,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    checkpoint_networks: int | None = None,
    resize: int | None = None,
) -> list[Cell]:
    """All combinations, in the order network, data, recipe, IPC, method, variant, seed.

    ``methods`` are names, "package.module:Class", or classes. ``settings`` go to every method that
    has them, ``method_settings`` to one method, and ``evaluation`` to the EvalConfig; a variant
    changes both once more. ``checkpoint_networks`` are trained on each checkpoint but the last;
    None is as many as on that. ``networks`` are what evaluation trains, None being that of
    ``evaluation``. ``resize`` is the side in pixels that images of a folder are
    brought to.
    Everything is resolved against its data, so that a bad setting is a SettingError before
    the first cell costs any time.
    """
    if checkpoint_networks is not None:
        check_kind("checkpoint_networks", checkpoint_networks, int, "1 or more, or None")
        EvalConfig(networks=checkpoint_networks)
    lists = {"datasets": datasets, "methods": methods, "ipcs": ipcs, "seeds": seeds}
    for name, values in {**lists, "recipes": recipes, "networks": networks}.items():
        if not isinstance(values, list | tuple) or not values:
            raise SettingError(f"{name} is {shown(values)}; allowed: a list of at least one")
        if any(value in values[:index] for index, value in enumerate(values)):
            raise SettingError(f"{name} is {shown(values)}; allowed: each of them once")
    settings, method_settings, evaluation = (
        {} if values is None else values for values in (settings, method_settings, evaluation)
    )
    variants = {"": {}} if variants is None else variants
    _check_maps(settings, method_settings, evaluation, variants)
    methods = [find(method) for method in methods]
    method_settings = {find(name).name: values for name, values in method_settings.items()}
    _check_settings(methods, settings, variants)
    _check_own(method_settings, evaluation, variants)
    made = []
    loaded = [load_dataset(name, resize=resize) for name in datasets]
    _check_same_names(loaded, datasets)
    unchanged = next((name for name, change in variants.items() if not any(change.values())), None)
    combined = product(networks, loaded, recipes, ipcs, methods, variants, seeds)
    for network, data, recipe, ipc, method, variant, seed in combined:
        change = variants[variant]
        changed = {**settings, **method_settings.get(method.name, {}), **change.get("settings", {})}
        of_set, of_evaluation = variant, ""
        if unchanged not in (None, variant) and not change.get("settings"):
            of_set, of_evaluation = unchanged, variant
        own = {"ipc": ipc, "seed": seed, "variant": of_set, "recipe": recipe}
        asked = method(
            **{
                name: value
                for name, value in changed.items()
                if name in method.model_fields or name in method_settings.get(method.name, {})
            }
            | own
        )
        trained = {"recipe": recipe, "variant": of_evaluation}
        trained |= {} if network is None else {"model": network}
        evaluated = EvalConfig(**{**evaluation, **change.get("evaluation", {}), **trained})
        evaluated = evaluated.resolve(data)
        fewer = evaluated.but(networks=checkpoint_networks or evaluated.networks)
        cell = Cell(data, asked.resolve(data), evaluated, fewer)
        check_file_names(data, cell.method, evaluated)
        operations(cell.method, data), operations(cell.evaluation, data)  # both can be built
        made.append(cell)
    wholes = [_settings_of(cell) for cell in made if cell.variant == unchanged]
    return [c for c in made if c.variant == unchanged or _settings_of(c) not in wholes]


def _settings_of(cell: Cell) -> tuple[str, Method, EvalConfig]:
    """All that a cell is made by, but the name of its variant."""
    return cell.data.name, cell.method.but(variant=""), cell.evaluation.but(variant="")


def check_file_names(data: ImageData, method: Method, evaluation: EvalConfig) -> None:
    """Raise SettingError where a file of this set or evaluation would have too long a name."""
    layout, name = Layout(""), stem(data.name, method)
    record = record_name(name, evaluation.model, evaluation.variant)
    runs = (layout.bookmark(name), layout.bookmark(evaluation_run(record)))
    longest = max(map(name_bytes, (layout.distilled(name), layout.record(record), *runs)))
    if longest > LONGEST_NAME:
        raise SettingError(
            f"variant {shown(evaluation.variant or method.variant)} of the data set "
            f"{shown(data.name)} makes a file's name of {longest} bytes; allowed: {LONGEST_NAME} "
            f"(shorten the two by {longest - LONGEST_NAME})"
        )


def _check_same_names(loaded: Sequence[ImageData], asked: Sequence[str]) -> None:
    """Raise SettingError for two data sets of one name, which tables and files go by."""
    for data in loaded:
        same = next(other for other in loaded if other.name == data.name)
        if same.fingerprint != data.fingerprint:
            raise SettingError(
                f"datasets has two of the name {data.name!r} with other images "
                f"({', '.join(map(shown, asked))}); allowed: one name each, which tables and files "
                "have to tell them apart (rename a folder)"
            )


def _check_maps(
    settings: object, method_settings: object, evaluation: object, variants: object
) -> None:
    """Raise SettingError unless each maps names to something, and the nested ones do too."""
    _check_names("settings", settings)
    _check_names("evaluation", evaluation)
    if not variants:
        raise SettingError(f"variants is {shown(variants)}; allowed: one or more, or None")
    for outer, nested in (("method_settings", method_settings), ("variants", variants)):
        _check_names(outer, nested)
        for name, values in nested.items():
            _check_names(f"{outer}[{shown(name)}]", values)
    for name, change in variants.items():
        if name in RECIPES:  # whose files it would share
            raise SettingError(
                f"variants has {shown(name)}, a recipe's name; allowed: others than "
                f"{' and '.join(RECIPES)}"
            )
        if CHECKPOINT.search(name):
            raise SettingError(
                f"variants has {shown(name)}, a checkpoint's name; allowed: others than it and a "
                "number"
            )
        for part, values in change.items():
            check_choice(f"part of variant {shown(name)}", part, PARTS)
            _check_names(f"{part} of variant {shown(name)}", values)


def _check_names(name: str, values: object) -> None:
    """Raise SettingError unless ``values`` maps names to something."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise SettingError(f"{name} is {shown(values)}; allowed: settings by name")


def _check_settings(
    methods: Sequence[type[Method]], settings: Mapping[str, Any], variants: Mapping[str, Change]
) -> None:
    """Raise SettingError for a setting that no method has, neither ours nor the grid's."""
    # Settings of the cell itself are given by their own arguments.
    everywhere = {key for m in (*METHODS.values(), *methods) for key in m.model_fields} - OWN
    here = {key for m in methods for key in m.model_fields} - OWN
    # A variant that changes nothing would be tested as if it did.
    varied = [change.get("settings", {}) for change in variants.values()]
    for values, known in ((settings, everywhere), *((values, here) for values in varied)):
        for name in values:
            if name not in known:
                raise SettingError(
                    f"unknown setting {shown(name)}{did_you_mean(name, known)}; allowed: "
                    f"{', '.join(sorted(known))}"
                )


def _check_own(
    method_settings: Mapping[str, Mapping[str, Any]],
    evaluation: Mapping[str, Any],
    variants: Mapping[str, Change],
) -> None:
    """Raise SettingError for a setting that the grid gives by an argument of its own."""
    places = {f"method_settings[{shown(name)}]": (v, OWN) for name, v in method_settings.items()}
    of_evaluation = {"variant", "recipe"}
    places["evaluation"] = evaluation, of_evaluation
    places |= {
        f"evaluation of variant {shown(name)}": (change.get("evaluation", {}), of_evaluation)
        for name, change in variants.items()
    }
    for place, (values, own) in places.items():
        for name in own & values.keys():
            raise SettingError(
                f"{name} is given in {place}; allowed: {name} where all cells have it, beside "
                "datasets and methods"
            )


def full_data_cells(grid: Sequence[Cell], changes: Mapping[str, Any] | None) -> list[FullDataCell]:
    """One for each data set of ``grid``; none where ``changes`` is None.

    Its ZCA is the data set's own, where some cell has it, else that of the first cell. ``changes``
    are to the evaluation settings of the first cell; epochs are 200 unless they say otherwise
    (FULL_DATA_EPOCHS). Raises SettingError for a setting that there is none of, and for a network
    that does not fit the data.
    """
    if changes is None:
        return []
    if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
        raise SettingError(f"full_data is {shown(changes)}; allowed: settings by name, or None")
    made = []
    for data in dict.fromkeys(cell.data for cell in grid):
        own = [cell for cell in grid if cell.data == data]
        zcas = [cell.method.zca for cell in own]
        evaluation = own[0].evaluation.but(**{"epochs": FULL_DATA_EPOCHS, **changes}).resolve(data)
        operations(evaluation, data)  # it can be built
        made.append(FullDataCell(data, evaluation, data.zca if data.zca in zcas else zcas[0]))
    return made


TERMS = ("output", "spatial", "channel")


def ablation() -> dict[str, Change]:
    """The seven combinations of the terms of the loss, e.g. "output+spatial" (DataDAM's)."""
    return {
        "+".join(on): {"settings": {term: term in on for term in TERMS}}
        for size in (1, 2, 3)
        for on in combinations(TERMS, size)
    }


def powers(values: Sequence[float]) -> dict[str, Change]:
    """Every pair of a spatial and a channel power, e.g. "ps4.pc2".

    Raises SettingError where the paper's 4, which the others are held against, is not among them.
    """
    if 4 not in values:
        raise SettingError(
            f"powers is {shown(values)}; allowed: numbers with 4 among them, the paper's, which "
            "the others are held against"
        )
    return {
        f"ps{p:g}.pc{q:g}": {"settings": {"spatial_power": float(p), "channel_power": float(q)}}
        for p, q in product(values, repeat=2)
    }


def candidates(tried: Sequence[Mapping[str, Sequence[Any]]], base: str = "") -> dict[str, Change]:
    """The recipe as it is, named ``base`` (see ``disagreements``), and every combination of values
    within each of ``tried``, e.g. "norm.batch+image_lr.3".

    A setting of the network goes to distillation and evaluation alike, one of the evaluation
    only to that. Raises SettingError where ``tried`` is not lists of values by setting.
    """
    made: dict[str, Change] = {base: {}}
    for values in tried:
        _check_names("tried", values)
        for name, listed in values.items():
            if not isinstance(listed, list | tuple) or not listed:
                raise SettingError(
                    f"{name} of tried is {shown(listed)}; allowed: a list of at least one value"
                )
        for chosen in product(*values.values()):
            change = dict(zip(values, chosen, strict=True))
            of_set = {k: v for k, v in change.items() if not _of_evaluation_alone(k)}
            of_networks = {k: v for k, v in change.items() if k in NetworkConfig.model_fields}
            of_evaluation = {k: v for k, v in change.items() if _of_evaluation_alone(k)}
            name = "+".join(f"{key}.{_in_a_name(key, value)}" for key, value in change.items())
            made[name] = {"settings": of_set, "evaluation": of_networks | of_evaluation}
    return made


def _of_evaluation_alone(setting: str) -> bool:
    return setting in EvalConfig.model_fields and not any(
        setting in method.model_fields for method in METHODS.values()
    )


def _in_a_name(setting: str, value: Any) -> str:
    """A value as a variant's name may bear it. Raises SettingError for one that no name can."""
    if isinstance(value, float):
        value = np.format_float_positional(value, trim="-")  # 0.000001, where str has 1e-06
    name = str(value).lower()
    if not re.fullmatch(VARIANT, name):
        raise SettingError(
            f"{setting} of tried has {shown(value)}; allowed: numbers from 0, words, true and false"
        )
    return name


def disagreements(
    recipe: str, names: Sequence[str] = tuple(DISAGREEMENTS), base: str = ""
) -> dict[str, Change]:
    """A recipe as it is, named ``base``, and with one disagreement changed at a time, e.g. "norm".

    Without a name, "", the recipe's set is that of the main table, which has to have the same
    settings. Raises SettingError for a name that there is none of.
    """
    check_choice("recipe", recipe, RECIPES)
    for name in names:
        check_choice("disagreement", name, DISAGREEMENTS)
    return {base: {}} | {name: DISAGREEMENTS[name][recipe] for name in names}


def own_disagreements(method: str | type[Method], base: str = "") -> dict[str, Change]:
    """A method as it is, named ``base``, and with one thing changed at a time that the sources of
    this method alone differ in.

    Raises SettingError for a method that has no such thing.
    """
    found = find(method)
    if not found.disagreements:
        able = sorted(m.name for m in METHODS.values() if m.disagreements)
        raise SettingError(
            f"{found.name} has no disagreements of its own; allowed: {', '.join(able)}"
        )
    return {base: {}} | dict(found.disagreements)
