"""What a report's folder holds, in words: each state is brought about, and told."""

import multiprocessing
import os
import time

import pytest

from atomlib import training
from atomlib.cli import main
from atomlib.distilled_set import DistilledSet
from atomlib.errors import SettingError
from atomlib.methods import ATOM
from atomlib.methods.method import Learner
from atomlib.nas import Proxy, evaluate_candidates, sample, search_space
from atomlib.report.folder import ReportFolder
from atomlib.runs import lines
from atomlib.runs import status as module
from atomlib.runs.status import status
from atomlib.runs.store import Store
from atomlib.runtime import bookmark as resume
from atomlib.runtime import provenance
from atomlib.runtime.files import read_record, write_record
from atomlib.runtime.layout import Layout
from atomlib.training import EvalConfig

SMALL = ATOM(iterations=3, width=16, real_batch=4, compile="off")
BRIEF = EvalConfig(epochs=2, networks=2, width=16, compile="off")
STEM = "toy-atom-ipc1-seed0"


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def results(tmp_path, data):
    results = Store(tmp_path / "report", progress=False)
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    return results


def told(results, since=0.0):
    return {line.name: (line.state, line.why) for line in status(results.folder, since)}


def test_what_is_there_is_done(results):
    assert told(results) == {
        f"set {STEM}": ("done", "3 iterations"),
        f"accuracies {STEM}": ("done", "2 networks"),
    }


def test_all_kinds_of_results_are_told(results, data):
    results.full_data(data, BRIEF, zca=False)
    made = results.trajectory(data, SMALL, [1])
    results.accuracies(made[-1], data, BRIEF.but(model="alexnet"))
    found = told(results)
    assert {state for state, _ in found.values()} == {"done"}
    assert set(found) == {
        f"set {STEM}", f"set {STEM}-it1", f"accuracies {STEM}",
        f"accuracies {STEM}-on-alexnet", "accuracies toy-whole",
    }  # fmt: skip


def test_what_other_libraries_made_is_stale(results, monkeypatch):
    plain = provenance.versions()
    monkeypatch.setattr(provenance, "versions", lambda: {**plain, "torch": "9.9"})
    for state, why in told(results).values():
        assert state == "stale" and "is 9.9" in why


def test_what_another_revision_made_is_stale(results, monkeypatch):
    monkeypatch.setattr(ATOM, "revision", 2)
    found = told(results)
    why = "3 iterations; atom is at revision 2, this is of 1"
    assert found[f"set {STEM}"] == ("stale", why)
    assert found[f"accuracies {STEM}"][0] == "done"
    monkeypatch.setattr(training, "REVISION", 3)
    why = "2 networks; training is at revision 3, this is of 1"
    assert told(results)[f"accuracies {STEM}"] == ("stale", why)


def test_what_another_default_made_is_stale(results, data, new_default):
    results.full_data(data, BRIEF.but(momentum=0.5), zca=False)
    new_default(EvalConfig, "lr", 0.5)
    new_default(EvalConfig, "width", 64)  # which was given, and so is still asked for
    new_default(ATOM, "image_momentum", 0.9)
    for name in (f"accuracies {STEM}", "accuracies toy-whole"):
        assert told(results)[name] == ("stale", "2 networks; lr was 0.01, is 0.5")
    why = "3 iterations; image_momentum was 0.5, is 0.9"
    assert told(results)[f"set {STEM}"] == ("stale", why)


def test_candidates_of_the_search_are_told(results, data, new_default, monkeypatch):
    proxy = Proxy.of_set(results.distilled(data, SMALL), epochs=1)
    candidates = sample(search_space(), image_size=8, count=2, restrict={"depth": [1]})
    evaluate_candidates(
        proxy, candidates, data, zca=False, workers=1, progress=False,
        keep=results.folder / "nas.jsonl",
    )  # fmt: skip
    assert told(results)["nas atom"] == ("done", "2 candidates")
    monkeypatch.setattr(lines, "REVISION", 2)
    new_default(EvalConfig, "lr", 0.5)
    state, why = told(results)["nas atom"]
    assert state == "stale"
    assert why.split("; ") == [
        "2 candidates",
        "lr was 0.01, is 0.5 (2 of 2)",
        "the search is at revision 2, this is of 1 (2 of 2)",
    ]


def test_a_record_without_a_revision_is_told(results):
    path = results.folder / "results" / f"{STEM}.json"
    record = read_record(path)
    del record["evaluation"]["revision"]
    write_record(path, record)
    state, why = told(results)[f"accuracies {STEM}"]
    assert state == "damaged" and "lacks 'revision'; the next run makes it again" in why


def test_accuracies_of_a_set_that_is_no_more_are_stale(results, data):
    path = results.folder / "distilled" / f"{STEM}.safetensors"
    made = DistilledSet.load(path)
    made.trained[0, 0, 0, 0] += 1
    made.save(path)
    assert told(results)[f"accuracies {STEM}"] == (
        "stale",
        "2 networks; its set was made anew since",
    )
    path.unlink()
    assert "is not there" in told(results)[f"accuracies {STEM}"][1]


def test_a_checkpoint_whose_set_was_not_kept_is_done_until_it_would_be_another(
    results, data, monkeypatch
):
    first, _ = results.trajectory(data, SMALL, [1])
    results.accuracies(first, data, BRIEF)
    results.layout.distilled(first.stem).unlink()
    name, words = f"accuracies {first.stem}", "2 networks; a checkpoint, whose set was not kept"
    assert told(results)[name] == ("done", words)
    monkeypatch.setattr(ATOM, "revision", 2)
    found = "atom is at revision 2, this is of 1"
    assert told(results)[name] == ("stale", f"{words}; {found}")


def test_damage_is_named(results):
    for path in results.folder.rglob("toy*.*"):
        path.write_bytes(path.read_bytes()[:-9])
    for state, why in told(results).values():
        assert state == "damaged" and STEM in why and "sets it aside" in why


def test_what_came_with_the_clone_is_no_run_of_it(results):
    for state, why in told(results, since=time.time() + 9).values():
        assert state == "from the clone" and "the next run makes it again" in why


def test_a_run_that_was_cut_says_where(results, data, monkeypatch):
    monkeypatch.setattr(resume, "EVERY_SECONDS", 0.0)
    plain, calls = Learner.iterate, []

    def cut(self):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(self)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "iterate", cut)
        results.distilled(data, SMALL.but(seed=1))
    state, why = told(results)["run toy-atom-ipc1-seed1"]
    assert state == "interrupted" and why.startswith("at 2 of 3, after 0.0")
    assert why.endswith(" hours with 1 thread; the next run with as many resumes it")
    with monkeypatch.context() as patch:
        plain = module.versions()
        patch.setattr(module, "versions", lambda: {**plain, "numpy": "9.9"})
        why = told(results)["run toy-atom-ipc1-seed1"][1]
    assert why.endswith(f"the next run begins anew, where it is not of numpy {plain['numpy']}")
    results.distilled(data, SMALL.but(seed=1))
    assert "run toy-atom-ipc1-seed1" not in told(results)


def work(folder, data, started):
    plain = Learner.iterate

    def slow(self):
        started.touch()
        time.sleep(60)
        return plain(self)

    Learner.iterate = slow
    Store(folder, progress=False).distilled(data, SMALL.but(seed=2))


def test_a_run_at_work_is_told_until_it_is_killed(results, data, tmp_path):
    started = tmp_path / "started"
    process = multiprocessing.get_context("spawn").Process(
        target=work, args=(results.folder, data, started)
    )
    process.start()
    while not started.exists():
        time.sleep(0.01)
    assert told(results)["run toy-atom-ipc1-seed2"] == ("running", "from its start")
    process.kill()
    process.join()
    assert "run toy-atom-ipc1-seed2" not in told(results)
    assert results.distilled(data, SMALL.but(seed=2)).method.seed == 2  # its lock is let go of


def test_the_command_lists_and_counts(results, monkeypatch, capsys, complains):
    monkeypatch.chdir(results.folder.parent)
    assert main(["status", "report"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.startswith("done") for line in lines)
    assert last == "report: 2 done", "whatever made it, no clone brought it"
    assert main(["status", "elsewhere"]) == 1
    assert "error: folder elsewhere is not there" in capsys.readouterr().err
    with complains("elsewhere", kind=SettingError):
        module.status("elsewhere")


def test_a_profiles_results_are_the_clones_until_its_first_run(results, monkeypatch):
    """Those of your_data/ in it too."""
    clone = results.folder.parent
    monkeypatch.chdir(clone)
    (clone / "notebooks" / "profiles").mkdir(parents=True)
    (clone / "notebooks" / "profiles" / "mine.yaml").touch()
    mine = Layout("reports/mine")
    (clone / "reports" / "mine").mkdir(parents=True)
    results.folder.rename(mine.folder / "your_data")
    assert {line.state for line in status(mine.folder / "your_data")} == {"from the clone"}
    found = {line.name: line.state for line in status(mine.folder)}
    assert found == dict.fromkeys(
        (f"set your_data/{STEM}", f"accuracies your_data/{STEM}"), "from the clone"
    )
    mine.started.parent.mkdir(parents=True, exist_ok=True)
    mine.started.touch()
    os.utime(mine.started, (0, 0))
    for folder in (mine.folder, mine.folder / "your_data"):
        assert {line.state for line in status(folder)} == {"done"}


@pytest.mark.parametrize("value", [None, []])
def test_a_record_without_accuracies_is_no_evaluation(results, value):
    path = results.layout.record(STEM)
    write_record(path, {**read_record(path), "accuracies": value})
    assert set(told(results)) == {f"set {STEM}"}


@pytest.mark.parametrize(
    ("part", "value"),
    [("dataset", 5), ("seed", None), ("distill", None), ("evaluate", {}), ("accuracies", ["9"])],
)
def test_a_record_of_another_form_is_none_of_a_reports(results, part, value):
    """Tables and pages are made without it, and name it."""
    path = results.layout.record(STEM)
    assert list(ReportFolder.read(results.folder).records) == [STEM]
    write_record(path, {**read_record(path), part: value})
    read = ReportFolder.read(results.folder)
    assert not read.records and read.unreadable == [f"results/{STEM}.json"]
