"""Where results rest: distilled sets and what networks trained on them reached.

A notebook asks for a result; one that was made before, from the same data and settings, is
read, anything else is made and kept as it ends. So an interrupted run continues at the
cell where it was cut. Results older than ATOM_MADE_SINCE (seconds since 1970, set by
atomlib.run) are as good as absent: what came with a clone is made again, not read.

    <folder>/distilled/<stem>.safetensors    the set, or what it was after so many iterations
    <folder>/results/<stem>.json             accuracies of each network, settings, times
    <folder>/results/<stem>-on-<model>.json  the same for another network than the ConvNet
    <folder>/results/<dataset>-whole.json    the same for the whole training set
    <folder>/unfinished/                     where runs are, or were when they were killed

Of two processes that ask for one result, one makes it; the other waits, and reads it.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import Tensor

from atomlib.config import DistillConfig, EvalConfig
from atomlib.datasets import ImageData
from atomlib.distill import as_checkpoint, trajectory
from atomlib.distilled import DistilledSet, stem
from atomlib.errors import SettingError
from atomlib.evaluate import check_same_data, evaluate
from atomlib.files import atomic_write, check_writable
from atomlib.provenance import hardware, versions
from atomlib.whole import whole_accuracies


class Store:
    """Results of one report, in one folder."""

    def __init__(self, folder: str | Path, *, progress: bool = True):
        """Raises SettingError where the folder cannot be written."""
        self.folder = check_writable(Path(folder))
        self.progress = progress

    def distilled(self, data: ImageData, config: DistillConfig) -> DistilledSet:
        """The distilled set for these settings, read where it was made before."""
        return self.trajectory(data, config)[-1]

    def trajectory(
        self, data: ImageData, config: DistillConfig, at: Sequence[int] = ()
    ) -> list[DistilledSet]:
        """The distilled sets after the iterations ``at``, in order, and after all of them.

        Read where they were made before; otherwise one run makes them all.
        """
        config = config.resolve(data)
        with self._alone(stem(data.name, config)):
            return self._trajectory(data, config, at)

    def _trajectory(
        self, data: ImageData, config: DistillConfig, at: Sequence[int]
    ) -> list[DistilledSet]:
        steps = [*sorted({*at} - {config.iterations}), config.iterations]
        found = {step: self._find(data, as_checkpoint(config, step)) for step in steps}
        missing = [step for step, old in found.items() if old is None]
        if not missing:
            return list(found.values())
        start = time.perf_counter()
        resume = self._unfinished(stem(data.name, config))
        run = trajectory(data, config, missing, progress=self.progress, resume=resume)
        for step, distilled in zip(sorted({*missing, config.iterations}), run, strict=True):
            if found[step] is not None and found[step].digest() == distilled.digest():
                continue  # as it was, with what was measured on it
            seconds = time.perf_counter() - start
            distilled.save(self._set_path(data, distilled.config))
            self._record(distilled, distilled.stem, distillation=_run(seconds))
            found[step] = distilled
        return list(found.values())

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Hold other processes off this result; a process that dies lets go of it."""
        path = self.folder / "unfinished" / f".{name}.lock"
        path.parent.mkdir(exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            print(f"{name}: another process is at it; waiting", file=sys.stderr)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _unfinished(self, name: str) -> Path:
        """Where a run keeps where it is; what came with a clone is no run of this one."""
        path = self.folder / "unfinished" / f"{name}.safetensors"
        if path.exists() and not counts(path):
            path.unlink()
        return path

    def _find(self, data: ImageData, config: DistillConfig) -> DistilledSet | None:
        path = self._set_path(data, config)
        if not counts(path):
            return None
        try:
            found = DistilledSet.load(path)
        except SettingError:
            return None  # cut short by a copy, or another program's: made again
        same = found.config == config and found.data_fingerprint == data.fingerprint
        return found if same else None

    def accuracies(
        self, distilled: DistilledSet, data: ImageData, config: EvalConfig
    ) -> dict[str, Any]:
        """The record of evaluating ``distilled``, read where it was made before.

        Its "accuracies" are percentages, one a network; "distill" and "evaluate" hold the
        resolved settings; "data", "evaluation" and "distillation" say what it was made
        from, where, and how long it took.
        """
        config = config.resolve(data.image_size)
        check_same_data(distilled, data)
        key = _key(distilled.digest(), config)
        name = distilled.stem
        if config.model != "convnet":  # another network than it was made with: a record of its own
            name += f"-on-{config.model}"
        with self._alone(f"{name}-evaluation"):
            record = self._read(name)
            if record.get("key") == key:
                return record
            resume = self._unfinished(f"{name}-evaluation")
            measured = _measure(
                lambda: evaluate(distilled, data, config, progress=self.progress, resume=resume)
            )
            entries = {"key": key, "evaluate": config.model_dump(mode="json"), **measured}
            return self._record(distilled, name, **entries)

    def whole(self, data: ImageData, config: EvalConfig, *, zca: bool) -> dict[str, Any]:
        """The record of networks trained on the whole training set: method and IPC "whole"."""
        config = config.resolve(data.image_size)
        name = f"{data.name}-whole"
        key = _key(f"{data.fingerprint} {zca}", config)
        record = self._read(name)
        if record.get("key") == key:
            return record
        measured = _measure(lambda: whole_accuracies(data, config, zca=zca, progress=self.progress))
        about = {
            "dataset": data.name,
            "data": data.fingerprint,
            "method": "whole",
            "ipc": "whole",
            "seed": config.seed,
            "variant": "",
            "distill": {"zca": zca},
        }
        return self._write(
            name, {**about, "key": key, "evaluate": config.model_dump(mode="json"), **measured}
        )

    def _set_path(self, data: ImageData, config: DistillConfig) -> Path:
        return self.folder / "distilled" / f"{stem(data.name, config)}.safetensors"

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / "results" / f"{name}.json"
        if not counts(path):
            return {}
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):  # damaged: made again
            return {}
        return record if isinstance(record, dict) else {}

    def _record(self, distilled: DistilledSet, name: str, **entries: Any) -> dict[str, Any]:
        # A new set drops what was measured on the old one.
        before = self._read(name) if "key" in entries else {}
        about = {
            "dataset": distilled.data_name,
            "data": distilled.data_fingerprint,
            "method": distilled.config.method,
            "ipc": distilled.ipc,
            "seed": distilled.config.seed,
            "variant": distilled.config.variant,
            "distill": distilled.config.model_dump(mode="json"),
        }
        return self._write(name, {**before, **about, **entries})

    def _write(self, name: str, record: dict[str, Any]) -> dict[str, Any]:
        with atomic_write(self.folder / "results" / f"{name}.json") as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n")
        return record


def counts(path: Path) -> bool:
    """Whether a file is there and was made late enough to be read."""
    return path.exists() and path.stat().st_mtime >= float(os.environ.get("ATOM_MADE_SINCE", 0))


def _key(trained_on: str, config: EvalConfig) -> str:
    # Defaults do not enter the key: a setting added later leaves old results as they are.
    asked = config.model_dump_json(exclude_defaults=True)
    return hashlib.sha256(f"{trained_on} {asked}".encode()).hexdigest()


def _measure(accuracies: Callable[[], Tensor]) -> dict[str, Any]:
    start = time.perf_counter()
    rounded = [round(value, 4) for value in accuracies().tolist()]
    return {"accuracies": rounded, "evaluation": _run(time.perf_counter() - start)}


def _run(seconds: float) -> dict[str, Any]:
    return {"seconds": round(seconds, 1), "hardware": hardware(), "versions": versions()}
