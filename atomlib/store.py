"""Where results rest: distilled sets and what networks trained on them reached.

A notebook asks for a result; one that was made before, from the same data and settings, is
read, anything else is made and kept as it ends. So an interrupted run continues at the
cell where it was cut. Results older than ATOM_MADE_SINCE (seconds since 1970, set by
atomlib.run) are as good as absent: what came with a clone is made again, not read.

    <folder>/distilled/<stem>.safetensors    the set
    <folder>/results/<stem>.json             accuracies of each network, settings, times
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from atomlib.config import DistillConfig, EvalConfig
from atomlib.datasets import ImageData
from atomlib.distill import distill
from atomlib.distilled import DistilledSet, stem
from atomlib.errors import SettingError
from atomlib.evaluate import check_same_data, evaluate
from atomlib.files import atomic_write, check_writable
from atomlib.provenance import hardware, versions


class Store:
    """Results of one report, in one folder."""

    def __init__(self, folder: str | Path, *, progress: bool = True):
        """Raises SettingError where the folder cannot be written."""
        self.folder = check_writable(Path(folder))
        self.progress = progress

    def distilled(self, data: ImageData, config: DistillConfig) -> DistilledSet:
        """The distilled set for these settings, read where it was made before."""
        config = config.resolve(data)
        path = self._set_path(data, config)
        if _counts(path):
            try:
                found = DistilledSet.load(path)
            except SettingError:
                pass  # cut short by a copy, or another program's: made again
            else:
                if found.config == config and found.data_fingerprint == data.fingerprint:
                    return found
        start = time.perf_counter()
        made = distill(data, config, progress=self.progress)
        seconds = time.perf_counter() - start
        made.save(path)
        self._record(made, distillation=_run(seconds))
        return made

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
        # Defaults do not enter the key: a setting added later leaves old results as they are.
        asked = config.model_dump_json(exclude_defaults=True)
        key = hashlib.sha256(f"{distilled.digest()} {asked}".encode()).hexdigest()
        record = self._read(distilled)
        if record.get("key") == key:
            return record
        start = time.perf_counter()
        accuracies = evaluate(distilled, data, config, progress=self.progress)
        return self._record(
            distilled,
            key=key,
            accuracies=[round(value, 4) for value in accuracies.tolist()],
            evaluate=config.model_dump(mode="json"),
            evaluation=_run(time.perf_counter() - start),
        )

    def _set_path(self, data: ImageData, config: DistillConfig) -> Path:
        return self.folder / "distilled" / f"{stem(data.name, config)}.safetensors"

    def _result_path(self, distilled: DistilledSet) -> Path:
        return self.folder / "results" / f"{distilled.stem}.json"

    def _read(self, distilled: DistilledSet) -> dict[str, Any]:
        path = self._result_path(distilled)
        if not _counts(path):
            return {}
        try:
            record = json.loads(path.read_bytes())
        except (OSError, ValueError):  # damaged: made again
            return {}
        return record if isinstance(record, dict) else {}

    def _record(self, distilled: DistilledSet, **entries: Any) -> dict[str, Any]:
        # A new set drops what was measured on the old one.
        before = self._read(distilled) if "key" in entries else {}
        about = {
            "dataset": distilled.data_name,
            "data": distilled.data_fingerprint,
            "method": distilled.config.method,
            "ipc": distilled.ipc,
            "seed": distilled.config.seed,
            "variant": distilled.config.variant,
            "distill": distilled.config.model_dump(mode="json"),
        }
        record = {**before, **about, **entries}
        with atomic_write(self._result_path(distilled)) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n")
        return record


def _counts(path: Path) -> bool:
    """Whether a file is there and was made late enough to be read."""
    return path.exists() and path.stat().st_mtime >= float(os.environ.get("ATOM_MADE_SINCE", 0))


def _run(seconds: float) -> dict[str, Any]:
    return {"seconds": round(seconds, 1), "hardware": hardware(), "versions": versions()}
