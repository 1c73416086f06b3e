"""The status of each result of a report: done, running, interrupted, stale or damaged, and why.

``make status PROFILE=quick``. It reads and makes nothing.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import Timeout

from atomlib import training
from atomlib.distilled_set import DistilledSet
from atomlib.errors import SettingError
from atomlib.methods import METHODS, Method
from atomlib.methods.method import CHECKPOINT
from atomlib.runs import lines
from atomlib.runs.lines import facts_of_line
from atomlib.runs.store import facts_of_distillation, facts_of_record, facts_of_set, made_since
from atomlib.runtime.bookmark import in_words, threads_in_words
from atomlib.runtime.files import DamagedError, lock_file, read_about, read_record
from atomlib.runtime.layout import Layout, set_of
from atomlib.runtime.provenance import Facts, differences, versions
from atomlib.training import EvalConfig

STATES = ("running", "interrupted", "damaged", "stale", "from the clone", "done")
"""The most urgent first."""


@dataclass(frozen=True)
class Line:
    """One result, or one run on its way to it."""

    name: str
    state: str
    """One of STATES."""
    why: str


def status(folder: str | Path, since: float | None = None) -> list[Line]:
    """A line for each set, each evaluation, each unfinished run in a report's folder, and in
    folders in it that hold distilled sets, such as your_data/.

    ``since``, in seconds since 1970, is when this clone's first run began: a result older than
    that came with the clone. None is what the folder tells. Raises SettingError where there is no
    such folder.
    """
    folder, layout = Path(folder), Layout(folder)
    if not folder.is_dir():
        raise SettingError(f"folder {folder} is not there; allowed: one that a run has written to")
    found = [
        replace(line, name=line.name.replace(" ", f" {layout.within(part.folder)}/", 1))
        for part in layout.parts()
        for line in status(part.folder, since)
    ]
    since, sets = made_since(folder) if since is None else since, {}
    for path in layout.all_distilled():
        found.append(_of_set(path, since, sets))
    for path in layout.records():
        found += _of_record(path, since, sets)
    found += _of_candidates(layout.candidates, since)
    found += [_of_judgement(path, since) for path in layout.judged.all_judgements()]
    found += [*_unfinished(layout.unfinished), *_unfinished(layout.judged.unfinished)]
    return sorted(found, key=lambda line: (STATES.index(line.state), line.name))


def _of_set(path: Path, since: float, sets: dict[str, DistilledSet]) -> Line:
    """Its line; a set that is whole goes into ``sets``."""
    name = f"set {path.stem}"
    try:
        made = sets[path.stem] = DistilledSet.load(path)
    except DamagedError as error:
        return Line(name, "damaged", f"{error}; the next run sets it aside")
    kind = type(made.method) if isinstance(made.method, Method) else None
    reasons = _since_distilled(facts_of_set(made), kind, made.given)
    return _judged(name, path, since, reasons, f"{made.method.length} iterations")


def _since_distilled(then: Facts, kind: type[Method] | None, given: list[str]) -> list[str]:
    """Why a set of ``then`` would be made otherwise today; ``kind`` None is not known here, and so
    neither are its revision and defaults."""
    if kind is None:
        return differences(then, then.today(revision=then.revision))
    return differences(then, then.today(revision=kind.revision, defaults=kind(), given=given))


def _of_record(path: Path, since: float, sets: dict[str, DistilledSet]) -> Iterator[Line]:
    """Its line; none where a set was distilled and not evaluated."""
    name = f"accuracies {path.stem}"
    try:
        record = read_record(path)
        if not record.get("accuracies"):
            return
        then, given = facts_of_record(record), record["evaluation"]["given"]
        now = then.today(revision=training.REVISION, defaults=EvalConfig(), given=given)
        trained = record["evaluate"]
        stem = set_of(path.stem, trained["model"], trained.get("variant", ""))
        if stem in sets:
            now = replace(now, trained_on=sets[stem].digest())
        reasons, what = differences(then, now), f"{len(record['accuracies'])} networks"
        if record["method"] != "whole" and stem not in sets:
            there = Layout.of_record(path).distilled(stem).exists()
            if CHECKPOINT.search(record["variant"]) and not there:
                what += "; a checkpoint, whose set was not kept"
                kind = METHODS.get(record["method"])
                if "distillation" not in record:  # of another network: the set's own has it
                    record = read_record(Layout.of_record(path).record(stem))
                run = record["distillation"]
                reasons += _since_distilled(facts_of_distillation(record), kind, run["given"])
            else:
                reasons.append(f"its set, {stem}, is not there or damaged")
    except DamagedError as error:
        yield Line(name, "damaged", f"{error}; the next run sets it aside")
    except (KeyError, AttributeError, TypeError) as error:
        yield Line(name, "damaged", f"{path} lacks {error}; the next run makes it again")
    else:
        yield _judged(name, path, since, reasons, what)


def _of_judgement(path: Path, since: float) -> Line:
    """The line of a published set under one protocol."""
    name = f"judged {path.stem}"
    try:
        record = read_record(path)
        then, given = facts_of_record(record), record["evaluation"]["given"]
        what = f"{len(record['accuracies'])} networks"
    except DamagedError as error:
        return Line(name, "damaged", f"{error}; the next run sets it aside")
    except (KeyError, AttributeError, TypeError) as error:
        return Line(name, "stale", f"it lacks {error}; the next run makes it again")
    now = then.today(revision=training.REVISION, defaults=EvalConfig(), given=given)
    return _judged(name, path, since, differences(then, now), what)


def _judged(name: str, path: Path, since: float, reasons: list[str], what: str) -> Line:
    if path.stat().st_mtime < since:
        reasons = ["the next run makes it again", *reasons]
        return Line(name, "from the clone", f"{what}; {'; '.join(reasons)}")
    return Line(name, "stale" if reasons else "done", "; ".join([what, *reasons]))


def _of_candidates(path: Path, since: float) -> Iterator[Line]:
    """One line for the candidates of each proxy."""
    if not path.is_file():
        return
    found: Counter[str] = Counter()
    stale: dict[str, Counter[str]] = {}
    damaged = 0
    for _, record in lines.read(path):
        try:
            then, proxy, given = facts_of_line(record), record["proxy"], record["given"]
            now = then.today(revision=lines.REVISION, defaults=EvalConfig(), given=given)
            found[proxy] += 1
            stale.setdefault(proxy, Counter()).update(differences(then, now))
        except (AttributeError, KeyError, TypeError):
            damaged += 1
    if damaged:
        yield Line("nas", "damaged", f"{damaged} lines of {path}; the next run passes them over")
    for proxy, count in found.items():
        reasons = [f"{why} ({times} of {count})" for why, times in stale[proxy].items()]
        yield _judged(f"nas {proxy}", path, since, reasons, f"{count} candidates")


def _unfinished(folder: Path) -> Iterator[Line]:
    """Runs that hold a lock, and runs that were killed."""
    # A file ".x.lock" is the lock of x, which is there once there is something to go on from.
    locked = {lock.name[1:-5] for lock in folder.glob(".*.lock")}
    for name in sorted({*locked, *(path.name for path in folder.glob("*.safetensors"))}):
        path, why, then = folder / name, "from its start", "the next run resumes it"
        if path.exists():
            try:
                about = read_about(path)
                hours = float(about["seconds"]) / 3600
                why = f"at {about['done']} of {about['total']}, after {hours:.2f} hours"
                if "threads" in about:  # earlier versions did not keep them
                    why += f" with {threads_in_words(about)}"
                    then = "the next run with as many resumes it"
                    if others := in_words(about, {**about, "versions": versions()}):
                        then = f"the next run begins anew, where it is not of {others}"
            except (AttributeError, DamagedError, KeyError, TypeError, ValueError):
                why = "from its start: where it was is damaged"
        if _is_held(path):
            yield Line(f"run {path.stem}", "running", why)
        elif path.exists():
            yield Line(f"run {path.stem}", "interrupted", f"{why}; {then}")


def _is_held(path: Path) -> bool:
    lock = lock_file(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    except (OSError, NotImplementedError):  # no locks are granted there
        return False
    lock.release()
    return False


def arguments(parser: argparse.ArgumentParser) -> None:
    """Of ``atomlib status``."""
    parser.add_argument("folder", type=Path, help="such as reports/quick")


def run(given: argparse.Namespace) -> None:
    """A line for each result and each run, and how many of each state."""
    found = status(given.folder)
    for line in found:
        print(f"{line.state:14}  {line.name:50}  {line.why}")
    counts = Counter(line.state for line in found)
    summed = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    print(f"{given.folder}: {summed or 'nothing yet'}")
