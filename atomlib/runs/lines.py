"""Results kept as lines of one file: a JSON object for each candidate of the search.

A line carries its checksum and is on disk before the next candidate's training is waited for. A
kill costs the line that is being written at most, and the next run passes that one over.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from atomlib.errors import SettingError
from atomlib.runs.store import counts
from atomlib.runtime.files import is_intact, sealed, unsealed
from atomlib.runtime.provenance import (
    Facts,
    commit,
    differences,
    flat,
    given,
    libraries,
    settings_of,
)
from atomlib.training import EvalConfig

NOT_ON_RECORD = "a machine that is not on record"
"""Of a line that was written before lines named theirs."""

REVISION = 1
"""Of what the search gives: raised when, and only when, its numbers change (tests/golden/)."""


def append(path: Path, *records: Mapping[str, Any]) -> None:
    """Add records to a file, which is made where it is not there.

    Raises SettingError for a file that cannot be written.
    """
    lines = [json.dumps(sealed(dict(record))).encode() + b"\n" for record in records]
    try:
        with open(path, "a+b") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read(1) not in (b"", b"\n"):
                lines.insert(0, b"\n")  # or a line would be lost with the one that was cut
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SettingError(
            f"keep is {str(path)!r}, which cannot be written ({error.strerror}); allowed: a file "
            "in a writable folder with room"
        ) from None


def read(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """The number of each line, from 1, and its record; None for a line that is damaged."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            yield number, _record(line)


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return unsealed(record) if is_intact(record) else None


def kept(
    path: Path, wanted: Mapping[str, Facts], measured: Sequence[str]
) -> dict[str, dict[str, float | str]]:
    """What was ``measured`` of the facts wanted, by name, and on which hardware; a damaged line is
    passed over.

    A file that came with a clone is none of this run's (see atomlib.runs.store), and goes.
    """
    if path.is_file() and not counts(path):
        path.unlink()
    append(path)  # shows that it can be written, and ends a line that was cut
    found = {}
    for number, record in read(path):
        try:
            now = wanted.get(record["name"])
            if now and not differences(facts_of_line(record), now):
                numbers = {name: float(record[name]) for name in measured}
                hardware = str(record.get("hardware", NOT_ON_RECORD))
                found[record["name"]] = numbers | {"hardware": hardware}
        except (AttributeError, KeyError, TypeError, ValueError):
            print(f"line {number} of {path} is damaged; it is passed over", file=sys.stderr)
    return found


def facts(config: EvalConfig, data: str, trained_on: str) -> Facts:
    """What a candidate's result depends on: its settings, fingerprint of data, digest of proxy."""
    return Facts("the search", REVISION, settings_of(config), data, libraries(), trained_on)


def facts_of_line(record: Mapping[str, Any]) -> Facts:
    """The facts of a line; settings that it lacks are at today's default.

    Raises KeyError, TypeError or AttributeError for a line of another form.
    """
    settings = settings_of(EvalConfig()) | flat(record["settings"])
    about = record["revision"], settings, record["data"], record["libraries"], record["set"]
    return Facts("the search", *about)


def as_line(config: EvalConfig, data: str, trained_on: str) -> dict[str, Any]:
    """The facts of ``facts``, as a line has them, and the commit."""
    return {
        "data": data,
        "set": trained_on,
        "settings": config.model_dump(mode="json"),
        "given": given(config),
        "revision": REVISION,
        "libraries": libraries(),
        **commit(),
    }
