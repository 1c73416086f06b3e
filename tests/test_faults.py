"""Kills, full disks and folders that cannot be written: nothing is lost, nothing half-written.

Each child is a process of its own, struck by the kernel as a user's would be.
"""

import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import often

from atomlib.distill import distill
from atomlib.errors import SettingError
from atomlib.evaluate import evaluate
from atomlib.full_data import full_data_accuracies
from atomlib.methods import ATOM
from atomlib.nas import search as nas
from atomlib.nas.space import sample, search_space
from atomlib.runs.store import Store
from atomlib.runtime.files import atomic_write, read_tensors, write_tensors
from atomlib.training import EvalConfig

pytestmark = [
    pytest.mark.usefixtures("bookmarks_always"),
    pytest.mark.torture,
    pytest.mark.skipif(
        not hasattr(os, "fork") or sys.platform == "darwin",
        reason="starts its runs by fork, after which nothing trains where torch counts a GPU (MPS)",
    ),
]

RUN = ATOM(iterations=60, width=16, real_batch=4, ipc=2, compile="off")
TRAIN = EvalConfig(epochs=20, networks=3, width=16, batch_size=4, compile="off")


@pytest.fixture
def data(make_data):
    return make_data()


def child(work, *arguments):
    """A process at ``work``; it leaves without anything that pytest does at its end."""

    def run():
        status = 1
        try:
            work(*arguments)
            status = 0
        except SettingError as error:
            print(error)
            status = 3
        finally:
            os._exit(status)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


# What is killed: each finishes in a folder, and gives what it made as bytes.


def distillation(data, folder):
    made = distill(data, RUN, progress=False, resume=folder / "unfinished")
    return made.save(folder / "set").read_bytes()


def evaluation(data, folder):
    made = distill(data, RUN.but(iterations=0), progress=False)
    found = evaluate(made, data, TRAIN, progress=False, resume=folder / "unfinished")
    return repr(found.tolist()).encode()


def candidates(data, folder):
    proxy = nas.Proxy.of_set(distill(data, RUN.but(iterations=0), progress=False), epochs=20)
    space = sample(search_space(), image_size=8, count=3, restrict={"width": [32], "depth": [1]})
    frame = nas.evaluate_candidates(
        proxy, space, data, TRAIN, zca=False, keep=folder / "nas.jsonl", workers=1, progress=False
    )
    return repr(frame[["name", "validation", "test"]].to_dict()).encode()


def whole_set(data, folder):
    os.environ["ATOM_CACHE"] = str(folder / "cache")
    return repr(full_data_accuracies(data, TRAIN, zca=False, progress=False).tolist()).encode()


def report(data, folder):
    results = Store(folder / "report", progress=False)
    record = results.accuracies(results.distilled(data, RUN), data, TRAIN)
    return repr(record["accuracies"]).encode()


WORK = {
    "distillations": distillation,
    "evaluations": evaluation,
    "NAS sweeps": candidates,
    "whole-set trainings": whole_set,
    "reports": report,
}


@pytest.mark.parametrize("kind", WORK)
def test_killed_at_random_moments_it_ends_with_the_same_bytes(
    data, tmp_path, monkeypatch, tally, kind
):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "first" / "cache"))
    (tmp_path / "first").mkdir()
    start = time.perf_counter()
    expected = WORK[kind](data, tmp_path / "first")
    seconds = time.perf_counter() - start
    chance, kills, rounds = random.Random(kind), 0, 0
    while kills < often(20, 2):
        folder, rounds = tmp_path / f"round {rounds}", rounds + 1
        folder.mkdir()
        for _ in range(3):  # the same run, killed again and again
            process = child(WORK[kind], data, folder)
            time.sleep(chance.uniform(0.1, 1.0) * seconds)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            if process.exitcode != -signal.SIGKILL:
                assert process.exitcode == 0
                break
            kills += 1
        assert WORK[kind](data, folder) == expected
        left = [path.name for path in folder.rglob("*.safetensors") if "unfin" in str(path.parent)]
        assert left == [] and not (folder / "unfinished").is_file()
    tally(f"{kind} killed, continued to the same bytes", kills)


def write_again_and_again(path):
    for value in range(1 << 30):
        write_tensors(path, {"x": torch.full((1 << 20,), float(value))}, {"value": value})


def test_killed_while_writing_a_file_is_the_old_one_or_the_new_one(tmp_path, tally, monkeypatch):
    path, chance = tmp_path / "x", random.Random(0)
    write_tensors(path, {"x": torch.full((1 << 20,), -1.0)}, {"value": -1})
    halves = 0
    for _ in range(often(40, 6)):
        process = child(write_again_and_again, path)
        time.sleep(chance.uniform(0.05, 0.25))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        halves += any(tmp_path.glob(".x.*.partial"))
        tensors, about = read_tensors(path)
        assert (tensors["x"] == about["value"]).all()
        for left in tmp_path.glob(".x.*.partial"):
            os.utime(left, (0, 0))
        with atomic_write(tmp_path / "x") as partial:  # sweeps what the kill left
            partial.write_bytes(path.read_bytes())
        assert [file.name for file in tmp_path.iterdir()] == ["x"]
        tally("writers killed, file whole")
    tally("of them in the midst of a file", halves)


def fill_up(data, folder, room):
    """Do the work where no file can grow beyond ``room`` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    report(data, folder)


def test_a_full_disk_is_one_complaint_and_nothing_half_written(data, tmp_path, capfd, tally):
    expected = report(data, tmp_path / "whole")
    sizes = sorted(
        path.stat().st_size for path in (tmp_path / "whole").rglob("toy*.*") if path.is_file()
    )
    chance = random.Random(0)
    for number in range(often(20, 3)):
        folder = tmp_path / str(number)
        # From no room at all to enough for the smaller files alone.
        process = child(fill_up, data, folder, chance.randrange(0, sizes[-1]))
        process.join()
        assert process.exitcode == 3
        said = capfd.readouterr().out.strip()
        assert said.count("\n") == 0 and "allowed: a writable folder with room" in said
        left = {path.name for path in folder.rglob("*") if path.is_file()}
        assert not any(name.endswith(".partial") for name in left)
        assert report(data, folder) == expected
        tally("full disks told in one sentence, work gone on with later")


@pytest.mark.parametrize("kind", ["distillations", "reports"])
def test_a_folder_that_cannot_be_written_is_told_before_any_work(
    data, tmp_path, monkeypatch, complains, tally, kind
):
    def refused(*_, **__):
        pytest.fail("work was begun")

    monkeypatch.setattr("atomlib.methods.Learner.iterate", refused)
    for place in read_only(tmp_path):
        with complains("cannot be written", "allowed: a writable folder"):
            WORK[kind](data, place)
        tally("folders that cannot be written, told before any work")


def read_only(tmp_path):
    """Places that no one can write to, root included: below a file, and in a system's folder."""
    (tmp_path / "file").touch()
    yield tmp_path / "file"
    if os.path.isdir("/proc/self/fd"):
        yield Path("/proc/self/fd")
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if not os.access(locked, os.W_OK):
        yield locked
