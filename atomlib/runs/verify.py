"""Verifies a committed result: makes it again from its record only, and compares.

On the machine that made it, with the same versions, a CPU gives the same bytes; it runs with as
many threads as it did then, as far as the record tells. On another CPU rounding errors grow over a
run, and a GPU draws other random numbers than a CPU; there the test is whether the accuracies
differ by more than those of the networks among themselves.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from atomlib.datasets.image_data import ImageData
from atomlib.datasets.known import HELD_OUT
from atomlib.datasets.load import DATASETS, load_dataset
from atomlib.distill import distill
from atomlib.distilled_set import DistilledSet, stem
from atomlib.errors import SettingError, shown
from atomlib.evaluate import evaluate
from atomlib.full_data import full_data_accuracies
from atomlib.methods import METHODS, find
from atomlib.report.findings import compare
from atomlib.report.records import is_whole
from atomlib.runs.processes import threads
from atomlib.runs.store import facts_of_record
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.files import read_record
from atomlib.runtime.layout import Layout
from atomlib.runtime.provenance import differences, hardware, on_a_cpu, versions
from atomlib.training import REVISION, EvalConfig


@dataclass(frozen=True)
class Verification:
    """What making a result again showed."""

    accuracies: list[float]
    """Percent, of each network trained this time."""
    same_accuracies: bool
    same_images: bool | None
    """Whether the images are equal to the last bit; None where neither the set is there nor the
    record tells its digest."""
    verdict: str
    """One sentence on the accuracies of then and now, tested."""
    changed: list[str]
    """What is not as it was then: hardware, versions, revisions."""


def verify(
    record: str | Path, data: ImageData | None = None, *, progress: bool = True
) -> Verification:
    """Distil and evaluate again what a record (<report>/results/<name>.json) tells of.

    ``data`` None loads the data set that the record names. Raises SettingError, before any work,
    for a file that is no record of an evaluation, or for other data than it was made from.
    """
    path = Path(record)
    then = _read(path)
    data = _data_of(path, then) if data is None else data
    if data.fingerprint != then["data"]:
        raise SettingError(
            f"{path} was made from {then['dataset']} with fingerprint {then['data'][:12]}, data is "
            f"{data.name} with {data.fingerprint[:12]}; allowed: the data it was made from"
        )
    evaluation = EvalConfig.from_json(json.dumps(then["evaluate"]))
    same_images, bookmark = None, Bookmark()
    if then["method"] == "whole":
        # Its networks may be read from the cache, whose key is data and settings.
        with threads(_threads(then["evaluation"])):
            measured = full_data_accuracies(
                data, evaluation, zca=then["distill"]["zca"], progress=progress
            )
    else:
        method = find(then["method"]).from_json(json.dumps(then["distill"]))
        # A record of another network, or another evaluation, leaves the distillation to the set's.
        with threads(_threads(then.get("distillation", then["evaluation"]))):
            made = distill(data, method, progress=progress)
        beside = Layout.of_record(path).distilled(stem(data.name, method))
        if beside.is_file():
            kept = DistilledSet.load(beside)
            same_images = kept.digest() == made.digest() and torch.equal(kept.images, made.images)
        elif "set" in then:
            same_images = then["set"] == made.digest()
        with threads(_threads(then["evaluation"])):
            measured = evaluate(made, data, evaluation, progress=progress, resume=bookmark)
    accuracies = [round(value, 4) for value in measured.tolist()]
    now = {**then, "accuracies": accuracies, "variant": "now"}
    return Verification(
        accuracies=accuracies,
        same_accuracies=accuracies == then["accuracies"],
        same_images=same_images,
        verdict=str(compare(now, {**then, "variant": "then"})),
        changed=[*_other_arithmetic(then, bookmark.how), *_changed(then)],
    )


def _data_of(path: Path, then: dict[str, Any]) -> ImageData:
    """The data set that a record names. Raises SettingError for one that has no name here."""
    name, held = then["dataset"], ""
    if isinstance(name, str) and name.endswith(HELD_OUT):
        name, held = name.removesuffix(HELD_OUT), HELD_OUT
    if name not in DATASETS:
        kind = "tinyimagenet" if str(name).startswith("tinyimagenet") else "folder:PATH"
        size = then["shape"][-1] if "shape" in then else "SIDE"
        raise SettingError(
            f"{path} was made from {shown(then['dataset'])}, which is no data set's name here; "
            f"allowed: with --dataset {kind}{held}, and --resize {size} where its images were "
            "brought to that side"
        )
    return load_dataset(then["dataset"])


def _other_arithmetic(then: dict[str, Any], how: str) -> list[str]:
    """That the networks were trained in another number type, say; old records do not tell."""
    before = then["evaluation"].get("how")
    return [f"evaluation was {before}, is {how}"] if how and before not in (None, how) else []


MOST_THREADS = 2**12
"""That a record may name."""


def _threads(run: dict[str, Any]) -> int:
    """Of a distillation or an evaluation; today's where its record is older than this entry."""
    return run.get("threads", torch.get_num_threads())


OTHER_FORM = (AttributeError, KeyError, TypeError)
"""What reading a record of another version may raise."""


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SettingError(f"result {path} is missing; allowed: a file of <report>/results/")
    try:
        record = read_record(path)
        needed = {"dataset", "data", "method", "distill", "evaluate", "evaluation", "accuracies"}
        if not needed <= record.keys():
            raise SettingError(f"it has no {', '.join(sorted(needed - record.keys()))}")
        for part in {"distillation", "evaluation"} & record.keys():
            if "revision" not in record[part]:
                raise SettingError(f"its {part} has no revision")
            number = _threads(record[part])
            if type(number) is not int or not 1 <= number <= MOST_THREADS:
                raise SettingError(f"its {part} has threads {shown(number)}")
        if not is_whole(record) or not record["accuracies"]:
            raise SettingError("it is not of the form that this version writes")
        known = record["method"] in (*METHODS, "whole")
        if known:
            _changed(record)  # what is said afterwards, so that nothing fails after the work
    except (SettingError, *OTHER_FORM) as error:
        why = error if isinstance(error, SettingError) else f"it has another form: {error!r}"
        raise SettingError(
            f"{path} is no record of an evaluation ({why}); allowed: a file of "
            "<report>/results/ that names what was trained and what it reached"
        ) from None
    if not known:
        raise SettingError(
            f"{path} was made by {shown(record['method'])}, which is no method of the package; "
            f"allowed: results of {', '.join(METHODS)}, or of the full data"
        )
    return record


def _changed(then: dict[str, Any]) -> list[str]:
    """Hardware, versions and revisions that are not what they were."""
    made = then["evaluation"]
    pairs = {"hardware": (made["hardware"], hardware())}
    pairs |= {name: (made["versions"].get(name), now) for name, now in versions().items()}
    found = [f"{name} was {old}, is {new}" for name, (old, new) in pairs.items() if old != new]
    if on_a_cpu(made["hardware"]) != on_a_cpu(hardware()):
        found.append("a GPU draws other random numbers than a CPU: networks and batches differ too")
    evaluation = facts_of_record(then)
    found += differences(evaluation, evaluation.today(revision=REVISION))
    if "distillation" in then:
        made = replace(evaluation, of=then["method"], revision=then["distillation"]["revision"])
        found += differences(made, made.today(revision=find(then["method"]).revision))
    if on_a_cpu(then["evaluation"]["hardware"]) and "threads" not in then["evaluation"]:
        found.append(
            "how many threads made it is not on record; another number gives other last bits"
        )
    return list(dict.fromkeys(found))


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``atomlib verify``."""
    parser.add_argument("records", nargs="+", help="files of <report>/results/")
    parser.add_argument("--dataset", help="of a folder's record, folder:PATH, say")
    parser.add_argument("--resize", type=int, help="with --dataset: the side its images had then")


def run(given: argparse.Namespace) -> int:
    """Make results again and compare; status 0 where accuracies are the same or not told apart."""
    failed = False
    if given.resize is not None and not given.dataset:
        raise SettingError(
            f"resize is {given.resize} without a dataset; allowed: --resize with --dataset, the "
            "folder whose images were brought to this side"
        )
    data = load_dataset(given.dataset, resize=given.resize) if given.dataset else None
    records = [_read(Path(path)) for path in given.records]  # all of them before any work
    for path, then in zip(given.records, records, strict=True):
        found = verify(path, data)
        means = (float(np.mean(values)) for values in (then["accuracies"], found.accuracies))
        print(f"{path}: {{:.2f}} % then, {{:.2f}} % now".format(*means))
        if found.same_images is not None:
            print(f"  images: {'the same bytes' if found.same_images else 'not the same'}")
        print(f"  accuracies: {'the same' if found.same_accuracies else found.verdict}")
        for change in found.changed:
            print(f"  {change}")
        failed |= not found.same_accuracies and "not told apart" not in found.verdict
    return int(failed)
