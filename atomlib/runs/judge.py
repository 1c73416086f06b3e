"""Judging published sets, under named protocols and beside random real images.

``python -m atomlib evaluate PATH --data cifar10`` reads one set and prints what it is worth.
"""

import argparse
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch

from atomlib import preprocess
from atomlib.datasets import ImageData, load_dataset
from atomlib.datasets.png_folder import as_bytes, write_png
from atomlib.errors import SettingError, check_choice, check_kind, shown
from atomlib.evaluate import evaluate
from atomlib.methods import RandomImages
from atomlib.published import PublishedSet, read_published
from atomlib.published.labels import KINDS
from atomlib.published.looks import Looks
from atomlib.published.pixels import SPACES
from atomlib.published.protocols import PROTOCOLS, in_words, protocol
from atomlib.runs.store import asked, counts, same_facts
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.files import (
    DamagedError,
    atomic_write,
    lock,
    read_record,
    set_aside,
    write_record,
)
from atomlib.runtime.layout import Layout, judged_name
from atomlib.runtime.paths import as_path, check_writable, own_path
from atomlib.runtime.provenance import given, ran
from atomlib.training import REVISION, EvalConfig

RANDOM = "Random"

TOLD = ("name", "title", "dataset", "claimed_elsewhere")
"""What a record says of its set without measuring it."""


READING = frozenset(inspect.signature(read_published).parameters) - {"path", "data"}
"""What an entry may say of how its file is read."""

ENTRY = {"name", "path", "protocol", "claimed", "networks"} | READING


def check_entries(sets: Sequence[Mapping[str, Any]], others: Sequence[str] = ()) -> None:
    """Raise SettingError, before any work, for an entry of published sets without a name or path,
    with a word or protocol that there is none of, and for two names, also of ``others``, whose
    files would be one."""
    for entry in sets:
        for word in entry:
            check_choice("word of an entry of sets", word, sorted(ENTRY))
        for word in ("name", "path"):
            check_kind(f"{word} of an entry of sets", entry.get(word), str, "a text")
        check_choice("protocol", entry.get("protocol", "ours"), PROTOCOLS)
    taken: dict[str, str] = {}
    for name in (*(entry["name"] for entry in sets), *others):
        if judged_name(name) in taken:
            raise SettingError(
                f"sets has {shown(taken[judged_name(name)])} and {shown(name)}, whose files would "
                "have one name; allowed: names that differ in letters or digits, case aside"
            )
        taken[judged_name(name)] = name


def judge(
    made: PublishedSet,
    data: ImageData,
    name: str,
    protocol_name: str = "ours",
    *,
    claimed: float | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    **changes: Any,
) -> dict[str, Any]:
    """The record of a set's accuracies under a protocol, with ``changes``, such as ``networks=3``.

    ``claimed`` is an accuracy that is told of the set elsewhere than in its file. With ``folder``
    the record is kept there, <name>-<protocol>.json, beside a thumbnail, and read where the set
    and all that decides an accuracy (runtime/provenance.py) are the same; an evaluation that was
    killed resumes. Raises SettingError for an unknown protocol, or a set that was not read with
    ``data``.
    """
    check_kind("set", made, PublishedSet, "what read_published returns")
    check_kind("data", data, ImageData, "what load_dataset returns")
    check_kind("name", name, str, "a name")
    check_kind("claimed", claimed, int | float | None, "percent, or None")
    config = protocol(protocol_name, made, **changes).resolve(data)
    about = {
        "name": name,
        "title": made.title,
        "dataset": data.name,
        "data": data.fingerprint,
        "set": made.digest(),
        "protocol": protocol_name,
        "evaluate": config.model_dump(mode="json"),
        "claimed_elsewhere": claimed,
    }
    if folder is None:
        return {**about, **_described(made), **_measured(made, data, config, None, progress)}
    layout, of = Layout(as_path("folder", folder)), judged_name(name)
    run = f"{of}-{protocol_name}"
    check_writable(layout.unfinished)
    thumbnail(made, layout.thumbnail(of))
    with lock(layout.bookmark(run)):
        # Under another name for the same settings, too: the DSA protocol is ours.
        for path in layout.judgements(of):
            kept = _kept(path, layout)
            told = all(kept.get(key) == about[key] for key in TOLD)
            if told and same_facts(kept, asked(config, data, made.digest())):
                return {**kept, "protocol": protocol_name}
        bookmark = Bookmark(layout.bookmark(run))
        measured = _measured(made, data, config, bookmark, progress)
        record = {**about, **_described(made), **measured}
        write_record(layout.judgement(run), record)
        bookmark.end()
        return record


def _kept(path: Path, layout: Layout) -> dict[str, Any]:
    """A record, where there is one that counts."""
    try:
        return read_record(path) if counts(path) else {}
    except DamagedError as error:
        set_aside(path, layout.damaged, error)
        return {}


def thumbnail(made: PublishedSet, path: Path) -> Path:
    """Write the first image of each of the first ten classes side by side, as PNG, pixel for
    pixel."""
    classes = made.classes.unique()[:10]
    first = torch.stack([(made.classes == k).nonzero()[0, 0] for k in classes])
    pixels = as_bytes(made.images[first]).permute(2, 0, 3, 1).flatten(1, 2).numpy()
    with atomic_write(path) as partial:
        write_png(pixels, partial)
    return path


def random_images(data: ImageData, ipc: int, zca: preprocess.ZCA, seed: int = 0) -> PublishedSet:
    """Random's set in any space: ``ipc`` real images per class, what every other must beat."""
    cpu = torch.device("cpu")
    rows = RandomImages(ipc=ipc, seed=seed).resolve(data).rows(data, cpu).flatten()
    pixels = data.train_images[rows].float() / 255
    return PublishedSet(
        images=pixels,
        trained=preprocess.fitted(data, zca, cpu)(data.train_images[rows]),
        labels=data.train_labels[rows],
        zca=zca,
        lr=None,
        title=RANDOM,
        layout="real images",
        space="pixels",
        looks=Looks.of(pixels, pixels, None),
        data_name=data.name,
        data_fingerprint=data.fingerprint,
        class_names=data.class_names,
    )


def _described(made: PublishedSet) -> dict[str, Any]:
    distances = sorted(made.looks.distances)
    return {
        "ipc": made.ipc,
        "images": len(made),
        "labels": "soft" if made.soft else "hard",
        "layout": made.layout,
        "space": made.space,
        "lr": made.lr,
        "claims": made.claims,
        "notes": list(made.notes),
        "warning": made.looks.warning,
        "distinct": round(made.looks.distinct, 4),
        "nearest": round(distances[len(distances) // 2], 4) if distances else None,
    }


def _measured(
    made: PublishedSet,
    data: ImageData,
    config: EvalConfig,
    bookmark: Bookmark | None,
    progress: bool,
) -> dict[str, Any]:
    kept = bookmark or Bookmark()
    found = evaluate(made, data, config, progress=progress, resume=kept)
    return {
        "accuracies": [round(value, 4) for value in found.tolist()],
        "evaluation": ran(kept.seconds, REVISION, given(config), kept.how),
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    add = parser.add_argument
    add("path", help="the set: a file, or a folder of files")
    add("--data", required=True, help="what it stands for: a name for load_dataset")
    add("--resize", type=int, help="side to bring a folder's images to, as when the set was made")
    add("--protocol", nargs="+", default=["ours"], help=f"of {', '.join(PROTOCOLS)}")
    add("--networks", type=int, default=5, help="trained from scratch under each protocol")
    add("--seed", type=int, default=0, help="of all that is drawn")
    add("--experiment", type=int, help="which of the file's sets, from 0")
    add("--space", help=f"of its pixels: {', '.join(SPACES)}; otherwise told from the values")
    add("--labels", help=f"{', '.join(KINDS)}; otherwise told from the values")
    add("--factor", type=int, default=1, help="IDC's: each image holds factor x factor")
    add("--ipc", type=int, help="images per class, of a file without labels")
    add("--statistics", help="data set whose mean and deviation normalised it")
    add("--random", action="store_true", help="judge as many random real images beside it")
    add("--output", help="folder to keep records in, and to go on from")


def run(given: argparse.Namespace) -> None:
    """Read, describe and judge one set. Raises SettingError."""
    for name in given.protocol:
        check_choice("protocol", name, PROTOCOLS)
    EvalConfig(networks=given.networks, seed=given.seed)  # checked before the set is read
    output = None if given.output is None else own_path("output", given.output)
    data = load_dataset(given.data, resize=given.resize)
    made = read_published(
        given.path,
        data,
        experiment=given.experiment,
        space=given.space,
        labels=given.labels,
        factor=given.factor,
        ipc=given.ipc,
        statistics=given.statistics,
    )
    print(made.describe())
    sets = [(made, made.title)]
    # Of the same name are many files, such as images_best.pt, and many records are kept.
    own = f"{Path(given.path).absolute().parent.name} {made.title}"
    if given.random:
        sets.append((random_images(data, made.ipc, made.zca, given.seed), RANDOM))
    for one, name in sets:
        for protocol_name in given.protocol:
            record = judge(
                one,
                data,
                own if one is made else f"{RANDOM}, IPC {made.ipc}",
                protocol_name,
                folder=output,
                networks=given.networks,
                seed=given.seed,
            )
            values = record["accuracies"]
            how = f"{PROTOCOLS[protocol_name].label}: {in_words(record['evaluate'])}"
            spread = f" ± {pstdev(values):.2f}" if len(values) > 1 else ""  # one has none
            found = f"{fmean(values):.2f}{spread} %"
            print(f"{name}: {found} of {len(data.test_labels):,} test images ({how})")
