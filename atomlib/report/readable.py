"""A report's tables for a reader: methods down, figures rounded, and the note that stands below."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from atomlib.datasets.image_data import ImageData
from atomlib.report.findings import SIGNS, against_published
from atomlib.report.published import published_text
from atomlib.report.records import (
    by_recipe,
    changes,
    data_label,
    data_of,
    is_size,
    iterations_of,
    label,
    lasts,
    plain,
    points,
    tenths,
    with_spread,
)


def main(table: pd.DataFrame) -> pd.DataFrame:
    """The main table for a reader: methods down, IPC across, measured and published.

    The accuracy on the full data stands in every column of IPC: it is the ceiling of each. A
    difference is measured minus published, with the sign of its test (findings.HOW). Where nothing
    is published of any row, there are no columns for it.
    """
    rows, known = [], table.published.notna().any()
    for (dataset, method, recipe), part in table.groupby(
        ["dataset", "method", "recipe"], sort=False
    ):
        reduced = ", reduced" if part.reduced.any() else ""
        row = {"data": data_label(table, dataset) + reduced, "method": by_recipe(method, recipe)}
        ipcs = table[(table.dataset == dataset) & (table.ipc != "whole")].ipc.unique()
        for cell in part.itertuples():
            names = [f"IPC {ipc}" for ipc in ipcs] if cell.ipc == "whole" else [f"IPC {cell.ipc}"]
            for name in names or ["all images"]:
                row[name] = _measured_text(cell)
                if not pd.isna(cell.seed_std):
                    row[name] += f" (seeds ± {tenths(cell.seed_std)})"
                if cell.checkpoints > 1:
                    row[f"{name}, best of {cell.checkpoints}"] = tenths(cell.best)
                if known:
                    row[f"{name}, published"] = published_text(
                        cell.published, cell.published_std, cell.checked, cell.note
                    )
                if known and not pd.isna(cell.published):
                    sign = SIGNS[against_published(cell).word]
                    row[f"{name}, difference"] = f"{points(cell.difference)} {sign}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def variants(table: pd.DataFrame) -> pd.DataFrame:
    """The variant table for a reader: one row per variant, the interval in words; whose recipe,
    where there are several."""
    rows, several = [], table.recipe.nunique() > 1
    for cell in table.itertuples():
        reduced = ", reduced" if cell.reduced else ""
        row = {"data": data_label(table, cell.dataset) + reduced, "IPC": cell.ipc}
        row |= {"recipe": cell.recipe} if several else {}
        row |= {
            "variant": cell.variant,
            "accuracy, %": tenths(cell.mean),
            "95 % t-interval": _interval(cell.low, cell.high),
            "networks": cell.networks,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def transfer(table: pd.DataFrame) -> pd.DataFrame:
    """The transfer table for a reader: methods down, networks across."""
    rows = []
    keys = ["dataset", "ipc", "method", "recipe"]
    for (dataset, ipc, method, recipe), part in table.groupby(keys, sort=False):
        reduced = ", reduced" if part.reduced.any() else ""
        row = {
            "data": data_label(table, dataset) + reduced,
            "IPC": ipc,
            "method": by_recipe(method, recipe),
        }
        row |= {label(cell.network): _measured_text(cell) for cell in part.itertuples()}
        rows.append(row)
    return pd.DataFrame(rows)


def curve(table: pd.DataFrame) -> pd.DataFrame:
    """The curve table for a reader."""
    shown = variants(table.assign(variant="", recipe=""))
    named = [by_recipe(*pair) for pair in zip(table.method, table.recipe, strict=True)]
    shown.insert(1, "method", named)
    shown["variant"] = table.iterations
    return shown.rename(columns={"variant": "iterations"})


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """What iterations cost, for a reader."""
    return pd.DataFrame(
        {
            "data": table.dataset.map(lambda name: data_label(table, name)),
            "method": [by_recipe(*pair) for pair in zip(table.method, table.recipe, strict=True)],
            "IPC": table.ipc,
            "s / iteration": [
                f"{row.step_s:.3g} ({row.step_low_s:.3g} to {row.step_high_s:.3g})"
                for row in table.itertuples()
            ],
            "first, s": table.first_step_s.map("{:.3g}".format),
            "peak memory, GB": (table.step_peak_mb / 1e3).map("{:.2f}".format),
            "GFLOP": table.gflop.map("{:.3g}".format),
            "matrix rate, GFLOP/s": table.matrix_gflops.map("{:.0f}".format),
            "bound, s": table.bound_s.map("{:.3g}".format),
            "times the bound": table.times_bound.map("{:.2g}".format),
            "how": table.how,
        }
    )


def nas(table: pd.DataFrame) -> pd.DataFrame:
    """The table of ranking.rank_table for a reader; intervals are 95 %, bootstrapped."""

    def number(value: float) -> str:
        return "–" if pd.isna(value) else f"{value:.2f}"

    tops = [name for name in table.columns if name.startswith("top")]
    rows = []
    for _, cell in table.iterrows():
        row = {
            "trained on": label(cell["proxy"]),
            "Spearman, all": number(cell.correlation),
            "95 % interval": f"{number(cell.low)} to {number(cell.high)}",
        }
        row |= {f"its first {name.removeprefix('top')}": number(cell[name]) for name in tops}
        row |= {
            "search, s": f"{cell.seconds:.0f}",
            "images": f"{cell.images:,}",
            "chosen": cell.chosen,
            "trained on all, %": tenths(cell.accuracy),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _measured_text(cell: Any) -> str:
    one = cell.networks == cell._asdict().get("seeds", 1)
    return with_spread(cell.mean, cell.std, one) + (" (one network)" if one else "")


def _interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{tenths(low)} to {tenths(high)}"


def provenance(records: Iterable[dict[str, Any]]) -> str:
    """What a reader must know below a table: data, reductions, changes, versions, hardware."""
    records = lasts(records)
    data = [data_of(r) for r in records]
    parts = [f"Data: {', '.join(dict.fromkeys(each.label for each in data))}."]
    parts += _differences([r for r in records if r["method"] != "whole"])
    parts += [
        f"Full data: {text[0].lower()}{text[1:]}"
        for text in _differences([r for r in records if r["method"] == "whole"])
    ]
    parts += dict.fromkeys(each.note for each in data if each.note)
    parts.append(f"Made on {made_on(records)}.")
    spread = "Measured: mean ± population standard deviation over networks"
    if len({r["seed"] for r in records if r["method"] != "whole"}) > 1:
        spread += " within a distillation seed, pooled; “seeds ±”: that of the seeds' means"
    return " ".join([*parts, f"{spread}."])


def made_on(records: Iterable[dict[str, Any]]) -> str:
    """Every machine that distilled or evaluated one of them, by the versions that it had."""
    machines: dict[str, dict[str, None]] = {}
    for record in records:
        for part in ("distillation", "evaluation"):
            if made := record.get(part):
                libraries = ", ".join(
                    f"{name} {number}" for name, number in made["versions"].items()
                )
                machines.setdefault(libraries, {})[made["hardware"]] = None
    return "; on ".join(
        f"{' and on '.join(names)} with {libraries}" for libraries, names in machines.items()
    )


def _differences(records: list[dict[str, Any]]) -> list[str]:
    """What records share that is not the default: a sentence of sizes, one of other changes."""
    differ: dict[str, list[str]] = {"Reduced": [], "Changed": []}
    learned = {r["method"] for r in records if iterations_of(r)}
    changed = [(r["method"], changes(r)) for r in records]
    for key in dict.fromkeys(key for _, found in changed for key in found):
        alike: dict[tuple[str, str, str], list[str]] = {}  # methods by what they have
        for method in dict.fromkeys(method for method, _ in changed):
            own = [found.get(key) for name, found in changed if name == method]
            if None in own or any(ours != own[0][0] for ours, _ in own):
                continue  # differs from variant to variant, whose names say how
            smaller = is_size(key) and any(ours < papers for ours, papers in own)
            defaults = " or ".join(dict.fromkeys(plain(papers) for _, papers in own))
            what = "Reduced" if smaller else "Changed", plain(own[0][0]), defaults
            alike.setdefault(what, []).append(method)
        for (kind, ours, defaults), methods_alike in alike.items():
            only = "" if learned <= set(methods_alike) else f" for {_listed(methods_alike)}"
            differ[kind].append(f"{key.replace('_', ' ')} {ours}{only} (default {defaults})")
    return [f"{kind}: {'; '.join(texts)}." for kind, texts in differ.items() if texts]


def _listed(names: list[str]) -> str:
    """Methods in words: "DC, DM and ATOM"."""
    *before, last = map(label, names)
    return f"{', '.join(before)} and {last}" if before else last


def nas_note(
    data: ImageData,
    tried: int,
    space: int,
    epochs: dict[str, int],
    restrict: dict[str, list],
    results: Mapping[str, pd.DataFrame],
) -> str:
    """What a reader must know below the search's table, whose ``results`` name their hardware."""
    machines = dict.fromkeys(name for frame in results.values() for name in frame["hardware"])
    reduced = (
        f"Reduced: {tried} of the {space} networks" if tried < space else f"All {space} networks"
    )
    kept = "".join(f", {name} only {plain(values)}" for name, values in restrict.items())
    trained = ", ".join(f"{label(name)} {count}" for name, count in epochs.items())
    return (
        f"Data: {data.label}. {reduced}{kept}. Epochs: {trained} (FTD: 200, DC: 100, ATOM: not "
        f"found). Made on {' and on '.join(machines)}. Each network is trained once. "
        "Intervals: bootstrap over networks, 1000 draws. Seconds are those of all networks "
        "together, each on one thread; the last column is the chosen network's accuracy when "
        "trained on all images."
    )
