"""From records to the tables and sentences of a report: published beside measured."""

import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its stats load where they are first used: half a second

from atomlib.config import BY_FEATURES, METHODS, TERMS, DistillConfig, DSAConfig, EvalConfig
from atomlib.datasets import ImageData
from atomlib.distilled import DistilledSet
from atomlib.files import atomic_write
from atomlib.whole import WHOLE_EPOCHS

LABELS = {
    "random": "Random",
    "herding": "Herding",
    "kcenter": "K-Center",
    "dm": "DM",
    "datadam": "DataDAM",
    "atom": "ATOM",
    "whole": "whole data set",
    "convnet": "ConvNet",
    "alexnet": "AlexNet",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "vit": "ViT",
    "early stopping": "early stopping",
    "digits": "digits (8 x 8)",
    "digits32": "digits (32 x 32)",
    "cifar10": "CIFAR-10",
    "cifar10-jpeg": "CIFAR-10 (JPEG)",
    "cifar100": "CIFAR-100",
    "tinyimagenet": "TinyImageNet",
}
"""How methods, networks and data sets are written for a reader."""

PUBLISHED_AS = {"cifar10-jpeg": "cifar10"}
"""Data sets that stand beside another one's published figures, under their own label."""

DAGGER = "†"
"""Marks a published figure that has not been checked against the PDF."""


def published() -> pd.DataFrame:
    """The published figures: dataset, ipc, method, accuracy, std, source, checked."""
    with (files("atomlib") / "published.csv").open() as file:
        return pd.read_csv(file, dtype={"ipc": str}).assign(checked=lambda t: t.checked == "yes")


def changes(record: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings of a record that differ from the defaults, which are the paper's: (ours, paper's).

    Settings that depend on the data are no change, nor are method, network, seed and IPC, nor how
    the arithmetic ran.
    """
    ignored = {"method", "ipc", "seed", "variant", "model", *HOW}
    of_method = {
        "random": {"init"},
        "whole": set(),
        **{method: {"feature_epochs"} for method in BY_FEATURES},
    }
    whole = {"epochs": WHOLE_EPOCHS} if record["method"] == "whole" else {}
    found = {}
    for part, config in (("distill", DistillConfig()), ("evaluate", EvalConfig(**whole))):
        ours, papers = _flat(record[part]), _flat(config.model_dump(mode="json"))
        for key, default in papers.items():
            matters = key not in ignored
            if part == "distill":
                own = of_method.get(record["method"], set(papers) - {"feature_epochs"})
                matters = matters and key in own | {"zca"}
            if matters and default is not None and ours[key] != default:
                found[key] = (ours[key], default)
    return found


HOW = ("precision", "compile", "graphs", "together")
"""Settings of how arithmetic runs, which change no result by more than rounding."""

SIZES = ("iterations", "real_batch", "width", "networks", "epochs", "feature_epochs")
"""Settings that make a run cheaper; one below the paper's makes a result reduced."""


def is_reduced(record: dict[str, Any]) -> bool:
    """Whether any setting that costs time is below the paper's."""
    return any(ours < papers for key, (ours, papers) in changes(record).items() if key in SIZES)


def provenance(records: Iterable[dict[str, Any]]) -> str:
    """What a reader must know below a table: data, reductions, changes, versions, hardware."""
    records = lasts(records)
    names = dict.fromkeys(LABELS.get(r["dataset"], r["dataset"]) for r in records)
    parts = [f"Data: {', '.join(names)}."]
    parts += _differences([r for r in records if r["method"] != "whole"])
    parts += [
        f"Whole data set: {text[0].lower()}{text[1:]}"
        for text in _differences([r for r in records if r["method"] == "whole"])
    ]
    if any(r["dataset"] == "cifar10-jpeg" for r in records):
        parts.append(
            "CIFAR-10 (JPEG) is CIFAR-10 with every image re-encoded as JPEG: its pixels are not "
            "those that the published figures were measured on."
        )
    made = records[-1]["evaluation"]
    libraries = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    parts.append(f"Made on {made['hardware']} with {libraries}.")
    parts.append(
        "Measured: mean ± population standard deviation over networks. "
        f"{DAGGER} Published figure recalled, not checked against the PDF."
    )
    return " ".join(parts)


def _differences(records: list[dict[str, Any]]) -> list[str]:
    """What records share that is not the default: a sentence of sizes, one of other changes."""
    differ: dict[str, list[str]] = {"Reduced": [], "Changed": []}
    for key in dict.fromkeys(key for r in records for key in changes(r)):
        given = {r["method"]: changes(r)[key] for r in records if key in changes(r)}
        able = [r for r in records if r["method"] in given]
        ours, papers = next(iter(given.values()))
        if any(changes(r).get(key, (None,))[0] != ours for r in able):
            continue  # differs from variant to variant, whose names say how
        only = ""
        if not {r["method"] for r in records} & set(TERMS) <= set(given):
            only = f" for {' and '.join(LABELS[method] for method in given)}"
        kind = "Reduced" if key in SIZES and ours < papers else "Changed"
        name = key.replace("_", " ")
        differ[kind].append(f"{name} {_plain(ours)}{only} (default {_plain(papers)})")
    return [f"{kind}: {'; '.join(texts)}." for kind, texts in differ.items() if texts]


def lasts(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without checkpoints: of each distillation, the record of its last iteration."""
    return [max(reversed(run), key=_iterations) for run in _by_run(records).values()]


def _by_run(records: Iterable[dict[str, Any]]) -> dict[tuple, list[dict[str, Any]]]:
    """The checkpoints of each distillation, by data set, IPC, method, seed and variant."""
    runs: dict[tuple, list[dict[str, Any]]] = {}
    for r in records:
        # The end of a variant's name that distill.as_checkpoint gives it.
        variant = re.sub(r"\.?it\d+$", "", r.get("variant", ""))
        run = (*(r[key] for key in ("dataset", "ipc", "method", "seed")), variant)
        runs.setdefault(run, []).append(r)
    return runs


def _iterations(record: dict[str, Any]) -> int:
    return record["distill"].get("iterations", 0)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under joined names: {"dsa": {"crop": 0}} becomes {"dsa crop": 0}."""
    flat = {}
    for key, value in settings.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key} {name}".strip(): entry for name, entry in inner.items()}
    return flat


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return "/".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """One sentence on whether two records differ: Welch's t-test over their networks."""
    first, second = (r.get("variant") or LABELS[r["method"]] for r in (ours, theirs))
    a, b = ours["accuracies"], theirs["accuracies"]
    gap = float(np.mean(a) - np.mean(b))
    if min(len(a), len(b)) < 2:
        return f"{first} and {second} are {gap:+.1f} points apart; one network tells no more."
    return _verdict(
        first,
        second,
        gap,
        _welch(ours, theirs),
        f"Welch's t-test over {len(a)} and {len(b)} networks of one seed",
    )


def _welch(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """p of Welch's t-test over networks, two at the least on each side."""
    return float(
        scipy.stats.ttest_ind(ours["accuracies"], theirs["accuracies"], equal_var=False).pvalue
    )


def _p(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    alone = min(len(ours["accuracies"]), len(theirs["accuracies"])) < 2
    return "no p with one network" if alone else f"p = {_welch(ours, theirs):.2g}"


def findings(records: Iterable[dict[str, Any]], method: str = "atom") -> list[str]:
    """One sentence a data set, IPC and rival: how ``method`` stands to it, tested.

    Networks trained on one set are draws of one seed's outcome; so with one distillation
    seed the test is over its networks, and with several over the seeds' means, in pairs:
    methods of one seed start from the same images.
    """
    cells: dict[tuple, dict[str, list[dict[str, Any]]]] = {}
    for r in lasts(records):
        if r["method"] != "whole":
            cells.setdefault((r["dataset"], r["ipc"]), {}).setdefault(r["method"], []).append(r)
    sentences = []
    for (dataset, ipc), by_method in cells.items():
        where = f"{LABELS.get(dataset, dataset)}, IPC {ipc}"
        ours = by_method.get(method, [])
        rivals = [by_method[m] for m in METHODS if m in by_method and m != method] if ours else []
        sentences += [f"{where}: {_compare_seeds(ours, rival)}" for rival in rivals]
    return sentences


def _compare_seeds(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    means = [
        {r["seed"]: float(np.mean(r["accuracies"])) for r in records} for records in (ours, theirs)
    ]
    seeds = sorted(set(means[0]) & set(means[1]))
    if len(seeds) < 2:
        return compare(ours[0], theirs[0])
    a, b = ([mean[seed] for seed in seeds] for mean in means)
    p = float(scipy.stats.ttest_rel(a, b).pvalue)
    return _verdict(
        LABELS[ours[0]["method"]], LABELS[theirs[0]["method"]], float(np.mean(a) - np.mean(b)),
        p, f"paired t-test over {len(seeds)} distillation seeds",
    )  # fmt: skip


def _verdict(first: str, second: str, gap: float, p: float, test: str) -> str:
    verdict = f"{'above' if gap > 0 else 'below'}" if p < 0.05 else "not told apart from"
    return f"{first} is {verdict} {second}: {gap:+.1f} points ({test}, p = {p:.2g})."


def main_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a dataset, IPC and method, published beside measured, in percent.

    ``mean`` is that of the last iterate, over the networks of all distillation seeds.
    ``std`` is the spread over networks: the population standard deviation (as the DC family
    gives it) within a seed, pooled over seeds. ``seed_std`` is the spread over
    seeds: that of the seeds' means, empty with one seed. Where ``checkpoints`` > 1 were
    evaluated, ``best`` is the mean of the best of them, chosen on the test set seed by seed
    as MTT and DataDAM do, and ``best_at`` its iteration. ``difference`` is mean - published;
    ``checked`` says whether the published figure was; ``reduced`` whether a setting that
    costs time is below the paper's.
    """
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for (dataset, ipc, method, *_), checkpoints in _by_run(records).items():
        cells.setdefault((dataset, ipc, method), []).append(_summary(checkpoints))
    rows = []
    for (dataset, ipc, method), seeds in cells.items():
        means = np.array([seed["mean"] for seed in seeds])
        networks = [seed["networks"] for seed in seeds]
        variances = [seed["variance"] for seed in seeds]
        rows.append(
            {
                "dataset": dataset,
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
            }
        )
    table = pd.DataFrame(rows)
    table["known_as"] = table.dataset.replace(PUBLISHED_AS)
    table["ipc_text"] = table.ipc.astype(str)
    known = published().rename(
        columns={"accuracy": "published", "std": "published_std", "dataset": "known_as"}
    )
    table = table.merge(
        known.rename(columns={"ipc": "ipc_text"}), how="left", on=["known_as", "ipc_text", "method"]
    )
    table["difference"] = table["mean"] - table.published
    table["place"] = table.method.map([*METHODS, "whole"].index)
    table["size"] = table.ipc.replace("whole", np.inf).astype(float)
    columns = ["dataset", "method", "ipc", "mean", "std", "seed_std", "networks", "seeds"]
    columns += ["best", "best_at", "checkpoints"]
    columns += ["published", "published_std", "difference", "checked", "source", "reduced"]
    table = table.sort_values(["dataset", "size", "place"])
    return table[columns].round(2).reset_index(drop=True)


def _summary(checkpoints: list[dict[str, Any]]) -> dict[str, Any]:
    """One distillation: its last iterate, and the best of the checkpoints that were evaluated."""
    last = max(checkpoints, key=_iterations)
    means = {_iterations(r): float(np.mean(r["accuracies"])) for r in checkpoints}
    best_at = max(means, key=means.__getitem__)
    return {
        "mean": means[_iterations(last)],
        "variance": float(np.var(last["accuracies"])),
        "networks": len(last["accuracies"]),
        "best": means[best_at],
        "best_at": best_at,
        "checkpoints": len(means),
        "reduced": is_reduced(last),
    }


def variant_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a variant: mean, std (population) and the 95 % t-interval of the mean, in percent.

    ``low`` and ``high`` bound the interval, over the networks really trained; with a single
    network they are empty.
    """
    rows = []
    for r in records:
        a = np.array(r["accuracies"])
        spread = np.nan, np.nan
        if len(a) > 1:
            spread = scipy.stats.t.interval(0.95, len(a) - 1, a.mean(), scipy.stats.sem(a))
        rows.append(
            {key: r[key] for key in ("dataset", "method", "ipc", "seed", "variant")}
            | {"mean": a.mean(), "std": a.std(), "low": spread[0], "high": spread[1]}
            | {"networks": len(a), "reduced": is_reduced(r)}
        )
    return pd.DataFrame(rows).round(2)


def transfer_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a method and network trained on its set: the columns of ``variant_table``, but
    ``network`` in place of the variant."""
    records = list(records)
    table = variant_table(records)
    table.insert(4, "network", [r["evaluate"]["model"] for r in records])
    return table.drop(columns="variant")


def readable_transfer(table: pd.DataFrame) -> pd.DataFrame:
    """The transfer table for a reader: methods down, networks across."""
    rows = []
    for (dataset, ipc, method), part in table.groupby(["dataset", "ipc", "method"], sort=False):
        reduced = ", reduced" if part.reduced.any() else ""
        row = {"data": LABELS.get(dataset, dataset) + reduced, "IPC": ipc, "method": LABELS[method]}
        row |= {LABELS[cell.network]: _measured_text(cell) for cell in part.itertuples()}
        rows.append(row)
    return pd.DataFrame(rows)


def transfer_findings(records: Iterable[dict[str, Any]], method: str = "atom") -> list[str]:
    """One sentence a network and rival: how ``method`` stands to it there, tested."""
    by_network: dict[str, list[dict[str, Any]]] = {}
    for r in records:
        by_network.setdefault(r["evaluate"]["model"], []).append(r)
    return [
        f"{LABELS[network]}: {sentence}"
        for network, part in by_network.items()
        for sentence in findings(part, method)
    ]


def curve_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a checkpoint, in the order of iterations: the columns of ``variant_table``, but
    ``iterations`` in place of the variant."""
    records = sorted(records, key=lambda r: (*_place(r), r["seed"], _iterations(r)))
    table = variant_table(records)
    return table.assign(iterations=[_iterations(r) for r in records]).drop(columns="variant")


def _place(record: dict[str, Any]) -> tuple:
    return record["dataset"], record["ipc"], METHODS.index(record["method"])


def against(records: Iterable[dict[str, Any]], base: str) -> list[str]:
    """One sentence a variant: how it stands to the variant ``base``, tested."""
    records = list(records)
    sentences = []
    for rival in (r for r in records if r["variant"] == base):
        cell = [rival[key] for key in ("dataset", "ipc", "seed")]
        sentences += [
            compare(r, rival)
            for r in records
            if r is not rival and [r[key] for key in ("dataset", "ipc", "seed")] == cell
        ]
    return sentences


def readable_variants(table: pd.DataFrame) -> pd.DataFrame:
    """The variant table for a reader: one row a variant, the interval in words."""
    rows = []
    for cell in table.itertuples():
        reduced = ", reduced" if cell.reduced else ""
        row = {
            "data": LABELS.get(cell.dataset, cell.dataset) + reduced,
            "IPC": cell.ipc,
            "variant": cell.variant,
            "accuracy, %": f"{cell.mean:.1f}",
            "95 % t-interval": "–" if pd.isna(cell.low) else f"{cell.low:.1f} to {cell.high:.1f}",
            "networks": cell.networks,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def readable_curve(table: pd.DataFrame) -> pd.DataFrame:
    """The curve table for a reader."""
    shown = readable_variants(table.assign(variant=""))
    shown.insert(1, "method", table.method.map(LABELS))
    shown["variant"] = table.iterations
    return shown.rename(columns={"variant": "iterations"})


def curve_findings(records: Iterable[dict[str, Any]]) -> list[str]:
    """One sentence a distillation: what the iterations brought, and best against last."""
    sentences = []
    for (dataset, ipc, method, seed, _), run in _by_run(records).items():
        first, last = min(run, key=_iterations), max(run, key=_iterations)
        best = max(run, key=lambda r: float(np.mean(r["accuracies"])))
        gain, gap = (
            float(np.mean(a["accuracies"]) - np.mean(b["accuracies"]))
            for a, b in ((last, first), (best, last))
        )
        kept = "the last iterate is the best" if best is last else (
            f"the best, at {_iterations(best)}, is {gap:.1f} above the last "
            f"({_p(best, last)}, not corrected for having been chosen)"
        )  # fmt: skip
        sentences.append(
            f"{LABELS[method]}, {LABELS.get(dataset, dataset)}, IPC {ipc}, seed {seed}: "
            f"{_iterations(last)} iterations bring {gain:+.1f} points over {_iterations(first)} "
            f"(Welch's t-test over networks, {_p(last, first)}); {kept}."
        )
    return sentences


def cost_findings(table: pd.DataFrame) -> list[str]:
    """One sentence an IPC: how the methods' iterations compare in time and memory."""
    sentences = []
    for ipc, part in table.groupby("ipc"):
        part = part.set_index("method")
        if not {"dm", "atom"} <= set(part.index):
            continue
        dm, atom = part.loc["dm"], part.loc["atom"]
        sentences.append(
            f"IPC {ipc}: an iteration of ATOM takes {atom.step_s / dm.step_s:.2f} times one of DM "
            f"and {atom.peak_mb / dm.peak_mb:.2f} times its memory; it stands at "
            f"{atom.times_bound:.2g} times the arithmetic bound, DM's at {dm.times_bound:.2g}."
        )
    return sentences


def readable_nas(table: pd.DataFrame) -> pd.DataFrame:
    """The table of ranking.rank_table for a reader; intervals are 95 %, bootstrapped."""

    def number(value: float) -> str:
        return "–" if pd.isna(value) else f"{value:.2f}"

    tops = [name for name in table.columns if name.startswith("top")]
    rows = []
    for _, cell in table.iterrows():
        row = {
            "trained on": LABELS.get(cell["proxy"], cell["proxy"]),
            "Spearman, all": number(cell.correlation),
            "95 % interval": f"{number(cell.low)} to {number(cell.high)}",
        }
        row |= {f"its first {name.removeprefix('top')}": number(cell[name]) for name in tops}
        row |= {
            "search, s": f"{cell.seconds:.0f}",
            "images": f"{cell.images:,}",
            "chosen": cell.chosen,
            "trained on all, %": f"{cell.accuracy:.1f}",
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
    kept = "".join(f", {name} {_plain(values)} alone" for name, values in restrict.items())
    trained = ", ".join(f"{LABELS.get(name, name)} {count}" for name, count in epochs.items())
    return (
        f"Data: {LABELS.get(data.name, data.name)}. {reduced}{kept}. Epochs: {trained} (the DC "
        f"family: 200 and 200). Made on {hardware}. Each network is trained once. Intervals: "
        "bootstrap over networks, 1000 draws. Seconds are those of all networks together, each on "
        "one thread; the last column is the chosen network's accuracy when trained on all images."
    )


def nas_findings(table: pd.DataFrame) -> list[str]:
    """One sentence a proxy, the best correlated first, and the reference."""
    rivals = table[table["proxy"] != "whole"].sort_values("correlation", ascending=False)
    whole = table.set_index("proxy").loc["whole"]
    sentences = []
    for cell in rivals.itertuples():
        sentences.append(
            f"{LABELS.get(cell.proxy, cell.proxy)}: Spearman {cell.correlation:.2f} "
            f"({cell.low:.2f} to {cell.high:.2f}) with training on all images, in "
            f"{100 * cell.seconds / whole.seconds:.0f} % of its time; it chose a network that "
            f"reaches {cell.accuracy:.1f} %, {cell.accuracy - cell.best_accuracy:+.1f} points from "
            "the best there is."
        )
    first, last = rivals.iloc[0], rivals.iloc[-1]
    if rivals.low.max() <= rivals.high.min():
        verdict = "All proxies' intervals overlap: this sample does not tell them apart."
    elif first.low > last.high:
        pair = " and ".join(LABELS.get(cell["proxy"], cell["proxy"]) for cell in (first, last))
        verdict = f"The intervals of {pair} do not overlap."
    else:
        verdict = "Some intervals overlap and some do not; the first and last proxy's do."
    return [*sentences, verdict]


def readable_costs(table: pd.DataFrame) -> pd.DataFrame:
    """What iterations cost, for a reader."""
    return pd.DataFrame(
        {
            "data": table.dataset.map(lambda name: LABELS.get(name, name)),
            "method": table.method.map(LABELS),
            "IPC": table.ipc,
            "s / iteration": table.step_s.map("{:.3g}".format),
            "first, s": table.first_step_s.map("{:.3g}".format),
            "peak memory, GB": (table.peak_mb / 1e3).map("{:.2f}".format),
            "GFLOP": table.gflop.map("{:.3g}".format),
            "matrix rate, GFLOP/s": table.matrix_gflops.map("{:.0f}".format),
            "bound, s": table.bound_s.map("{:.3g}".format),
            "times the bound": table.times_bound.map("{:.2g}".format),
            "how": table.how,
        }
    )


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The main table for a reader: methods down, IPC across, measured and published.

    The whole data set's accuracy stands in every column of IPC: it is the ceiling of each.
    """
    rows = []
    for (dataset, method), part in table.groupby(["dataset", "method"], sort=False):
        reduced = ", reduced" if part.reduced.any() else ""
        row = {"data": LABELS.get(dataset, dataset) + reduced, "method": LABELS[method]}
        ipcs = table[(table.dataset == dataset) & (table.ipc != "whole")].ipc.unique()
        for cell in part.itertuples():
            names = [f"IPC {ipc}" for ipc in ipcs] if cell.ipc == "whole" else [f"IPC {cell.ipc}"]
            for name in names or ["all images"]:
                row[name] = _measured_text(cell)
                if not pd.isna(cell.seed_std):
                    row[name] += f" (seeds ± {cell.seed_std:.1f})"
                if cell.checkpoints > 1:
                    row[f"{name}, best of {cell.checkpoints}"] = f"{cell.best:.1f}"
                row[f"{name}, published"] = _published_text(cell)
        rows.append(row)
    return pd.DataFrame(rows).fillna("–")


def _measured_text(cell: Any) -> str:
    """A mean with its spread over networks, which one network has none of."""
    alone = cell.networks == cell._asdict().get("seeds", 1)
    return f"{cell.mean:.1f}" + (" (one network)" if alone else f" ± {cell.std:.1f}")


def _published_text(cell: Any) -> str:
    if pd.isna(cell.published):
        return "–"
    spread = "" if pd.isna(cell.published_std) else f" ± {cell.published_std:.1f}"
    return f"{cell.published:.1f}{spread}{'' if cell.checked else DAGGER}"


def hyperparameters() -> pd.DataFrame:
    """Table 1 of the supplement, from the settings themselves: default, range, meaning."""
    parts = {"distillation": DistillConfig, "augmentation": DSAConfig, "evaluation": EvalConfig}
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
    return ", ".join(map(str, value)) if isinstance(value, tuple) else _plain(value)


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
        f"{sign} {_plain(schema[key])}"
        for key, sign in signs.items()
        if key in schema and schema[key] < 2**53
    ]
    return " and ".join(limits)


def write_table(
    table: pd.DataFrame,
    folder: str | Path,
    name: str,
    note: str,
    read: Callable[[pd.DataFrame], pd.DataFrame] = readable,
) -> list[Path]:
    """Write <name>.csv (every column), and for a reader <name>.md and .tex (booktabs).

    ``read`` turns the table into its form for a reader; ``note`` stands below the Markdown.
    """
    folder = Path(folder)
    csv, markdown, latex = (folder / f"{name}.{kind}" for kind in ("csv", "md", "tex"))
    with atomic_write(csv) as partial:
        table.to_csv(partial, index=False)
    with atomic_write(markdown) as partial:
        text = read(table).to_markdown(index=False, disable_numparse=True)
        partial.write_text(f"{text}\n\n{note}\n")
    with atomic_write(latex) as partial:
        signs = {
            "±": r"$\pm$",
            DAGGER: r"\textsuperscript{\dag}",
            "–": "--",
            "≥": r"$\geq$",
            "≤": r"$\leq$",
        }
        style = read(table).style.hide(axis="index").format(escape="latex")
        text = style.to_latex(hrules=True)
        for sign, command in signs.items():
            text = text.replace(sign, command)
        partial.write_text(text)
    return [csv, markdown, latex]


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
