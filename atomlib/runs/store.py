"""The store of results: distilled sets, and records of networks trained on them.

A notebook asks for a result; one that was made before from the same facts (data, settings,
revision, libraries: atomlib.runtime.provenance) is read, anything else is made and kept as it ends.
So an interrupted run resumes at the cell where it stopped. Results older than ATOM_MADE_SINCE
(seconds since 1970, set by ``profiles``) are ignored: what came with a clone is made again, not
read. Where everything lies is in atomlib.runtime.layout.

Of two processes that ask for one result, one holds the lock and makes it; the other waits, and
reads it. ``make status`` lists what is there and what of it is stale.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from atomlib.datasets.image_data import ImageData
from atomlib.distill import check_iterations, trajectory
from atomlib.distilled_set import DistilledSet, stem
from atomlib.errors import check_kind
from atomlib.evaluate import check_same_data, evaluate
from atomlib.full_data import full_data_accuracies
from atomlib.methods import METHODS, Method
from atomlib.preprocess import ZCA
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.files import DamagedError, lock, read_record, set_aside, write_record
from atomlib.runtime.layout import Layout, evaluation_run, full_data_name, record_name
from atomlib.runtime.paths import as_path, check_writable
from atomlib.runtime.provenance import (
    Facts,
    differences,
    flat,
    given,
    ran,
    settings_of,
    versions,
)
from atomlib.training import REVISION, EvalConfig


class Store:
    """Results of one report, in one folder."""

    def __init__(self, folder: str | Path, *, progress: bool = True):
        """Raises SettingError where the folder cannot be written, as all calls do for what is no
        data, method, settings or set."""
        self.layout = Layout(check_writable(as_path("folder", folder)))
        self.progress = progress

    def distilled(self, data: ImageData, method: Method) -> DistilledSet:
        """The distilled set for these settings, read where it was made before."""
        return self.trajectory(data, method)[-1]

    @property
    def folder(self) -> Path:
        return self.layout.folder

    def trajectory(
        self, data: ImageData, method: Method, at: Sequence[int] = ()
    ) -> list[DistilledSet]:
        """The distilled sets after the iterations ``at``, in order, and after all of them.

        Read where they were made before; otherwise one run makes them all.
        """
        method = _method(method, data)
        check_iterations(at, method)
        with lock(self._unfinished(stem(data.name, method))):
            return self._trajectory(data, method, at)

    def _trajectory(self, data: ImageData, method: Method, at: Sequence[int]) -> list[DistilledSet]:
        steps = [*sorted({*at} - {method.length}), method.length]
        found = {step: self._find(data, method.at(step)) for step in steps}
        missing = [step for step, old in found.items() if old is None]
        kept = self._bookmark(stem(data.name, method))
        if not missing:
            kept.end_if_through()
            return list(found.values())
        run = trajectory(data, method, missing, progress=self.progress, resume=kept)
        for step, distilled in zip(sorted({*missing, method.length}), run, strict=True):
            old = found[step]
            if old is not None and old.digest() == distilled.digest():
                continue  # as it was, with what was measured on it
            # The record first: what is killed in between leaves no set without its distillation.
            run_here = ran(kept.seconds, distilled.revision, distilled.given, kept.how)
            self._record(distilled, data, distilled.stem, distillation=run_here)
            distilled.save(self.layout.distilled(distilled.stem))
            found[step] = distilled
        return list(found.values())

    def _unfinished(self, name: str) -> Path:
        """The path of a run's bookmark, in a folder that is there."""
        self.layout.unfinished.mkdir(exist_ok=True)
        return self.layout.bookmark(name)

    def _bookmark(self, name: str) -> Bookmark:
        """The same, to go on from; what came with a clone is no run of this one."""
        path = self._unfinished(name)
        if path.exists() and not counts(path):
            path.unlink()
        return Bookmark(path)

    def _find(self, data: ImageData, method: Method) -> DistilledSet | None:
        path = self.layout.distilled(stem(data.name, method))
        if not counts(path):
            return None
        try:
            found = DistilledSet.load(path)
        except DamagedError as error:
            self._set_aside(path, error)
            return None
        now = _facts(method, data.fingerprint)
        return None if differences(facts_of_set(found), now) else found

    def _set_aside(self, path: Path, error: DamagedError) -> None:
        set_aside(path, self.layout.damaged, error)

    def accuracies(
        self, distilled: DistilledSet, data: ImageData, config: EvalConfig
    ) -> dict[str, Any]:
        """The record of evaluating ``distilled``, read where it was made before.

        Its "accuracies" are percentages, one per network; "distill" and "evaluate" hold the
        resolved settings; "data", "evaluation" and "distillation" say what it was made from, where,
        and how long it took.
        """
        check_kind(
            "distilled", distilled, DistilledSet, "what distill or DistilledSet.load returns"
        )
        check_same_data(distilled, data)
        config = _config(config, data)
        now = asked(config, data, distilled.digest())
        name = record_name(distilled.stem, config.model, config.variant)
        with lock(self._unfinished(evaluation_run(name))):
            record = self._read(name)
            if same_facts(record, now):
                return record
            kept = self._bookmark(evaluation_run(name))
            found = evaluate(distilled, data, config, progress=self.progress, resume=kept)
            # A variant of the evaluation is named first: the set's may end in its iterations.
            variant = ".".join(filter(None, (config.variant, distilled.method.variant)))
            entries = {"variant": variant, **_measured(config, found, kept.seconds, kept.how)}
            record = self._record(distilled, data, name, **entries)
            kept.end()
            return record

    def recorded(
        self, data: ImageData, method: Method, config: EvalConfig
    ) -> dict[str, Any] | None:
        """The record of accuracies that was made before and would be read, or None.

        The set itself need not be there: its record says what it was made from. So the sets of
        checkpoints, the most of what a long run writes, can be left out of what is kept.
        """
        method, config = _method(method, data), _config(config, data)
        name = stem(data.name, method)
        record = self._read(record_name(name, config.model, config.variant))
        if self.layout.distilled(name).exists():
            made = self._find(data, method)
            trained_on = "" if made is None else made.digest()
        else:
            trained_on = record.get("set", "") if _of_same_set(record, data, method) else ""
        same = trained_on and same_facts(record, asked(config, data, trained_on))
        return record if same else None

    def has(self, data: ImageData, method: Method) -> bool:
        """Whether the set was made before, and would be read."""
        return self._find(data, _method(method, data)) is not None

    def holds(self, data: ImageData, method: Method, config: EvalConfig) -> bool:
        """Whether both the set and its accuracies were made before, and would be read."""
        there = self.layout.distilled(stem(data.name, _method(method, data))).exists()
        return there and self.recorded(data, method, config) is not None

    def holds_full_data(self, data: ImageData, config: EvalConfig, *, zca: ZCA) -> bool:
        """Whether the record of ``full_data`` was made before, and would be read."""
        record = self._read(full_data_name(data.name))
        return same_facts(record, asked(_config(config, data), data, zca=zca))

    def full_data(self, data: ImageData, config: EvalConfig, *, zca: ZCA) -> dict[str, Any]:
        """The record of networks trained on the full data: method and IPC "whole"."""
        config = _config(config, data)
        name = full_data_name(data.name)
        now = asked(config, data, zca=zca)
        with lock(self._unfinished(name)):
            record = self._read(name)
            if same_facts(record, now):
                return record
            start = time.perf_counter()
            found = full_data_accuracies(data, config, zca=zca, progress=self.progress)
            about = {
                "name": name,
                **_of_data(data),
                "method": "whole",
                "ipc": "whole",
                "seed": config.seed,
                "variant": "",
                "distill": {"zca": zca},
            }
            about |= _measured(config, found, time.perf_counter() - start)
            return self._write(name, about)

    def _read(self, name: str) -> dict[str, Any]:
        path = self.layout.record(name)
        if not counts(path):
            return {}
        try:
            return read_record(path)
        except DamagedError as error:
            self._set_aside(path, error)
            return {}

    def _record(
        self, distilled: DistilledSet, data: ImageData, name: str, **entries: Any
    ) -> dict[str, Any]:
        before = self._read(name)
        if before.get("set", "") != distilled.digest():
            before = {}  # a new set drops what was told of the old one
        about = {
            "name": name,
            **_of_data(data),
            "method": distilled.method.name,
            "ipc": distilled.ipc,
            "seed": distilled.method.seed,
            "variant": distilled.method.variant,
            "distill": distilled.method.recorded(),
            "set": distilled.digest(),
        }
        return self._write(name, {**before, **about, **entries})

    def _write(self, name: str, record: dict[str, Any]) -> dict[str, Any]:
        write_record(self.layout.record(name), record)
        return record


def _method(method: Method, data: ImageData) -> Method:
    """A resolved method. Raises SettingError for what is none, or no data."""
    check_kind("data", data, ImageData, "what load_dataset returns")
    check_kind("method", method, Method, "an object of atomlib.methods, such as ATOM(ipc=1)")
    return method.resolve(data)


def _config(config: EvalConfig, data: ImageData) -> EvalConfig:
    """Resolved settings of an evaluation. Raises SettingError for what is none, or no data."""
    check_kind("data", data, ImageData, "what load_dataset returns")
    check_kind("config", config, EvalConfig, "an EvalConfig")
    return config.resolve(data)


def _of_data(data: ImageData) -> dict[str, Any]:
    """What a record says of its data, as JSON has it: see ``report.records.data_of``."""
    told = {name: [*v] if isinstance(v, tuple) else v for name, v in data.told.items()}
    return {"dataset": data.name, "data": data.fingerprint, **told}


def counts(path: Path) -> bool:
    """Whether a file is there and was made late enough to be read."""
    return path.exists() and path.stat().st_mtime >= float(os.environ.get("ATOM_MADE_SINCE", 0))


def made_since(folder: str | Path) -> float:
    """When the first run of this clone began that wrote to a report's folder, in seconds since
    1970: what is older came with the clone.

    A part of a report has the report's. Infinite where nothing was run yet; 0 for a folder that is
    of no profile of a clone, as whatever is there was made by who uses it.
    """
    report = Layout(folder).of_clone
    if report is None:
        return 0.0
    return report.started.stat().st_mtime if report.started.exists() else math.inf


def facts_of_set(made: DistilledSet) -> Facts:
    """The facts that a distilled set was made from."""
    settings = flat(made.method.recorded())
    about = made.method.name, made.revision, settings, made.data_fingerprint, made.versions
    return Facts(*about)


def facts_of_distillation(record: Mapping[str, Any]) -> Facts:
    """The facts that a record says its set was made from.

    Raises KeyError, TypeError or AttributeError for a record of another form, and for one that does
    not tell: of another network than the ConvNet, say.
    """
    name, run = record["method"], record["distillation"]
    settings = flat(record["distill"])
    if name in METHODS:  # settings that it lacks are at today's default
        settings = settings_of(METHODS[name]()) | settings
    return Facts(name, run["revision"], settings, record["data"], run["versions"])


def _of_same_set(record: Mapping[str, Any], data: ImageData, method: Method) -> bool:
    """Whether a record, if any, is of the set that a resolved method makes today."""
    try:
        return not differences(facts_of_distillation(record), _facts(method, data.fingerprint))
    except (KeyError, TypeError, AttributeError):
        return False


def _facts(method: Method, fingerprint: str) -> Facts:
    """The facts of the set that a resolved method makes today."""
    return Facts(method.name, method.revision, settings_of(method), fingerprint, versions())


def facts_of_record(record: Mapping[str, Any]) -> Facts:
    """The facts of a record's evaluation; settings that it lacks are at today's default.

    Raises KeyError, TypeError or AttributeError for a record of another form.
    """
    run = record["evaluation"]
    settings = settings_of(EvalConfig()) | flat(record["evaluate"])
    if record.get("method") == "whole":
        settings["zca"] = record["distill"]["zca"]
    trained_on = record.get("set", "")
    about = run["revision"], settings, record["data"], run["versions"], trained_on
    return Facts("training", *about)


def asked(config: EvalConfig, data: ImageData, trained_on: str = "", **more: Any) -> Facts:
    """The facts of an evaluation today, on the set of the digest ``trained_on``."""
    settings = settings_of(config) | more
    return Facts("training", REVISION, settings, data.fingerprint, versions(), trained_on)


def same_facts(record: Mapping[str, Any], now: Facts) -> bool:
    """Whether a record, if any, is of the evaluation that is asked for."""
    try:
        return not differences(facts_of_record(record), now)
    except (KeyError, TypeError, AttributeError):
        return False


def _measured(
    config: EvalConfig, accuracies: Tensor, seconds: float, how: str = ""
) -> dict[str, Any]:
    return {
        "evaluate": config.model_dump(mode="json"),
        "accuracies": [round(value, 4) for value in accuracies.tolist()],
        "evaluation": ran(seconds, REVISION, given(config), how),
    }
