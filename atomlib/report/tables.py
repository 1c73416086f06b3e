"""Tables of a report, made from records: every number, nothing rounded.

For a reader they are written by ``readable``, and kept as files by ``writing``.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its stats load where they are first used: half a second

from atomlib import methods
from atomlib.distilled_set import DistilledSet
from atomlib.report.published import published
from atomlib.report.records import (
    by_run,
    data_of,
    is_reduced,
    iterations_of,
    labels_of,
    place,
    recipe_of,
)


def main_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per dataset, IPC and method, published beside measured, in percent.

    ``mean`` is that of the last iterate: the mean of the distillation seeds' means over networks.
    ``std`` is the spread over networks: the population standard deviation (as the DC family
    gives it) within a seed, pooled over seeds. ``seed_std`` is the spread over
    seeds: that of the seeds' means, empty with one seed. Where ``checkpoints`` > 1 were
    evaluated, ``best`` is the mean of the best of them, chosen on the test set seed by seed
    as MTT does, and ``best_at`` its iteration. ``difference`` is mean - published;
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
                "mean": means.mean(),  # a seed counts once, as in its test
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
    checkpoints = sorted(checkpoints, key=iterations_of)
    last = checkpoints[-1]
    means = {iterations_of(r): float(np.mean(r["accuracies"])) for r in checkpoints}
    best_at = max(means, key=means.__getitem__)  # the earlier one where two are equal
    return {
        "mean": means[iterations_of(last)],
        "variance": float(np.var(last["accuracies"])),
        "networks": len(last["accuracies"]),
        "best": means[best_at],
        "best_at": best_at,
        "checkpoints": len(means),
        "reduced": is_reduced(last),
        "runs": [r["name"] for r in checkpoints],
    }


def variant_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per variant: mean, std (population) and the 95 % t-interval of the mean, in percent.

    ``low`` and ``high`` bound the interval, over the networks really trained; with a single
    network, or equal accuracies, they are empty. ``runs`` is the record it is of, in results/.
    """
    rows = []
    for r in records:
        a = np.array(r["accuracies"])
        spread = np.nan, np.nan
        if np.ptp(a) > 0:
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


def curve_table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per checkpoint, in the order of iterations: the columns of ``variant_table``, but
    ``iterations`` in place of the variant."""
    records = sorted(records, key=lambda r: (*place(r), r["seed"], iterations_of(r)))
    table = variant_table(records)
    return table.assign(iterations=[iterations_of(r) for r in records]).drop(columns="variant")


def clipping_table(sets: Iterable[DistilledSet]) -> pd.DataFrame:
    """How much of each set is black or white, as a clipped pixel is, and how its pixels spread."""
    rows = []
    for made in sets:
        extreme = (made.images == 0) | (made.images == 1)
        rows.append(
            {
                "set": made.stem,
                "images": len(made),
                "pixels at 0 or 1, %": round(100 * float(extreme.float().mean()), 1),
                "mean": round(float(made.images.mean()), 3),
                "standard deviation": round(float(made.images.std()), 3),
            }
        )
    return pd.DataFrame(rows).set_index("set")
