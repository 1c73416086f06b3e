"""Records of evaluations: what differs from the paper's settings, and how values are written.

A record is a JSON object that atomlib.runs.store keeps of each evaluation.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from atomlib import methods
from atomlib.datasets import known
from atomlib.datasets.known import Known
from atomlib.methods import METHODS
from atomlib.methods.method import CHECKPOINT
from atomlib.report.defaults import defaults
from atomlib.runtime.provenance import flat

LABELS = {
    "whole": "full data",
    "convnet": "ConvNet",
    "alexnet": "AlexNet",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "vit": "ViT",
}
"""How networks are written for a reader."""


def label(name: str) -> str:
    """How a method or a network is written for a reader; data sets have labels of their own."""
    return LABELS.get(name) or methods.label(name)


def is_whole(record: dict[str, Any]) -> bool:
    """Whether a record has what tables and pages are made of, or is of another version."""
    kinds = {"dataset": str, "method": str, "ipc": int | str, "seed": int, "variant": str}
    kinds |= {"data": str, "distill": dict}
    if record.get("accuracies"):
        kinds |= {"accuracies": list, "evaluate": dict, "evaluation": dict}
    if not all(isinstance(record.get(name), kind) for name, kind in kinds.items()):
        return False
    accuracies = record.get("accuracies") or []
    return all(isinstance(value, int | float) for value in accuracies) and (
        not accuracies or "model" in record["evaluate"]
    )


def data_of(record: dict[str, Any]) -> Known:
    """Label, note, published figures, shape of a record's data set: its own, or by fingerprint."""
    own = {
        name: tuple(record[name]) if isinstance(record[name], list) else record[name]
        for name in Known._fields
        if name in record and name not in ("name", "fingerprint")
    }
    return known.of(record["dataset"], record.get("data"))._replace(**own)


def labels_of(records: Iterable[dict[str, Any]]) -> dict[str, str]:
    """How the data sets of records are written for a reader, by name."""
    return {r["dataset"]: data_of(r).label for r in records}


def data_label(table: pd.DataFrame, name: str) -> str:
    """How a data set of a table is written for a reader: as the table's records had it."""
    return table.attrs.get("labels", {}).get(name) or known.of(name, None).label


HOW = ("precision", "compile", "graphs", "together")
"""Settings of how arithmetic runs, which change no result by more than rounding."""

SIZES = ("iterations", "real_batch", "width", "networks", "epochs", "feature_epochs", "init_epochs")
"""Settings that make a run cheaper; one below the paper's makes a result reduced."""


def changes(record: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings of a record that differ from the defaults, which are the paper's: (ours, paper's).

    A default that depends on data or IPC is that of the record's, where its data are known. Method,
    seed and IPC are no change, nor is how the arithmetic ran. A setting of distillation
    and evaluation that is not the same in both is "width" of the one, "width of evaluation" of the
    other.
    """
    ignored = {"method", "ipc", "seed", "variant", *HOW}
    found, distilled = {}, {}
    for part, papers in defaults(record, recipe_of(record), data_of(record)).items():
        ours = flat(record[part])
        for key, default in papers.items():
            own = default if ours.get(key) is None else ours[key]
            alike = distilled.setdefault(key, own) == own
            if key not in ignored and default is not None and own != default:
                found[key if alike else f"{key}{OF_EVALUATION}"] = (own, default)
    return found


OF_EVALUATION = " of evaluation"


def is_size(setting: str) -> bool:
    """Whether a setting, as ``changes`` names it, costs time."""
    return setting.removesuffix(OF_EVALUATION) in SIZES


def is_reduced(record: dict[str, Any]) -> bool:
    """Whether any setting that costs time is below the paper's."""
    return any(ours < papers for key, (ours, papers) in changes(record).items() if is_size(key))


def is_as_in_paper(record: dict[str, Any]) -> bool:
    """Whether all settings are those that the paper prints; more networks than its are allowed.
    What is not evaluated is not."""
    if recipe_of(record) != "text" or "evaluate" not in record or is_reduced(record):
        return False
    return not changes(record).keys() - {"networks"}


def lasts(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without checkpoints: of each distillation, and each network trained on its set, the record of
    the last iteration."""
    return [max(reversed(run), key=iterations_of) for run in by_run(records).values()]


def by_run(records: Iterable[dict[str, Any]]) -> dict[tuple, list[dict[str, Any]]]:
    """The checkpoints of each distillation by data set, IPC, method, seed, recipe, variant, which
    has "on vit" behind it where that network was trained on them."""
    runs: dict[tuple, list[dict[str, Any]]] = {}
    for r in records:
        network = r.get("evaluate", {}).get("model", "convnet")
        on = "" if network == "convnet" else f" on {network}"
        variant = CHECKPOINT.sub("", r.get("variant", "")) + on
        about = (r[key] for key in ("dataset", "ipc", "method", "seed"))
        run = (*about, recipe_of(r), variant)
        runs.setdefault(run, []).append(r)
    return runs


def recipe_of(record: dict[str, Any]) -> str:
    """Whose settings filled in what was not given (atomlib.recipes)."""
    part = "evaluate" if record["method"] == "whole" else "distill"
    return record[part].get("recipe", "text")


def named_by_recipe(
    records: Iterable[dict[str, Any]], base: str = "", other_pixels: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The same records, their variants named after what they change: "text" is a recipe as it is,
    whose variant is ``base``, "text+norm" the same with one disagreement changed. Those of a method
    with disagreements of its own are "dc" and "dc+plain".

    ``other_pixels`` names data sets that hold the images of the first record's in other pixels:
    "text+cifar10-jpeg" is a change of the recipe on those, whose test images differ as well."""
    records = list(records)

    def named(r: dict[str, Any]) -> str:
        own = r["method"] in METHODS and METHODS[r["method"]].disagreements
        whole = r["method"] if own else recipe_of(r)
        if r["variant"] == base:
            return whole
        return f"{whole}+{r['variant'].removesuffix(f'.{base}')}"  # an evaluation of the base

    def of_first(r: dict[str, Any]) -> dict[str, Any]:
        if r["dataset"] not in other_pixels:
            return {**r, "variant": named(r)}
        here = {key: records[0][key] for key in ("dataset", "data", "label") if key in records[0]}
        return {**r, "variant": f"{named(r)}+{r['dataset']}"} | here

    return [of_first(r) for r in records]


def by_recipe(name: str, recipe: str) -> str:
    """A method for a reader: "ATOM", or "ATOM, by the code" for another recipe than the text's."""
    return label(name) + by(recipe)


def by(recipe: str) -> str:
    """What is put behind a name or place for a recipe: "" for the text's, or ", by the code"."""
    return "" if recipe == "text" else f", by the {recipe}"


def iterations_of(record: dict[str, Any]) -> int:
    """Of the distillation; 0 for real images."""
    return record["distill"].get("iterations", 0)


def place(record: dict[str, Any]) -> tuple:
    """Where a record stands among others: by data set, IPC and method."""
    return record["dataset"], record["ipc"], methods.place(record["method"])


def tenths(value: float) -> str:
    """A figure in percent as every table, sentence and page writes it: rounded once, here.

    The noise of floating point goes first, so that a mean read back from a CSV is written as the
    mean itself.
    """
    return f"{round(float(value), 6):.1f}"


def points(difference: float) -> str:
    """A difference of two figures in percent, as every table, sentence and page writes it."""
    return f"{round(round(float(difference), 6), 1) + 0.0:+.1f}"  # there is no minus nought


def with_spread(mean: float, std: float, one_network: bool) -> str:
    """A mean with its spread over networks, which one network has none of."""
    return tenths(mean) + ("" if one_network else f" ± {tenths(std)}")


def plain(value: Any) -> str:
    """A setting's value as a reader writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return "/".join(map(plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
