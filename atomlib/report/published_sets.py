"""The table of published sets: what their files claim, and what they reach here."""

from collections.abc import Iterable
from statistics import fmean, pstdev
from typing import Any

import pandas as pd

from atomlib.models import MODELS
from atomlib.published.protocols import PROTOCOLS, in_words
from atomlib.report.readable import made_on
from atomlib.report.records import data_of
from atomlib.runtime.layout import judged_name as stem
from atomlib.training import EvalConfig

__all__ = ["stem", "table"]

NETWORKS = {name.rstrip("0123456789") for name in MODELS} | {"lenet", "mlp"}
"""In lower case, what the names of networks have in them, ours and those of DC's code."""


def table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row per set: what its file claims, and what it reaches under each protocol."""
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        claims = claimed(record)
        elsewhere = record["claimed_elsewhere"]
        row = rows.setdefault(
            record["name"],
            {
                "dataset": record["dataset"],
                "set": record["name"],
                "ipc": record["ipc"],
                "images": record["images"],
                "labels": record["labels"],
                "pixels": record["space"],
                "rate": record["lr"],
                "claim": fmean(claims) if claims else elsewhere,
                "claim_std": pstdev(claims) if len(claims) > 1 else None,
                "claim_from": "its file" if claims else "elsewhere" if elsewhere else "",
                "distinct": record["distinct"],
                "nearest": record["nearest"],
                "warning": record["warning"],
            },
        )
        kind = "ours" if record["protocol"] == "ours" else "authors"
        values = record["accuracies"]
        row |= {
            kind: fmean(values),
            f"{kind}_std": pstdev(values),
            f"{kind}_networks": len(values),
        }
        if kind == "authors":
            how = in_words(record["evaluate"])
            row["protocol"] = f"{PROTOCOLS[record['protocol']].label}: {how}"
    return pd.DataFrame(list(rows.values()))


def claimed(record: dict[str, Any]) -> list[float]:
    """What a set's file claims of the network that was evaluated here; empty if nothing.

    Files of DC's code have an entry for each of many networks. One that names none, the only one
    of its file, is taken.
    """
    claims = {network.lower(): values for network, values in record["claims"].items()}
    network, depth = record["evaluate"]["model"], record["evaluate"].get("depth")
    for name in (f"{network}d{depth}", network):  # DC's code: ConvNetD4, ConvNet
        if name in claims:
            return claims[name]
    unnamed = not any(known in name for name in claims for known in NETWORKS)
    return next(iter(claims.values())) if len(claims) == 1 and unnamed else []


def readable(found: pd.DataFrame) -> pd.DataFrame:
    """The table for a reader, in percent: claim, our protocol, the authors' own."""
    rows = []
    for _, cell in found.iterrows():
        row = {
            "set": cell["set"],
            "IPC": cell["ipc"],
            "labels": cell["labels"],
            "pixels": cell["pixels"],
            "claimed": _text(cell, "claim"),
            "our protocol": _text(cell, "ours"),
            "its authors' protocol": _text(cell, "authors"),
        }
        if isinstance(cell.get("protocol"), str) and row["its authors' protocol"] != "–":
            row["its authors' protocol"] += f" ({cell['protocol']})"
        warned = isinstance(cell["warning"], str)  # no text is NaN in a table read from its CSV
        rows.append(row | {"note": cell["warning"] if warned else ""})
    return pd.DataFrame(rows)


def _text(cell: pd.Series, kind: str) -> str:
    """Mean and deviation, one network's being none."""
    if pd.isna(cell.get(kind)):
        return "–"
    if kind == "claim" and cell["claim_from"] == "elsewhere":
        return f"{cell[kind]:.1f} (not in the file)"
    if cell.get(f"{kind}_networks") == 1:
        return f"{cell[kind]:.1f} (1 network)"
    if pd.isna(cell[f"{kind}_std"]):  # a claim of one accuracy, of who knows how many networks
        return f"{cell[kind]:.1f}"
    return f"{cell[kind]:.1f} ± {cell[f'{kind}_std']:.1f}"


FROM = {"its file": "by its file", "elsewhere": "claimed elsewhere"}
"""Where a claim is from, in a sentence."""


def findings(found: pd.DataFrame) -> list[str]:
    """A sentence for each set that claims something: how far from it, by its authors' protocol."""
    sentences = []
    for _, cell in found.iterrows():
        if pd.isna(cell["claim"]) or pd.isna(cell.get("authors")):
            continue
        networks, claimed = int(cell["authors_networks"]), FROM[cell["claim_from"]]
        sentences.append(
            f"{cell['set']}: {cell['authors']:.1f} here ({cell['protocol']}; {networks} "
            f"network{'s' if networks > 1 else ''}), {cell['claim']:.1f} {claimed}: "
            f"{cell['authors'] - cell['claim']:+.1f} points."
        )
    return sentences


def note(records: list[dict[str, Any]]) -> str:
    """What stands below the table."""
    last = records[-1]
    ours = [in_words(r["evaluate"]) for r in records if r["protocol"] == "ours"]
    data = data_of(last)
    reduced = _reduced(records)
    return (
        f"Accuracy in percent on all test images of {data.label}; "
        "mean ± population standard deviation over networks trained from scratch "
        f"({last['evaluate']['model']}, width {last['evaluate']['width']}). Our protocol: "
        f"{ours[0] if ours else 'not run'}. {reduced}Random: as many real images of each class. "
        "Claimed: what the file holds, measured by its authors; else by others. Made on "
        f"{made_on(records)}. {data.note}".strip()
    )


def _reduced(records: list[dict[str, Any]]) -> str:
    """What is less here than a protocol has: "Reduced: epochs 200 (DC 300, MTT 1000). "."""
    less: dict[str, dict[str, None]] = {}
    for record in records:
        whole = PROTOCOLS[record["protocol"]]
        full = EvalConfig(**whole.settings)
        for name in ("epochs", "width"):
            here, theirs = record["evaluate"][name], getattr(full, name)
            if here < theirs:
                less.setdefault(f"{name} {here}", {})[f"{whole.label} {theirs}"] = None
    texts = [f"{what} ({', '.join(theirs)})" for what, theirs in less.items()]
    return f"Reduced: {'; '.join(texts)}. " if texts else ""
