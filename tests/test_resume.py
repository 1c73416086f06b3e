"""A run that is killed ends, once it goes on, with the bytes of one that never was."""

import hashlib

import pytest
import torch

from atomlib.distill import distill, trajectory
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, DM, MTT, Learner, RandomImages
from atomlib.runtime import bookmark as resume
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.files import read_about, write_tensors
from atomlib.training import EvalConfig

RUN = ATOM(iterations=12, width=16, real_batch=4, ipc=2, compile="off")
TRAIN = EvalConfig(epochs=2, networks=4, width=16, compile="off")
pytestmark = pytest.mark.usefixtures("bookmarks_always")
STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}


@pytest.fixture
def data(make_data):
    return make_data()


class Cut(Exception):
    """Raised where a kill would strike."""


def cut_at(monkeypatch, owner, name, call):
    """Have the ``call``-th call of a method fail; returns how many there were."""
    plain, calls = getattr(owner, name), []

    def method(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Cut
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, method)
    return calls


# The file


def test_what_was_written_is_read(tmp_path):
    kept = Bookmark.of(tmp_path / "x", "run")
    assert kept.read() == {}
    kept.write(STATE, 1, 2)
    found = Bookmark.of(tmp_path / "x", "run").read()
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)
    kept.end()
    assert kept.read() == {} and not any(tmp_path.iterdir())


def test_another_runs_file_is_not_read(tmp_path, monkeypatch):
    kept = Bookmark(tmp_path / "x")
    Bookmark.of(kept, "run").write(STATE, 1, 2)
    assert Bookmark.of(kept, "other run").read() == {}
    monkeypatch.setattr(resume, "versions", lambda: {"torch": "9.9"})
    assert Bookmark.of(kept, "run").read() == {}


def test_another_runs_file_that_somebody_gives_stays(tmp_path, monkeypatch, complains):
    path = tmp_path / "x"
    Bookmark.of(path, "run").write(STATE, 1, 2)
    before = path.read_bytes()
    with complains(f"resume is {path}", "the bookmark of another run (1 of 2 steps;", "its own"):
        Bookmark.of(path, "other run")
    monkeypatch.setattr(resume, "versions", lambda: {"torch": "9.9"})
    with complains(f"resume is {path}", "the bookmark of another run"):
        Bookmark.of(str(path), "run")
    assert path.read_bytes() == before


def key_of_before(run):
    """As the version before kept it, without saying of what it was made."""
    about = f"{run} {resume.versions()} {torch.get_num_threads()}"
    return hashlib.sha256(about.encode()).hexdigest()


def test_a_file_of_the_version_before_is_gone_on_from(tmp_path, capsys):
    path = tmp_path / "x"
    about = {"run": key_of_before("run"), "done": 1, "total": 2, "seconds": 7.0}
    write_tensors(path, STATE, about)
    kept = Bookmark.of(Bookmark(path), "run")
    assert kept.read().keys() == STATE.keys() and kept.seconds >= 7
    write_tensors(path, STATE, {**about, "run": "other"})
    assert Bookmark.of(Bookmark(path), "run").read() == {}
    assert capsys.readouterr().err == ""


def test_the_same_run_with_other_threads_versions_or_numbers_says_that_it_begins_anew(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "mine.safetensors"
    plain, (how, other) = resume.versions(), ("eager float32 on cpu", "eager bfloat16 on cpu")
    Bookmark.of(Bookmark(path), f"run {how} 1", how).write(STATE, 15, 20)
    assert Bookmark.of(Bookmark(path), f"run {how} 1", how).read()
    assert not Bookmark.of(Bookmark(path), f"another run {how} 1", how).read()
    assert capsys.readouterr().err == ""
    begins = "mine stood at 15 of 20 with {}; with {}, as here, it rounds otherwise, so it begins"

    def said(how=how):
        assert not Bookmark.of(Bookmark(path), f"run {how} 1", how).read()
        return capsys.readouterr().err

    assert said(other) == f"{begins.format(how, other)} anew\n"
    with monkeypatch.context() as patch:
        patch.setattr(resume, "versions", lambda: {**plain, "numpy": "9.9"})
        assert said() == f"{begins.format('numpy ' + plain['numpy'], 'numpy 9.9')} anew\n"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    way = "(OMP_NUM_THREADS=1, of a grid's cell CPUS_PER_CELL=1, goes on)"
    assert said() == f"{begins.format('1 thread', '2 threads')} anew {way}\n"


def test_a_distillation_and_an_evaluation_say_of_what_number_type_they_were(
    data, tmp_path, monkeypatch
):
    made, path = distill(data, RUN.but(iterations=0), progress=False), tmp_path / "x"
    asked, exact = {"progress": False, "resume": path}, {"precision": "float32"}
    for owner, step, run in (
        (Learner, "iterate", lambda: distill(data, RUN.but(**exact), **asked)),
        (torch.optim.SGD, "step", lambda: evaluate(made, data, TRAIN.but(**exact), **asked)),
    ):
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_at(patch, owner, step, 8)
            run()
        about = read_about(path)
        assert about["how"] == "eager float32 on cpu" and about["threads"] == 1
        path.unlink()


def test_a_file_with_any_byte_changed_or_cut_is_not_read(tmp_path):
    path = tmp_path / "x"
    Bookmark.of(path, "run").write(STATE, 1, 2)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = Bookmark.of(Bookmark(path), "run").read()
        # A byte may be changed without a meaning, such as a space of the header's end.
        assert found == {} or all(torch.equal(found[name], STATE[name]) for name in STATE)
        path.write_bytes(whole[:place])
        assert Bookmark.of(Bookmark(path), "run").read() == {}


@pytest.mark.parametrize("content", [b"a photo", b"", "set", "cut", "folder"])
def test_what_somebody_gives_and_is_no_bookmark_stays(data, tmp_path, complains, content):
    """A run that ends deletes its bookmark: the set itself, say, or a photo, is none."""
    path = tmp_path / "mine"
    if content == "folder":
        path.mkdir()
    elif content == "set":
        distill(data, RandomImages(), progress=False).save(path)
    elif content == "cut":
        Bookmark.of(path, "run").write(STATE, 1, 2)
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.write_bytes(content)
    before = None if path.is_dir() else path.read_bytes()
    with complains(f"resume is {path}", "no bookmark"):
        distill(data, RUN, progress=False, resume=path)
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize("given", [5, True, b"x", "", "a" * 300, "\0", "\ud800"])
def test_what_is_no_path_is_refused_before_any_work(data, complains, given):
    with complains("resume is", "allowed: the path"):
        distill(data, RUN, progress=False, resume=given)


@pytest.mark.parametrize("method", [RandomImages(), MTT()])
def test_it_is_refused_before_a_method_trains_anything(data, tmp_path, complains, method):
    (tmp_path / "photo").write_bytes(b"a photo")
    for given, part in ((tmp_path / "photo", "no bookmark"), (5, "allowed: the path")):
        with complains("resume is", part):
            distill(data, method, progress=False, resume=given)


def test_without_a_file_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Bookmark.of(None, "run")
    kept.write(STATE, 1, 2)
    assert kept.read() == {} and not kept.due() and not any(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(data, tmp_path, complains):
    (tmp_path / "file").touch()
    with complains("cannot be written", "a writable folder"):
        distill(data, RUN, progress=False, resume=tmp_path / "file" / "x")


def test_it_is_written_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(resume, "EVERY_SECONDS", 3600.0)
    kept = Bookmark.of(tmp_path / "x", "run")
    assert not kept.due()
    kept.written -= 3601
    assert kept.due()
    kept.write(STATE, 1, 2)
    assert not kept.due()


# Distillation


@pytest.mark.parametrize("settings", [{}, {"norm": "batch"}, {"image_momentum": 0.0}])
def test_a_distillation_cut_anywhere_ends_with_the_same_bytes(
    data, tmp_path, monkeypatch, settings
):
    config = RUN.but(**settings)
    whole = distill(data, config, progress=False).save(tmp_path / "whole").read_bytes()
    for call in (1, 2, 7, 12):
        path = tmp_path / "unfinished"
        with monkeypatch.context() as patch, pytest.raises(Cut):
            cut_at(patch, Learner, "iterate", call)
            distill(data, config, progress=False, resume=path)
        assert path.exists() == (call > 1)
        with monkeypatch.context() as patch:
            calls = cut_at(patch, Learner, "iterate", 0)
            made = distill(data, config, progress=False, resume=path)
        assert len(calls) == 12 - (call - 1)
        assert made.save(tmp_path / "cut").read_bytes() == whole
        assert not path.exists()


def test_a_run_past_a_checkpoint_that_is_asked_for_starts_anew(data, tmp_path, monkeypatch):
    path = tmp_path / "unfinished"
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(patch, Learner, "iterate", 8)
        distill(data, RUN, progress=False, resume=path)
    early, late = trajectory(data, RUN, (5,), progress=False, resume=path)
    expected = list(trajectory(data, RUN, (5,), progress=False))
    assert torch.equal(early.trained, expected[0].trained)
    assert torch.equal(late.trained, expected[1].trained)


def test_another_setting_does_not_go_on_from_it(data, tmp_path, monkeypatch):
    kept = Bookmark(tmp_path / "unfinished")
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(patch, Learner, "iterate", 8)
        distill(data, RUN, progress=False, resume=kept)
    made = distill(data, RUN.but(seed=1), progress=False, resume=kept)
    assert torch.equal(made.trained, distill(data, RUN.but(seed=1), progress=False).trained)


@pytest.mark.parametrize("other", [RUN.but(seed=1), DM(iterations=12, width=16, compile="off")])
def test_another_run_leaves_it_to_the_one_that_was_killed(
    data, tmp_path, monkeypatch, complains, other
):
    whole = distill(data, RUN, progress=False)
    path = tmp_path / "unfinished"
    with monkeypatch.context() as patch, pytest.raises(Cut):
        cut_at(patch, Learner, "iterate", 8)
        distill(data, RUN, progress=False, resume=path)
    for refused in (
        lambda: distill(data, other, progress=False, resume=path),
        lambda: evaluate(whole, data, TRAIN, progress=False, resume=path),
    ):
        with complains(f"resume is {path}", "the bookmark of another run (7 of 12 steps;"):
            refused()
    with monkeypatch.context() as patch:
        calls = cut_at(patch, Learner, "iterate", 0)
        made = distill(data, RUN, progress=False, resume=path)
    assert len(calls) == 12 - 7 and torch.equal(made.trained, whole.trained)


# Evaluation


@pytest.mark.parametrize("call", [2, 9, 12])
@pytest.mark.parametrize("settings", [{}, {"norm": "batch"}, {"model": "vit"}, {"together": 2}])
def test_an_evaluation_goes_on_at_the_pass_it_was_at(data, tmp_path, monkeypatch, settings, call):
    """Two passes over the set in each of four networks, half an epoch's schedule behind one."""
    made = distill(data, RUN.but(iterations=0), progress=False)
    config, path = TRAIN.but(batch_size=4, **settings), tmp_path / "unfinished"
    whole, done = evaluate(made, data, config, progress=False), []

    step = torch.optim.SGD.step

    def counted(self, *args):
        done.append(1)
        if len(done) == call:
            raise Cut
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", counted)
    with pytest.raises(Cut):
        evaluate(made, data, config, progress=False, resume=path)
    steps = 2 * 3 * 4 // config.together if config.together else 2 * 3 * 4
    begun = (call - 1) % 2  # steps of the pass that was cut
    done[:] = [0] * call
    assert torch.equal(evaluate(made, data, config, progress=False, resume=path), whole)
    assert len(done) - call == steps - (call - 1 - begun)
    assert not path.exists()


def test_the_seconds_before_a_kill_count(tmp_path):
    kept = Bookmark.of(tmp_path / "x", "run")
    kept.start -= 100
    kept.write(STATE, 1, 2)
    later = Bookmark.of(tmp_path / "x", "run")
    later.read()
    assert 100 <= later.seconds < 110


def test_a_state_of_other_shapes_or_types_is_not_gone_on_from(tmp_path):
    Bookmark.of(tmp_path / "x", "run").write(STATE, 1, 2)
    kept = Bookmark.of(tmp_path / "x", "run")
    assert kept.read(like={"a": torch.zeros(2, 3)}).keys() == STATE.keys()
    for other in ({"a": torch.zeros(3, 2)}, {"a": torch.zeros(2, 3).long()}, {"c": torch.zeros(1)}):
        assert kept.read(like=other) == {}
