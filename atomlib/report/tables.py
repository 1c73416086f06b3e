"""Tables of a report, made from records: published beside measured figures."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its stats load where they are first used: half a second

from atomlib import methods
from atomlib.augmentation import DSAConfig
from atomlib.datasets.image_data import ImageData
from atomlib.distilled_set import DistilledSet
from atomlib.methods import ATOM
from atomlib.report.findings import HOW, SIGNS, against_published
from atomlib.report.published import (
    DOUBTFUL,
    RECALLED,
    explained,
    published,
    published_text,
    readable_published,
)
from atomlib.report.records import (
    SIZES,
    by_recipe,
    by_run,
    changes,
    data_label,
    data_of,
    is_reduced,
    iterations_of,
    label,
    labels_of,
    lasts,
    place,
    plain,
    points,
    recipe_of,
    tenths,
    with_spread,
)
from atomlib.runtime.files import atomic_write
from atomlib.runtime.layout import TABLE_KINDS, Layout
from atomlib.training import EvalConfig


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
    made = records[-1]["evaluation"]
    libraries = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    parts.append(f"Made on {made['hardware']} with {libraries}.")
    parts.append("Measured: mean ± population standard deviation over networks.")
    return " ".join(parts)


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
            smaller = key in SIZES and any(ours < papers for ours, papers in own)
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


def main_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per dataset, IPC and method, published beside measured, in percent.

    ``mean`` is that of the last iterate, over the networks of all distillation seeds.
    ``std`` is the spread over networks: the population standard deviation (as the DC family
    gives it) within a seed, pooled over seeds. ``seed_std`` is the spread over
    seeds: that of the seeds' means, empty with one seed. Where ``checkpoints`` > 1 were
    evaluated, ``best`` is the mean of the best of them, chosen on the test set seed by seed
    as MTT and DataDAM do, and ``best_at`` its iteration. ``difference`` is mean - published;
    ``checked`` says whether the published figure was seen in its ``source``, ``note`` what is to
    be said of it; ``reduced`` whether a setting that costs time is below the paper's; ``runs`` are
    the records it is of, in results/. Nothing is rounded: that is done where a figure is written.
    """
    records = list(records)
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for (dataset, ipc, method, _, recipe, _), checkpoints in by_run(records).items():
        cells.setdefault((dataset, recipe, ipc, method), []).append(_summary(checkpoints))
    rows = []
    for (dataset, recipe, ipc, method), seeds in cells.items():
        means = np.array([seed["mean"] for seed in seeds])
        networks = [seed["networks"] for seed in seeds]
        variances = [seed["variance"] for seed in seeds]
        rows.append(
            {
                "dataset": dataset,
                "recipe": recipe,
                "method": method,
                "ipc": ipc,
                "mean": np.average(means, weights=networks),
                "std": np.sqrt(np.average(variances, weights=networks)),
                "seed_std": means.std() if len(seeds) > 1 else np.nan,
                "networks": sum(networks),
                "seeds": len(seeds),
                "best": np.mean([seed["best"] for seed in seeds]),
                "best_at": "/".join(str(seed["best_at"]) for seed in seeds),
                "checkpoints": max(seed["checkpoints"] for seed in seeds),
                "reduced": any(seed["reduced"] for seed in seeds),
                "runs": " ".join(name for seed in seeds for name in seed["runs"]),
            }
        )
    table = pd.DataFrame(rows)
    table["known_as"] = table.dataset.map({r["dataset"]: data_of(r).published_as for r in records})
    table["ipc_text"] = table.ipc.astype(str)
    known = published().rename(
        columns={"accuracy": "published", "std": "published_std", "dataset": "known_as"}
    )
    table = table.merge(
        known.rename(columns={"ipc": "ipc_text"}), how="left", on=["known_as", "ipc_text", "method"]
    )
    table["difference"] = table["mean"] - table.published
    table["place"] = table.method.map(methods.place)
    table["size"] = table.ipc.replace("whole", np.inf).astype(float)
    columns = ["dataset", "recipe", "method", "ipc", "mean", "std", "seed_std", "networks", "seeds"]
    columns += ["best", "best_at", "checkpoints"]
    columns += ["published", "published_std", "difference", "checked", "source", "note"]
    columns += ["reduced", "runs"]
    table = table.sort_values(
        ["dataset", "size", "place", "recipe"], ascending=[True, True, True, False]
    )
    table = table[columns].reset_index(drop=True)
    table.attrs["labels"] = labels_of(records)
    return table


def _summary(checkpoints: list[dict[str, Any]]) -> dict[str, Any]:
    """One distillation: its last iterate, and the best of the checkpoints that were evaluated."""
    last = max(checkpoints, key=iterations_of)
    means = {iterations_of(r): float(np.mean(r["accuracies"])) for r in checkpoints}
    best_at = max(means, key=means.__getitem__)
    return {
        "mean": means[iterations_of(last)],
        "variance": float(np.var(last["accuracies"])),
        "networks": len(last["accuracies"]),
        "best": means[best_at],
        "best_at": best_at,
        "checkpoints": len(means),
        "reduced": is_reduced(last),
        "runs": [r["name"] for r in sorted(checkpoints, key=iterations_of)],
    }


def variant_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per variant: mean, std (population) and the 95 % t-interval of the mean, in percent.

    ``low`` and ``high`` bound the interval, over the networks really trained; with a single
    network they are empty. ``runs`` is the record it is of, in results/.
    """
    rows = []
    for r in records:
        a = np.array(r["accuracies"])
        spread = np.nan, np.nan
        if len(a) > 1:
            spread = scipy.stats.t.interval(0.95, len(a) - 1, a.mean(), scipy.stats.sem(a))
        rows.append(
            {"dataset": r["dataset"], "recipe": recipe_of(r)}
            | {key: r[key] for key in ("method", "ipc", "seed", "variant")}
            | {"mean": a.mean(), "std": a.std(), "low": spread[0], "high": spread[1]}
            | {"networks": len(a), "reduced": is_reduced(r), "runs": r["name"]}
        )
    return pd.DataFrame(rows)


def transfer_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per method and network trained on its set: the columns of ``variant_table``, but
    ``network`` in place of the variant."""
    records = list(records)
    table = variant_table(records)
    table.insert(5, "network", [r["evaluate"]["model"] for r in records])
    return table.drop(columns="variant")


def readable_transfer(table: pd.DataFrame) -> pd.DataFrame:
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


def curve_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per checkpoint, in the order of iterations: the columns of ``variant_table``, but
    ``iterations`` in place of the variant."""
    records = sorted(records, key=lambda r: (*place(r), r["seed"], iterations_of(r)))
    table = variant_table(records)
    return table.assign(iterations=[iterations_of(r) for r in records]).drop(columns="variant")


def readable_variants(table: pd.DataFrame) -> pd.DataFrame:
    """The variant table for a reader: one row per variant, the interval in words."""
    rows = []
    for cell in table.itertuples():
        reduced = ", reduced" if cell.reduced else ""
        row = {
            "data": data_label(table, cell.dataset) + reduced,
            "IPC": cell.ipc,
            "variant": cell.variant,
            "accuracy, %": tenths(cell.mean),
            "95 % t-interval": _interval(cell.low, cell.high),
            "networks": cell.networks,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def readable_curve(table: pd.DataFrame) -> pd.DataFrame:
    """The curve table for a reader."""
    shown = readable_variants(table.assign(variant=""))
    named = [by_recipe(*pair) for pair in zip(table.method, table.recipe, strict=True)]
    shown.insert(1, "method", named)
    shown["variant"] = table.iterations
    return shown.rename(columns={"variant": "iterations"})


def readable_nas(table: pd.DataFrame) -> pd.DataFrame:
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


def nas_note(
    data: ImageData,
    tried: int,
    space: int,
    epochs: dict[str, int],
    restrict: dict[str, list],
    hardware: str,
) -> str:
    """What a reader must know below the search's table."""
    reduced = (
        f"Reduced: {tried} of the {space} networks" if tried < space else f"All {space} networks"
    )
    kept = "".join(f", {name} only {plain(values)}" for name, values in restrict.items())
    trained = ", ".join(f"{label(name)} {count}" for name, count in epochs.items())
    return (
        f"Data: {data.label}. {reduced}{kept}. Epochs: {trained} (the DC "
        f"family: 200 and 200). Made on {hardware}. Each network is trained once. Intervals: "
        "bootstrap over networks, 1000 draws. Seconds are those of all networks together, each on "
        "one thread; the last column is the chosen network's accuracy when trained on all images."
    )


def readable_costs(table: pd.DataFrame) -> pd.DataFrame:
    """What iterations cost, for a reader."""
    return pd.DataFrame(
        {
            "data": table.dataset.map(lambda name: data_label(table, name)),
            "method": table.method.map(label),
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


def readable(table: pd.DataFrame) -> pd.DataFrame:
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


def _measured_text(cell: Any) -> str:
    one = cell.networks == cell._asdict().get("seeds", 1)
    return with_spread(cell.mean, cell.std, one) + (" (one network)" if one else "")


def _interval(low: float, high: float) -> str:
    return "–" if pd.isna(low) else f"{tenths(low)} to {tenths(high)}"


def hyperparameters() -> pd.DataFrame:
    """Table 1 of the supplement, from the settings themselves: default, range, meaning."""
    parts = {"distillation": ATOM, "augmentation": DSAConfig, "evaluation": EvalConfig}
    rows = []
    for part, config in parts.items():
        schema = config.model_json_schema()["properties"]
        for name, value in config().model_dump().items():
            if isinstance(value, dict):  # has rows of its own
                continue
            rows.append(
                {
                    "part": part,
                    "setting": name,
                    "default": _default(value),
                    "allowed": _allowed(schema[name]),
                    "meaning": schema[name].get("description", ""),
                }
            )
    return pd.DataFrame(rows)


def _default(value: Any) -> str:
    if value is None:
        return "by data, method or device"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else plain(value)


def _allowed(schema: dict[str, Any]) -> str:
    """A JSON schema's range in words."""
    if "anyOf" in schema:  # a value or None
        return _allowed(schema["anyOf"][0])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema["type"] == "array":
        return f"any of {_allowed(schema['items'])}"
    if schema["type"] == "boolean":
        return "on, off"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [
        f"{sign} {plain(schema[key])}"
        for key, sign in signs.items()
        if key in schema and schema[key] < 2**53
    ]
    return " and ".join(limits)


def show(
    table: pd.DataFrame,
    folder: str | Path,
    name: str,
    note: str,
    read: Callable[[pd.DataFrame], pd.DataFrame] = readable,
) -> Any:
    """``write_table`` for a notebook: displays the table, and returns the note below it."""
    from IPython.display import Markdown, display  # which only notebooks need

    write_table(table, folder, name, note, read)
    text = as_markdown(read(table))
    display(Markdown(text))
    return Markdown(_with_signs(note, text))


def show_published(name: str) -> Any:
    """The published cross-architecture, cost or search table, for a notebook."""
    from IPython.display import Markdown  # which only notebooks need

    return Markdown(as_markdown(readable_published(name)))


def as_markdown(table: pd.DataFrame) -> str:
    """A table for a reader in Markdown, its figures as they were written."""
    return table.to_markdown(index=False, disable_numparse=True)


def _with_signs(note: str, text: str) -> str:
    tested = HOW if ", difference" in text else ""
    return " ".join(filter(None, [note, tested, explained(text)]))


def write_table(
    table: pd.DataFrame,
    folder: str | Path,
    name: str,
    note: str,
    read: Callable[[pd.DataFrame], pd.DataFrame] = readable,
) -> list[Path]:
    """Write <name>.csv (every column), and for a reader <name>.md and .tex (booktabs).

    ``read`` turns the table into its form for a reader; ``note`` stands below the Markdown, with
    what the signs of published figures mean.
    """
    csv, markdown, latex = (Layout(folder).table(name, kind) for kind in TABLE_KINDS)
    with atomic_write(csv) as partial:
        # Ten digits: all that is measured, without the noise of floating point.
        table.to_csv(partial, index=False, float_format="%.10g")
    with atomic_write(markdown) as partial:
        text = as_markdown(read(table))
        partial.write_text(f"{text}\n\n{_with_signs(note, text)}\n")
    with atomic_write(latex) as partial:
        partial.write_text(to_latex(read(table)))
    return [csv, markdown, latex]


def to_latex(table: pd.DataFrame) -> str:
    """A table for a reader in LaTeX (booktabs), every sign of ours as a command."""
    signs = {
        "±": r"$\pm$",
        RECALLED: r"\textsuperscript{\dag}",
        DOUBTFUL: r"\textsuperscript{\ddag}",
        "–": "--",
        "▲": r"$\bigtriangleup$",
        "▼": r"$\bigtriangledown$",
        "≈": r"$\approx$",
        "≥": r"$\geq$",
        "≤": r"$\leq$",
    }
    text = table.style.hide(axis="index").format(escape="latex").to_latex(hrules=True)
    for sign, command in signs.items():
        text = text.replace(sign, command)
    return text


def clipping_table(sets: Iterable[DistilledSet]) -> pd.DataFrame:
    """How far each set's learned pixels leave the range of an image."""
    rows = []
    for made in sets:
        outside = (made.images == 0) | (made.images == 1)
        rows.append(
            {
                "set": made.stem,
                "images": len(made),
                "pixels at 0 or 1, %": round(100 * float(outside.float().mean()), 1),
                "mean": round(float(made.images.mean()), 3),
                "standard deviation": round(float(made.images.std()), 3),
            }
        )
    return pd.DataFrame(rows).set_index("set")
