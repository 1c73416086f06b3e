"""Results kept: read where they were made from the same things, made again where not."""

import json
import multiprocessing
import os
import time
from dataclasses import replace

import pytest
import torch

from atomlib import full_data
from atomlib.distill import distill
from atomlib.distilled_set import DistilledSet
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, DM, METHODS
from atomlib.runs import made_so_far, store, sweep
from atomlib.runs.grid import Cell, FullDataCell
from atomlib.runs.store import Store
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.files import read_record, read_tensors, write_record, write_tensors
from atomlib.training import EvalConfig

QUICK = {"width": 16, "compile": "off"}
SMALL = ATOM(**QUICK, iterations=2, real_batch=4)
BRIEF = EvalConfig(**QUICK, epochs=2, networks=2)


def made_by(name, **settings):
    known = METHODS[name].model_fields
    values = SMALL.model_dump() | settings
    return METHODS[name](**{key: value for key, value in values.items() if key in known})


@pytest.fixture
def results(tmp_path):
    return Store(tmp_path / "report", progress=False)


@pytest.fixture
def data(make_data):
    return make_data()


@pytest.fixture
def work(monkeypatch):
    """The names of what was computed, in order."""
    done = []

    def count(name):
        function = getattr(store, name)

        def counted(*args, **kwargs):
            done.append(name)
            return function(*args, **kwargs)

        monkeypatch.setattr(store, name, counted)

    count("trajectory")
    count("evaluate")
    return done


def files(results, folder):
    return [path.name for path in (results.folder / folder).iterdir()]


def one_pixel_changed(data):
    pixels = data.train_images.clone()
    pixels[0, 0, 0, 0] ^= 1
    return replace(data, train_images=pixels, fingerprint="")


@pytest.mark.parametrize("method", ["random", "dm", "datadam", "atom"])
def test_files_are_named_as_the_contract_says(results, data, method):
    made = results.distilled(data, made_by(method, ipc=2, seed=3))
    results.accuracies(made, data, BRIEF)
    assert files(results, "distilled") == [f"toy-{method}-ipc2-seed3.safetensors"]
    assert files(results, "results") == [f"toy-{method}-ipc2-seed3.json"]


def test_the_set_is_what_distill_makes(results, data):
    made, expected = results.distilled(data, SMALL), distill(data, SMALL, progress=False)
    found = DistilledSet.load(results.folder / "distilled" / f"{made.stem}.safetensors")
    for one in (made, found):
        assert one.method == expected.method == SMALL.resolve(data)
        assert torch.equal(one.images, expected.images)
        assert torch.equal(one.trained, expected.trained)


def test_the_record_says_what_evaluate_measures_and_what_was_measured(results, data):
    made = results.distilled(data, SMALL)
    record = results.accuracies(made, data, BRIEF)
    measured = evaluate(made, data, BRIEF, progress=False).tolist()
    assert record["accuracies"] == pytest.approx(measured, abs=1e-4)
    assert len(record["accuracies"]) == BRIEF.networks
    about = {key: record[key] for key in ("dataset", "data", "method", "ipc", "seed")}
    assert list(about.values()) == ["toy", data.fingerprint, "atom", 1, 0]
    assert record["distill"] == made.method.model_dump(mode="json")
    assert record["evaluate"] == BRIEF.resolve(8).model_dump(mode="json")
    for part in ("distillation", "evaluation"):
        assert record[part]["seconds"] >= 0
        assert "torch" in record[part]["versions"]
        assert record[part]["how"] == "eager float32 on cpu"
    (path,) = (results.folder / "results").iterdir()
    assert read_record(path) == record


@pytest.mark.parametrize("folder", [None, 3, "", b"x", "a" * 300])
def test_what_is_no_folder_is_told(complains, folder):
    with complains("folder is", "allowed: the path of"):
        Store(folder)


def test_what_is_no_data_method_set_or_config_is_told(results, data, complains):
    made = results.distilled(data, SMALL)
    full = {"zca": False}
    for wrong in ("digits", None, 3):
        with complains("data is", "load_dataset"):
            results.distilled(wrong, SMALL)
        with complains("data is", "load_dataset"):
            results.accuracies(made, wrong, BRIEF)
        with complains("data is", "load_dataset"):
            results.full_data(wrong, BRIEF, **full)
    for wrong in ("atom", None, BRIEF, ATOM):
        for use in (results.distilled, results.has):
            with complains("method is", "such as ATOM(ipc=1)"):
                use(data, wrong)
        for use in (results.recorded, results.holds):
            with complains("method is", "such as ATOM(ipc=1)"):
                use(data, wrong, BRIEF)
        with complains("distilled is", "DistilledSet.load"):
            results.accuracies(wrong, data, BRIEF)
    for wrong in ({"epochs": 2}, None, SMALL):
        with complains("config is", "an EvalConfig"):
            results.accuracies(made, data, wrong)
        with complains("config is", "an EvalConfig"):
            results.recorded(data, SMALL, wrong)
        for use in (results.full_data, results.holds_full_data):
            with complains("config is", "an EvalConfig"):
                use(data, wrong, **full)
    for at in (1, "1", [7], [-1]):
        with complains("at ", "allowed:"):
            results.trajectory(data, SMALL, at)


def test_what_was_made_is_read(results, data, work, tmp_path):
    made = results.distilled(data, SMALL)
    record = results.accuracies(made, data, BRIEF)
    work.clear()
    later = Store(tmp_path / "report", progress=False)
    again = later.distilled(data, SMALL)
    assert torch.equal(again.trained, made.trained)
    assert later.accuracies(again, data, BRIEF) == record
    assert work == []


@pytest.mark.parametrize(
    "change", [{"iterations": 1}, {"task_balance": 0.5}, {"depth": 3}, {"zca": True}], ids=str
)
def test_another_setting_is_another_set(results, data, work, change):
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    work.clear()
    made = results.distilled(data, SMALL.but(**change))
    assert made.method == SMALL.but(**change).resolve(data)
    record = results.accuracies(made, data, BRIEF)
    assert record["distill"] == made.method.model_dump(mode="json")
    assert work == ["trajectory", "evaluate"]


def test_other_data_is_another_set(results, data, work):
    results.distilled(data, SMALL)
    other = one_pixel_changed(data)
    assert results.distilled(other, SMALL).data_fingerprint == other.fingerprint
    assert work == ["trajectory", "trajectory"]


def test_the_same_pixels_under_other_statistics_are_another_set(results, data, work):
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    other = replace(data, statistics=((0.5,) * data.channels, (0.25,) * data.channels))
    made = results.distilled(other, SMALL)
    results.accuracies(made, other, BRIEF)
    assert work == ["trajectory", "evaluate"] * 2


def test_other_methods_ipc_and_seeds_rest_beside_each_other(results, data, work):
    configs = [SMALL, DM(**QUICK, iterations=2, real_batch=4), SMALL.but(ipc=2), SMALL.but(seed=1)]
    for config in [*configs, *configs]:
        results.distilled(data, config)
    assert len(work) == 4


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b"",
        lambda b: b"x" * 99,
        lambda b: b[:-1] + bytes([b[-1] ^ 1]),  # a label, or a pixel by a hair
    ],
)
def test_a_damaged_set_is_named_set_aside_and_made_again(results, data, work, capsys, spoil):
    results.distilled(data, SMALL)
    (path,) = (results.folder / "distilled").iterdir()
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    results.distilled(data, SMALL)
    assert work == ["trajectory", "trajectory"]
    assert path.read_bytes() == whole
    (aside,) = (results.folder / "unfinished" / "damaged").iterdir()
    assert aside.read_bytes() == spoil(whole)
    said = capsys.readouterr().err
    assert str(path) in said and str(aside) in said and said.count("\n") == 1


@pytest.mark.parametrize("change", [{"epochs": 1}, {"networks": 1}, {"seed": 1}], ids=str)
def test_another_protocol_is_measured_anew(results, data, work, change):
    made = results.distilled(data, SMALL)
    results.accuracies(made, data, BRIEF)
    other = BRIEF.but(**change)
    record = results.accuracies(made, data, other)
    assert record["evaluate"] == other.resolve(8).model_dump(mode="json")
    assert record["distillation"]["seconds"] >= 0
    assert work == ["trajectory", "evaluate", "evaluate"]


@pytest.mark.parametrize("junk", [b"", b'{"key": ', b"[]", b"null", b"\xff\xfe"], ids=repr)
def test_a_damaged_record_is_made_again(results, data, junk):
    made = results.distilled(data, SMALL)
    record = results.accuracies(made, data, BRIEF)
    (path,) = (results.folder / "results").iterdir()
    path.write_bytes(junk)
    assert results.accuracies(made, data, BRIEF)["accuracies"] == record["accuracies"]
    (aside,) = (results.folder / "unfinished" / "damaged").iterdir()
    assert aside.read_bytes() == junk


def test_an_accuracy_changed_by_hand_is_noticed(results, data, work):
    made = results.distilled(data, SMALL)
    record = results.accuracies(made, data, BRIEF)
    (path,) = (results.folder / "results").iterdir()
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "accuracies": [99.0, 99.0]}))
    assert results.accuracies(made, data, BRIEF)["accuracies"] == record["accuracies"]
    assert work == ["trajectory", "evaluate", "evaluate"]


def test_another_revision_of_the_method_is_another_set(results, data, work, monkeypatch):
    """Of the same images, as it happens: they keep their accuracies."""
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    results.distilled(data, DM(**QUICK, iterations=2, real_batch=4))
    work.clear()
    monkeypatch.setattr(ATOM, "revision", 2)
    for _ in "ab":  # once
        results.accuracies(results.distilled(data, SMALL), data, BRIEF)
        results.distilled(data, DM(**QUICK, iterations=2, real_batch=4))
    assert work == ["trajectory"]
    assert results.distilled(data, SMALL).revision == 2


def test_another_revision_of_training_is_another_evaluation(results, data, work, monkeypatch):
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    work.clear()
    monkeypatch.setattr(store, "REVISION", 2)
    for _ in "ab":
        record = results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    assert work == ["evaluate"]
    assert record["evaluation"]["revision"] == 2


def test_a_changed_default_of_the_protocol_is_another_evaluation(results, data, work, new_default):
    made = results.distilled(data, SMALL)
    results.accuracies(made, data, BRIEF)
    new_default(EvalConfig, "lr", 0.5)
    today = EvalConfig(**QUICK, epochs=2, networks=2)
    assert results.accuracies(made, data, today)["evaluate"]["lr"] == 0.5
    assert work == ["trajectory", "evaluate", "evaluate"]


def test_a_changed_default_of_the_method_is_another_set(results, data, work, new_default):
    results.distilled(data, SMALL)
    new_default(ATOM, "image_momentum", 0.9)
    today = ATOM(**QUICK, iterations=2, real_batch=4)
    assert results.distilled(data, today).method.image_momentum == 0.9
    assert work == ["trajectory", "trajectory"]


@pytest.mark.parametrize("change", ["default", "revision"])
def test_networks_of_the_full_data_are_trained_anew(
    results, data, new_default, tmp_path, monkeypatch, change
):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))
    before = results.full_data(data, BRIEF, zca=False)
    if change == "default":
        new_default(EvalConfig, "lr", 0.5)
    else:
        monkeypatch.setattr(store, "REVISION", 2)
        monkeypatch.setattr(full_data, "REVISION", 2)
    after = results.full_data(data, EvalConfig(**QUICK, epochs=2, networks=2), zca=False)
    assert after != before
    assert len([*(tmp_path / "cache" / "networks").glob("*.safetensors")]) == 4


def test_a_setting_added_since_leaves_old_results_as_they_are(results, data, work):
    """A record that lacks a setting was made with its default."""
    made = results.distilled(data, SMALL)
    record = results.accuracies(made, data, BRIEF)
    (path,) = (results.folder / "results").iterdir()
    del record["evaluate"]["step_size"], record["evaluate"]["dsa"]["rotate"]
    write_record(path, record)
    assert results.accuracies(made, data, BRIEF) == record
    assert work == ["trajectory", "evaluate"]


def test_a_setting_added_since_leaves_the_networks_of_the_full_data(data, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))
    full_data.trained_network(data, BRIEF, zca=False, progress=False)
    (path,) = (tmp_path / "cache" / "networks").glob("*.safetensors")
    tensors, about = read_tensors(path)
    del about["facts"]["settings"]["step_size"]
    path.unlink()
    write_tensors(path.with_name("toy-0.safetensors"), tensors, about)
    full_data.trained_network(data, BRIEF, zca=False, progress=False)
    assert not path.exists()  # the other was read
    full_data.trained_network(data, BRIEF.but(step_size=3), zca=False, progress=False)
    assert len([*path.parent.glob("*.safetensors")]) == 2


def test_a_record_without_a_revision_is_made_again(results, data, work):
    made = results.distilled(data, SMALL)
    record = results.accuracies(made, data, BRIEF)
    (path,) = (results.folder / "results").iterdir()
    del record["evaluation"]["revision"]
    write_record(path, record)
    assert results.accuracies(made, data, BRIEF)["evaluation"]["revision"] == 1
    assert work == ["trajectory", "evaluate", "evaluate"]


def test_another_version_of_a_library_is_another_result(results, data, work, monkeypatch):
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    work.clear()
    plain = store.versions()
    monkeypatch.setattr(store, "versions", lambda: {**plain, "kornia": "0.0"})
    results.distilled(data, SMALL)
    assert work == ["trajectory"]


def test_a_new_set_drops_what_was_measured_on_the_old_one(results, data):
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    results.distilled(data, SMALL.but(iterations=1))
    (path,) = (results.folder / "results").iterdir()
    assert "accuracies" not in json.loads(path.read_text())


def test_an_interrupted_evaluation_keeps_the_set(results, data, work, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    made = results.distilled(data, SMALL)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "evaluate", interrupt)
        results.accuracies(made, data, BRIEF)
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    assert work == ["trajectory", "evaluate"]


def test_a_record_is_of_the_set_given_not_of_the_file_that_bears_its_name(results, data):
    first = results.distilled(data, SMALL)
    second = results.distilled(data, SMALL.but(iterations=1))
    assert first.stem == second.stem
    for made in (first, second):
        record = results.accuracies(made, data, BRIEF)
        assert record["distill"]["iterations"] == made.method.iterations


def test_a_set_from_other_data_is_refused_though_it_was_measured(results, data, complains):
    made = results.distilled(data, SMALL)
    results.accuracies(made, data, BRIEF)
    with complains("allowed: the data it was made from"):
        results.accuracies(made, one_pixel_changed(data), BRIEF)


def test_a_bad_setting_is_found_before_anything_is_written(results, data, complains, work):
    with complains("ipc is 7"):
        results.distilled(data, SMALL.but(ipc=7))
    assert work == []
    assert list(results.folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, complains):
    (tmp_path / "report").write_text("a file")
    with complains(tmp_path / "report", "cannot be written"):
        Store(tmp_path / "report")


def test_results_from_before_the_run_are_made_again(results, data, work, monkeypatch):
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    for path in results.folder.rglob("*.*"):
        os.utime(path, (1000, 1000))
    monkeypatch.setenv("ATOM_MADE_SINCE", "2000")
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    assert work == ["trajectory", "evaluate"] * 2


# Checkpoints, other networks, the whole set


def test_checkpoints_are_made_in_one_run_and_read_afterwards(results, data, work):
    made = results.trajectory(data, SMALL, [0, 1, 2])
    assert [each.method.iterations for each in made] == [0, 1, 2]
    assert sorted(files(results, "distilled")) == [
        "toy-atom-ipc1-seed0-it0.safetensors", "toy-atom-ipc1-seed0-it1.safetensors",
        "toy-atom-ipc1-seed0.safetensors",
    ]  # fmt: skip
    found = results.trajectory(data, SMALL, [0, 1, 2])
    assert work == ["trajectory"]
    for one, other in zip(made, found, strict=True):
        assert torch.equal(one.trained, other.trained)
    assert torch.equal(results.distilled(data, SMALL).trained, made[-1].trained)
    assert work == ["trajectory"]


def test_checkpoints_asked_for_later_keep_what_was_measured(results, data, work):
    record = results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    made = results.trajectory(data, SMALL, [1, 2])
    assert results.accuracies(made[-1], data, BRIEF) == record
    assert work == ["trajectory", "evaluate", "trajectory"]


def test_another_network_has_a_record_of_its_own(results, data, work):
    made = results.distilled(data, SMALL)
    first = results.accuracies(made, data, BRIEF)
    other = results.accuracies(made, data, BRIEF.but(model="alexnet"))
    assert other["evaluate"]["model"] == "alexnet" and other["method"] == "atom"
    assert results.accuracies(made, data, BRIEF) == first
    assert results.accuracies(made, data, BRIEF.but(model="alexnet")) == other
    assert work == ["trajectory", "evaluate", "evaluate"]
    assert "toy-atom-ipc1-seed0-on-alexnet.json" in files(results, "results")


def test_the_whole_set_is_trained_on_once(results, data, monkeypatch):
    asked = []
    measure = store.full_data_accuracies
    monkeypatch.setattr(
        store, "full_data_accuracies", lambda *a, **k: asked.append(a) or measure(*a, **k)
    )
    record = results.full_data(data, BRIEF, zca=False)
    assert (record["method"], record["ipc"], len(record["accuracies"])) == ("whole", "whole", 2)
    assert results.full_data(data, BRIEF, zca=False) == record and len(asked) == 1
    results.full_data(data, BRIEF.but(epochs=1), zca=False)
    assert len(asked) == 2
    assert files(results, "results") == ["toy-whole.json"]


# Two processes


def ask(folder, data, started):
    results = Store(folder, progress=False)
    plain = store.trajectory

    def slow(*args, **kwargs):
        with open(started, "a") as file:
            file.write("x")
        time.sleep(0.5)  # so that the other one is sure to ask meanwhile
        return plain(*args, **kwargs)

    store.trajectory = slow
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)


def test_of_two_processes_that_ask_for_one_result_one_makes_it(data, tmp_path):
    started = tmp_path / "started"
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=ask, args=(tmp_path / "report", data, started)) for _ in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert started.read_text() == "x"


@pytest.fixture
def run(data):
    """A run of two iterations, and where it is evaluated: after one, and after both."""
    fewer = BRIEF.resolve(data).but(networks=1)
    grid = [Cell(data, SMALL.resolve(data), BRIEF.resolve(data), fewer)]
    return lambda results, **how: sweep(results, grid, lambda cell: [1, 2], **how)


def checkpoint(results):
    return results.layout.distilled("toy-atom-ipc1-seed0-it1")


def test_a_checkpoint_whose_set_was_not_kept_is_read_from_its_record(results, run, work):
    before, _ = run(results)
    checkpoint(results).unlink()
    work.clear()
    assert run(results)[0] == before and len(before) == 2
    assert not work and not checkpoint(results).exists()


def test_a_checkpoint_is_made_anew_where_its_record_is_not_of_today(
    results, run, work, monkeypatch
):
    before, _ = run(results)
    checkpoint(results).unlink()
    monkeypatch.setattr(ATOM, "revision", ATOM.revision + 1)
    work.clear()
    after, _ = run(results)
    assert work == ["trajectory"]  # the same images, so what was measured on them stands
    assert checkpoint(results).exists()
    assert [r["accuracies"] for r in after] == [r["accuracies"] for r in before]


def test_a_checkpoint_whose_set_is_another_is_evaluated_anew(results, run, work):
    before, _ = run(results)
    made = DistilledSet.load(checkpoint(results))
    made.trained[0, 0, 0, 0] += 1
    made.save(checkpoint(results))
    work.clear()
    after, _ = run(results)
    assert work == ["evaluate"] and after[0]["set"] == made.digest() != before[0]["set"]


def test_what_was_made_so_far_leaves_out_checkpoints_that_were_not(results, data, run, work):
    results.accuracies(results.distilled(data, SMALL), data, BRIEF)
    work.clear()
    (alone,), _ = run(results, only_made=True)
    assert not work and len(run(results)[0]) == 2
    assert run(results, only_made=True)[0][1] == alone


def test_what_was_made_so_far_has_the_full_data_where_they_were_trained_on(results, data, run):
    run(results)
    ceilings = [FullDataCell(data, BRIEF, zca=False)]
    assert len(run(results, ceilings=ceilings, only_made=True)[0]) == 2
    made = results.full_data(data, BRIEF, zca=False)
    assert run(results, ceilings=ceilings, only_made=True)[0][2:] == [made]
    other = [FullDataCell(data, BRIEF.but(epochs=1), zca=False)]
    assert len(run(results, ceilings=other, only_made=True)[0]) == 2


def test_the_end_of_a_run_whose_set_is_gone_is_made_anew(results, run, work):
    before, _ = run(results)
    results.layout.distilled("toy-atom-ipc1-seed0").unlink()
    work.clear()
    after, _ = run(results)
    assert work == ["trajectory"]
    assert [r["accuracies"] for r in after] == [r["accuracies"] for r in before]


def test_a_table_of_what_was_made_so_far_makes_nothing(results, data, work, complains):
    methods = [made_by("dm"), made_by("atom")]
    grid = [Cell(data, method.resolve(data), BRIEF.resolve(data), BRIEF) for method in methods]
    with complains("only_made is true", "none of 2 cells"):
        made_so_far(results, grid)
    made = results.distilled(data, methods[1])
    with complains("only_made is true"):  # distilled, and not evaluated
        made_so_far(results, grid)
    results.accuracies(made, data, BRIEF)
    work.clear()
    assert made_so_far(results, grid) == grid[1:]
    assert not work


@pytest.mark.parametrize("before", [None, 1])
def test_a_kill_between_a_sets_record_and_the_set_leaves_no_wrong_record(
    results, data, monkeypatch, before
):
    """Neither a set without its distillation nor one with another's."""
    if before:
        results.accuracies(results.distilled(data, SMALL.but(iterations=before)), data, BRIEF)
    with monkeypatch.context() as patch:
        patch.setattr(DistilledSet, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            results.distilled(data, SMALL)
    made = results.distilled(data, SMALL)
    record = results.accuracies(made, data, BRIEF)
    assert record["set"] == made.digest()
    assert record["distillation"]["revision"] == SMALL.revision
    assert record["distill"]["iterations"] == 2 and len(record["accuracies"]) == 2


@pytest.mark.usefixtures("bookmarks_always")
def test_networks_are_kept_until_their_record_is(results, data, monkeypatch):
    made = results.distilled(data, SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_record", lambda *_: 1 / 0)  # a full disk, say
        with pytest.raises(ZeroDivisionError):
            results.accuracies(made, data, BRIEF)
    kept = results.layout.bookmark(f"{made.stem}-evaluation")
    assert kept.exists()
    results.accuracies(made, data, BRIEF)
    assert not kept.exists()


def test_a_bookmark_of_a_run_that_was_through_goes_and_another_stays(results, data):
    made = results.distilled(data, SMALL)
    path = results.layout.bookmark(made.stem)
    for done, stays in ((2, False), (1, True)):
        kept = Bookmark.of(path, "killed before its end")
        kept.write({"x": torch.zeros(1)}, done, 2)
        results.distilled(data, SMALL)
        assert path.exists() is stays  # a longer run's may be 1 of 2
