"""The search: its space, what each candidate's result is and depends on, what is kept, ranks."""

import json
import multiprocessing
import os
import time
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from atomlib.datasets.image_data import ImageData
from atomlib.distill import distill
from atomlib.methods import RandomImages
from atomlib.models.build import network_for, operations
from atomlib.models.convnet import ACTIVATIONS, NORMS, POOLINGS
from atomlib.nas import search as nas
from atomlib.nas.ranking import rank_table
from atomlib.nas.search import Proxy, evaluate_candidates, halves
from atomlib.nas.space import AXES, Candidate, sample, search_space
from atomlib.preprocess import Preprocess
from atomlib.randomness import stream
from atomlib.report.readable import nas_note
from atomlib.runs import lines as store_of_lines
from atomlib.runtime.device import Execution
from atomlib.runtime.files import sealed
from atomlib.runtime.provenance import hardware
from atomlib.training import EvalConfig, Trainer

SPACE = search_space()
SMALL = sample(SPACE, image_size=8, count=4, restrict={"depth": [1, 2], "width": [32, 64]})
CONFIG = EvalConfig(lr=0.1)


@pytest.fixture(scope="module")
def data():
    """Three patterns in noise that leaves accuracies well between chance and 100 %."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(3, 3, 8, 8, generator=generator)

    def split(n):
        labels = torch.arange(n) % 3
        noise = torch.randn(n, 3, 8, 8, generator=generator)
        return (128 + 12 * patterns[labels] + 60 * noise).clamp(0, 255).to(torch.uint8), labels

    (train, train_labels), (test, test_labels) = split(60), split(181)
    return ImageData("noisy", train, train_labels, test, test_labels, ("ant", "bee", "cat"))


def real_set(data, ipc=5, **settings):
    config = RandomImages(ipc=ipc, width=16, **settings)
    return distill(data, config, device="cpu", progress=False)


@pytest.fixture(scope="module")
def proxy(data):
    return Proxy.of_set(real_set(data), epochs=7)


@pytest.fixture
def search(proxy, data, tmp_path):
    """evaluate_candidates with everything given that a test does not give itself."""

    def run(candidates=SMALL, *, proxy=proxy, data=data, config=CONFIG, **options):
        defaults = {
            "zca": False,
            "keep": tmp_path / "nas.jsonl",
            "workers": 1,
            "device": "cpu",
            "progress": False,
        }
        return evaluate_candidates(proxy, candidates, data, config, **(defaults | options))

    return run


@pytest.fixture
def trained(monkeypatch):
    """The names of the candidates that were trained, in order."""
    names, measure = [], nas._Bench.measure

    def counted(self, group):
        names.extend(candidate.name for candidate in group.candidates)
        return measure(self, group)

    monkeypatch.setattr(nas._Bench, "measure", counted)
    return names


def numbers(frame):
    """Rows by name, without the seconds, which differ from run to run."""
    return frame.drop(columns="seconds").set_index("name").sort_index()


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# The space and samples of it


def test_the_space_is_the_supplements_grid_in_its_order():
    assert len(SPACE) == len(set(SPACE)) == len({c.name for c in SPACE}) == 4 * 4 * 3 * 5 * 3
    values = {field: list(dict.fromkeys(getattr(c, field) for c in SPACE)) for field in AXES}
    assert values == {
        "depth": [1, 2, 3, 4],
        "width": [32, 64, 128, 256],
        "activation": ["sigmoid", "relu", "leakyrelu"],
        "norm": ["none", "batch", "layer", "instance", "group"],
        "pooling": ["none", "max", "average"],
    }
    assert [c.name for c in SPACE[:4]] == [
        "d1-w32-sigmoid-none-none",
        "d1-w32-sigmoid-none-max",
        "d1-w32-sigmoid-none-average",
        "d1-w32-sigmoid-batch-none",
    ]
    assert Candidate(3, 128, "relu", "instance", "average").name == "d3-w128-relu-instance-average"
    places = [tuple(values[field].index(getattr(c, field)) for field in values) for c in SPACE]
    assert places == sorted(places)


def test_the_models_know_every_value_of_the_space():
    assert set(AXES["activation"]) <= set(ACTIVATIONS)
    assert set(AXES["norm"]) <= set(NORMS)
    assert set(AXES["pooling"]) <= set(POOLINGS)


def test_images_of_32_pixels_allow_all_and_of_8_all_but_four_halvings():
    assert sample(SPACE, image_size=32) == SPACE
    fitting = sample(SPACE, image_size=8)
    assert fitting == tuple(c for c in SPACE if c.depth < 4 or c.pooling == "none")


def test_a_sample_is_drawn_by_the_seed_and_keeps_the_order():
    draws = [sample(SPACE, image_size=8, count=50, seed=seed) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    for drawn in draws:
        assert len(set(drawn)) == 50
        assert [c for c in SPACE if c in drawn] == list(drawn)
    assert set(draws[0]) < set(sample(SPACE, image_size=8, count=80, seed=0))


def test_a_restricted_sample_has_the_given_values_alone():
    given = {"width": [32, 64], "norm": ("batch",)}
    found = sample(SPACE, image_size=32, restrict=given)
    assert found == tuple(c for c in SPACE if c.width < 128 and c.norm == "batch")
    assert len(found) == 4 * 2 * 3 * 3
    assert set(sample(SPACE, image_size=32, count=5, restrict=given)) < set(found)


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"count": 601}, ("count is 601", "1 to 600", "8 pixels")),
        ({"count": 0}, ("count is 0", "1 to 600")),
        ({"count": 4, "restrict": {"depth": [4], "width": [32], "norm": ["none"]}}, ("1 to 3",)),
        ({"count": 2.5}, ("count is 2.5",)),
        ({"restrict": {"widht": [32]}}, ("'widht'", "did you mean 'width'", "depth, width")),
        ({"restrict": {"width": [32, 48]}}, ("width", "48", "32, 64, 128, 256")),
        ({"restrict": {"norm": "batch"}}, ("norm", "'batch'", "a list")),
        ({"restrict": {"norm": []}}, ("norm", "[]", "a list")),
        ({"restrict": ["norm"]}, ("restrict is ['norm']",)),
        ({"restrict": {"depth": [4], "pooling": ["max"]}}, ("restrict", "8 pixels")),
    ],
    ids=str,
)
def test_a_sample_that_cannot_be_is_refused(options, parts, complains):
    with complains(*parts):
        sample(SPACE, image_size=8, **options)


# Halves of the test set


@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 3, 7), (1, 1, 9), (2, 0, 1)])
def test_halves_share_nothing_cover_all_and_are_balanced(counts):
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    validation, test = halves(labels, seed=0)
    assert sorted([*validation.tolist(), *test.tolist()]) == list(range(len(labels)))
    assert abs(len(validation) - len(test)) <= 1
    in_both = [torch.bincount(labels[half], minlength=3) for half in (validation, test)]
    assert (in_both[0] - in_both[1]).abs().max() <= 1


def test_halves_are_drawn_by_the_seed():
    labels = torch.arange(40) % 2
    first = [set(halves(labels, seed)[0].tolist()) for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


# Proxies


def test_a_proxy_of_a_set_is_its_images_as_trained(data):
    made = real_set(data, ipc=2)
    proxy = Proxy.of_set(made)
    assert (proxy.name, proxy.epochs, proxy.storage, proxy.zca) == ("random", 200, 6, False)
    assert torch.equal(proxy.images, made.trained) and torch.equal(proxy.labels, made.labels)
    assert Proxy.of_set(made, epochs=3, name="subset").name == "subset"


@pytest.mark.parametrize("zca", [False, True])
def test_the_whole_is_every_training_image_as_networks_see_it(data, zca):
    whole = Proxy.of_full_data(data, zca=zca, epochs=3, device="cpu")
    assert (whole.name, whole.epochs, whole.storage, whole.zca) == ("whole", 3, 60, zca)
    torch.testing.assert_close(whole.images, Preprocess.fit(data, zca=zca)(data.train_images))
    assert torch.equal(whole.labels, data.train_labels)


@pytest.mark.parametrize("like_epochs, passes", [(19, 5), (17, 4), (18, 5), (0, 2), (8, 2)])
def test_early_stopping_sees_about_as_many_images_as_the_proxy(data, proxy, like_epochs, passes):
    """15 x (E + 1) images in whole passes over 60, two at the least."""
    whole = Proxy.of_full_data(data, zca=False, epochs=100, device="cpu")
    early = whole.stopped_early(replace(proxy, epochs=like_epochs))
    assert (early.name, early.epochs + 1, early.storage) == ("early stopping", passes, 60)
    assert early.images is whole.images and early.labels is whole.labels


# What a result is


def test_candidates_are_tested_on_images_whitened_as_the_proxy(data):
    proxy, whitened = Proxy.of_set(real_set(data, zca=True)), Preprocess.fit(data, zca=True)
    tensors = nas._tensors(proxy, data, CONFIG, torch.device("cpu"))
    for half, rows in zip(("validation", "test"), halves(data.test_labels, 0), strict=True):
        torch.testing.assert_close(tensors[f"{half}_images"], whitened(data.test_images[rows]))


@pytest.mark.parametrize("seed", [0, 5])
def test_a_result_is_what_a_plain_training_reaches_on_either_half(search, data, proxy, seed):
    config = CONFIG.but(seed=seed, batch_size=4)
    frame = search(config=config)
    assert list(frame.columns) == ["name", *AXES, "validation", "test", "seconds", "hardware"]
    assert set(frame.hardware) == {hardware()}
    test = Preprocess.fit(data, zca=False)(data.test_images)
    for row, candidate in zip(frame.to_dict("records"), SMALL, strict=True):
        assert row["name"] == candidate.name
        assert {name: row[name] for name in AXES} == asdict(candidate)
        plain = config.but(**asdict(candidate), epochs=proxy.epochs, compile="off")
        network = network_for(plain, data)
        trainer = Trainer(network, plain, Execution(plain, torch.device("cpu"), 0))
        chance = stream(seed, "nas", SPACE.index(candidate))
        trainer.train(proxy.images, proxy.labels, [chance])
        with torch.no_grad():
            right = network.eval()(test).argmax(dim=1) == data.test_labels
        for half, rows in zip(("validation", "test"), halves(data.test_labels, seed), strict=True):
            expected = 100 * right[rows].float().mean().item()
            assert row[half] == pytest.approx(expected, abs=1e-4)
        assert 0 < row["seconds"] < 60
    assert frame["test"].nunique() > 1  # or the comparison would say little


def test_a_result_depends_on_neither_sample_order_nor_workers(search, tmp_path):
    alone = search(SMALL, keep=tmp_path / "alone")
    turned = search(SMALL[::-1], keep=tmp_path / "turned")
    fewer = search(SMALL[2:3], keep=tmp_path / "fewer")
    beside = search(SMALL, keep=tmp_path / "beside", workers=2)
    for frame, candidates in ((alone, SMALL), (turned, SMALL[::-1]), (beside, SMALL)):
        assert frame["name"].tolist() == [c.name for c in candidates]
        pd.testing.assert_frame_equal(numbers(frame), numbers(alone))
    pd.testing.assert_frame_equal(numbers(fewer), numbers(alone).loc[[SMALL[2].name]])
    assert {line["name"] for line in lines(tmp_path / "beside")} == {c.name for c in SMALL}


def of_shapes(poolings):
    restrict = {"depth": [2], "width": [32], "activation": ["relu", "leakyrelu"]}
    return sample(SPACE, image_size=8, restrict=restrict | {"pooling": poolings})


# One group, in this process; and two, each in a process of its own.
@pytest.mark.parametrize(("poolings", "workers"), [(["average"], 1), (["average", "max"], 2)])
def test_a_result_is_the_same_in_company(search, trained, tmp_path, poolings, workers):
    """Up to rounding, by which an image on the border of two classes may change sides."""
    shapes = of_shapes(poolings)
    alone = search(shapes, keep=tmp_path / "alone")
    beside = search(
        shapes, config=CONFIG.but(together=15), keep=tmp_path / "beside", workers=workers
    )
    assert beside["name"].tolist() == alone["name"].tolist()
    halves = ["validation", "test"]
    apart = (numbers(beside)[halves] - numbers(alone)[halves]).abs()
    assert (apart <= 100 / 90 + 1e-9).all(axis=None)
    assert (apart == 0).mean(axis=None) > 0.8
    assert alone["test"].nunique() > 5  # or the comparison would say little
    assert beside["seconds"].nunique() == len(poolings)  # each one's part of its group's
    # They count as the same result.
    trained.clear()
    pd.testing.assert_frame_equal(search(shapes, keep=tmp_path / "beside"), beside)
    assert trained == []


def test_a_group_beyond_the_memory_trains_in_halves(search, monkeypatch, tmp_path, capsys):
    shapes, whole = of_shapes(["average"]), nas._Bench._measured
    sizes = []

    def short(self, group):
        sizes.append(len(group.candidates))
        if sizes[-1] > 4:
            raise torch.OutOfMemoryError("no room")
        return whole(self, group)

    fewer = search(shapes, config=CONFIG.but(together=4), keep=tmp_path / "four")
    monkeypatch.setattr(nas._Bench, "_measured", short)
    found = search(shapes, config=CONFIG.but(together=15), keep=tmp_path / "halves")
    assert sizes[0] == len(shapes) > 4 and max(sizes[1:]) > 1
    assert found["name"].tolist() == fewer["name"].tolist()
    halves = ["validation", "test"]
    apart = (numbers(found)[halves] - numbers(fewer)[halves]).abs()
    assert (apart <= 100 / 90 + 1e-9).all(axis=None) and (apart == 0).mean(axis=None) > 0.8


def test_expensive_candidates_come_first(search, data, trained):
    search()
    cost = {c.name: operations(EvalConfig(**asdict(c)), data) for c in SMALL}
    assert [cost[name] for name in trained] == sorted(cost.values(), reverse=True)


def test_training_is_on_one_thread_and_the_number_of_threads_is_put_back(search, monkeypatch):
    threads = []
    monkeypatch.setattr(
        nas._Bench,
        "measure",
        lambda *_: (
            threads.append(torch.get_num_threads())
            or [{"validation": 0.0, "test": 0.0, "seconds": 0.0}]
        ),
    )
    torch.set_num_threads(2)
    try:
        search()
        assert threads == [1] * len(SMALL)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_a_training_that_diverges_counts(search, tmp_path):
    for frame in (search(config=EvalConfig(lr=1e30)), search(config=EvalConfig(lr=1e30))):
        assert frame[["validation", "test"]].stack().between(0, 100).all()
    assert len(lines(tmp_path / "nas.jsonl")) == len(SMALL)


# What is refused


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"candidates": ()}, ("candidates is empty",)),
        ({"candidates": SMALL[:1] * 2}, (SMALL[0].name, "once each")),
        ({"candidates": [replace(SMALL[0], width=48)]}, ("-w48-", "search_space")),
        ({"candidates": [replace(SMALL[0], depth=4, pooling="max")]}, ("d4-", "8 pixels")),
        ({"candidates": ["d1"]}, ("'d1'", "search_space")),
        ({"workers": 0}, ("workers is 0", "1 or more")),
        ({"workers": "all"}, ("workers is 'all'",)),
        ({"zca": True}, ("zca is True", "'random'")),
        ({"device": "cuda:99"}, ("device is 'cuda:99'",)),
        ({"config": EvalConfig().model_copy(update={"model": "vit"})}, ("model is 'vit'",)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_will_not_do_is_refused_before_any_work(
    search, trained, tmp_path, complains, options, parts
):
    with complains(*parts):
        search(**options)
    assert trained == []
    assert not (tmp_path / "nas.jsonl").exists()


def test_a_proxy_of_other_data_is_refused(search, make_data, complains):
    with complains("'random'", "made from other data than toy", "allowed: the same data"):
        search(data=make_data())


def test_a_proxy_without_epochs_is_refused(search, proxy, complains):
    with complains("epochs is 0"):
        search(proxy=replace(proxy, epochs=0))


def test_one_test_image_makes_no_two_halves(search, data, proxy, complains):
    one = replace(data, test_images=data.test_images[:1], test_labels=data.test_labels[:1])
    with complains("1 test images", "2 or more"):
        search(data=one)


def test_a_file_that_cannot_be_written_is_refused(search, trained, tmp_path, complains):
    with complains("keep", tmp_path, "cannot be written"):
        search(keep=tmp_path)
    (tmp_path / "file").touch()
    with complains(tmp_path / "file", "cannot be written"):
        search(keep=tmp_path / "file" / "nas.jsonl")
    assert trained == []


# What is kept


def test_a_candidate_is_trained_once(search, trained, tmp_path):
    first = search(SMALL[:3])
    search(SMALL[2:])
    again = search(SMALL[:3])
    assert sorted(trained) == sorted(c.name for c in SMALL)
    pd.testing.assert_frame_equal(again, first)
    assert [line["name"] for line in lines(tmp_path / "nas.jsonl")] == trained


def test_settings_that_candidate_and_proxy_replace_change_nothing(search, trained):
    search()
    other = {"width": 8, "depth": 3, "norm": "none", "activation": "sigmoid", "pooling": "max"}
    run = {"epochs": 3, "networks": 2, "compile": "on", "precision": "bfloat16", "together": 2}
    search(config=CONFIG.but(**other, **run))
    assert len(trained) == len(SMALL)


def test_a_changed_proxy_or_protocol_is_trained_anew_and_the_old_one_stays(search, data, trained):
    proxy = Proxy.of_set(real_set(data), epochs=2)
    pixels = proxy.images.clone()
    pixels[0, 0, 0, 0] += 1
    changes = [
        {"proxy": proxy},
        {"proxy": replace(proxy, epochs=3)},
        {"proxy": replace(proxy, images=pixels)},
        {"proxy": replace(proxy, labels=proxy.labels.flip(0))},
        {"proxy": replace(proxy, zca=True), "zca": True},
        {"proxy": proxy, "config": CONFIG.but(seed=1)},
        {"proxy": proxy, "config": CONFIG.but(lr=0.2)},
    ]
    frames = [search(SMALL[:1], **change) for change in changes]
    assert len(trained) == len(changes)
    for frame, change in zip(frames, changes, strict=True):
        pd.testing.assert_frame_equal(search(SMALL[:1], **change), frame)
    assert len(trained) == len(changes)


def test_a_line_changed_by_a_digit_is_named_and_trained_again(search, trained, tmp_path, capsys):
    path = tmp_path / "nas.jsonl"
    whole = numbers(search())
    text = path.read_text()
    value = str(lines(path)[1]["validation"])
    path.write_text(text.replace(f'"validation": {value}', '"validation": 99.5', 1))
    assert path.read_text() != text
    trained.clear()
    pd.testing.assert_frame_equal(numbers(search()), whole)
    assert len(trained) == 1
    assert capsys.readouterr().err.count("is damaged; it is passed over") == 1


def test_another_revision_trains_anew(search, trained, monkeypatch):
    search()
    monkeypatch.setattr(store_of_lines, "REVISION", 2)
    search(), search()
    assert len(trained) == 2 * len(SMALL)


def test_a_changed_default_trains_anew(search, trained, new_default):
    search(config=EvalConfig())
    new_default(EvalConfig, "lr", 0.5)
    search(config=EvalConfig()), search(config=EvalConfig())
    assert len(trained) == 2 * len(SMALL)


def test_each_result_names_the_hardware_that_made_it(search, trained, data, tmp_path):
    """Not the one that reads it."""
    path = tmp_path / "nas.jsonl"
    search()
    first, second, *others = lines(path)
    first["hardware"] = "an abacus"
    del second["hardware"]  # as written before lines named it
    path.write_text("".join(json.dumps(sealed(r)) + "\n" for r in (first, second, *others)))
    frame = search()
    assert len(trained) == len(SMALL)  # nothing anew
    unknown = "a machine that is not on record"
    told = dict(zip(frame.name, frame.hardware, strict=True))
    assert (told.pop(first["name"]), told.pop(second["name"])) == ("an abacus", unknown)
    assert list(told.values()) == [hardware()] * len(others)
    note = nas_note(data, 3, 720, {"random": 7}, {}, {"random": frame})
    made_on = note.partition("Made on ")[2].partition(". Each")[0]
    assert set(made_on.split(" and on ")) == {"an abacus", unknown, hardware()}


def test_a_setting_added_since_leaves_old_lines_as_they_are(search, trained, tmp_path):
    path = tmp_path / "nas.jsonl"
    search()
    with_fewer = []
    for line in lines(path):
        del line["settings"]["step_size"]
        with_fewer.append(json.dumps(sealed(line)) + "\n")
    path.write_text("".join(with_fewer))
    search()
    assert len(trained) == len(SMALL)


def narrow(norm):
    return [c for c in SMALL + SPACE if c.norm == norm and c.depth == 1 and c.width == 32][:1]


@pytest.mark.parametrize(
    "candidates, together, name",
    [
        (narrow("batch"), 1, narrow("batch")[0].name),
        (narrow("instance"), 1, narrow("instance")[0].name),
        (of_shapes(["average"]), 15, "d2-w32-average, 10 networks"),
    ],
    ids=["batch", "instance", "group"],
)
def test_a_training_goes_on_at_the_pass_it_was_at(
    search, tmp_path, monkeypatch, bookmarks_always, candidates, together, name
):
    config = CONFIG.but(together=together)
    whole = numbers(search(candidates, config=config, keep=tmp_path / "other.jsonl"))
    steps, plain = [], torch.optim.SGD.step

    def cut(self, *args):
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        search(candidates, config=config)
    (left,) = (tmp_path / "unfinished").glob("*.safetensors")
    assert left.name.startswith(name)
    pd.testing.assert_frame_equal(numbers(search(candidates, config=config)), whole)
    assert len(steps) == 8 + 1  # all passes, and the one that was cut once more
    assert not left.exists()


def ask(proxy, data, folder, together):
    plain = nas._Bench.measure

    def slow(self, group):
        with open(folder / "measured", "a") as file:
            file.write("x")
        time.sleep(0.2)  # so that the other one is sure to ask meanwhile
        return plain(self, group)

    nas._Bench.measure = slow
    options = {"zca": False, "workers": 1, "device": "cpu", "progress": False}
    together.wait(60)
    evaluate_candidates(proxy, SMALL, data, CONFIG, keep=folder / "nas.jsonl", **options)


def test_of_two_sweeps_on_one_file_one_works_and_the_other_reads(proxy, data, tmp_path):
    context = multiprocessing.get_context("spawn")  # a fork may not train after its parent has
    about = proxy, data, tmp_path, context.Barrier(2)
    both = [context.Process(target=ask, args=about) for _ in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "measured").read_text() == "x" * len(SMALL)


@pytest.mark.parametrize("cut", [1, 2, 30, 10_000], ids=str)
def test_a_cut_last_line_is_passed_over_and_healed(search, trained, tmp_path, cut):
    """All but the newline of a line is a whole result; less of it is none."""
    path = tmp_path / "nas.jsonl"
    whole = numbers(search())
    text = path.read_bytes()
    start = text.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(text[: max(start, len(text) - cut)])
    last = trained[-1]
    trained.clear()
    pd.testing.assert_frame_equal(numbers(search()), whole)
    assert trained == ([] if cut == 1 else [last])
    others = sample(SPACE, image_size=8, count=2, seed=1, restrict={"depth": [1], "width": [32]})
    search(others)
    trained.clear()
    search(SMALL), search(others)
    assert trained == []


@pytest.mark.parametrize(
    "junk", [b"[]", b"7", b"\xff\xfe", b'{"name": []}', b'{"name": "NAME", "test": 1}'], ids=repr
)
def test_a_line_that_is_something_else_is_passed_over(search, trained, tmp_path, junk):
    path = tmp_path / "nas.jsonl"
    path.write_bytes(junk + b"\n\n")
    search(), search()
    assert len(trained) == len(SMALL)
    assert path.read_bytes().startswith(junk + b"\n")


def test_results_from_before_the_run_are_made_again(search, trained, tmp_path, monkeypatch):
    path = tmp_path / "nas.jsonl"
    search()
    os.utime(path, (1000, 1000))
    monkeypatch.setenv("ATOM_MADE_SINCE", "2000")
    search(SMALL[:1]), search(SMALL[:2])
    assert len(trained) == len(SMALL) + 2
    assert len(lines(path)) == 2


@pytest.mark.parametrize("kind", [ZeroDivisionError, KeyboardInterrupt])
def test_what_ended_before_a_failure_is_kept(search, trained, tmp_path, monkeypatch, kind):
    search(keep=tmp_path / "order")
    order, third = trained[:], trained[2]
    trained.clear()
    with monkeypatch.context() as patch:
        counted = nas._Bench.measure

        def fails(self, group):
            if group.name == third:
                raise kind("by zero")
            return counted(self, group)

        patch.setattr(nas._Bench, "measure", fails)
        if kind is ZeroDivisionError:
            with pytest.raises(RuntimeError, match=f"{third} failed: ZeroDivisionError: by zero"):
                search()
        else:
            with pytest.raises(KeyboardInterrupt):
                search()
    assert [line["name"] for line in lines(tmp_path / "nas.jsonl")] == order[:2] == trained
    search()
    assert trained == order


# Ranks


def frame(validation, test=None, candidates=SPACE):
    made = pd.DataFrame({"name": [c.name for c in candidates[: len(validation)]]})
    test = validation if test is None else test
    return made.assign(validation=validation, test=test, seconds=[2.0] * len(made))


@pytest.mark.parametrize("tops", [[0], [5, -1], [1], [2.0]])
def test_a_correlation_of_less_than_two_is_refused(tops, complains):
    with complains("tops is [", "2 or more"):
        rank_table({"whole": frame([1, 2, 3])}, {"whole": 1}, tops=tops)


def test_the_table_of_an_example_by_hand():
    """Five candidates; the proxy turns the best two round, and misses the best one."""
    results = {
        "whole": frame([11, 21, 31, 41, 51], [10, 20, 30, 40, 50]),
        "atom": frame([1, 2, 3, 5, 4]),
    }
    table = rank_table(results, {"whole": 60, "atom": 3, "else": 1}, tops=(3, 5, 6))
    whole, atom = table.to_dict("records")
    assert whole == {
        "proxy": "whole",
        "correlation": pytest.approx(1),
        "low": pytest.approx(1),
        "high": pytest.approx(1),
        "top3": pytest.approx(1),
        "top5": pytest.approx(1),
        "top6": pytest.approx(np.nan, nan_ok=True),
        "seconds": 10.0,
        "images": 60,
        "chosen": SPACE[4].name,
        "accuracy": 50,
        "best": SPACE[4].name,
        "best_accuracy": 50,
    }
    # Ranks differ by 1 twice: 1 - 6 * 2 / (5 * 24), and of three 1 - 6 * 2 / (3 * 8).
    assert atom["correlation"] == atom["top5"] == pytest.approx(0.9)
    assert atom["top3"] == pytest.approx(0.5)
    assert (atom["chosen"], atom["accuracy"]) == (SPACE[3].name, 40)
    assert (atom["best"], atom["best_accuracy"], atom["images"]) == (SPACE[4].name, 50, 3)


def test_correlations_with_ties_are_those_of_average_ranks():
    random = np.random.default_rng(0)
    truth = frame(random.integers(0, 99, 200), random.integers(0, 30, 200))
    proxy = frame(truth["test"] + random.integers(0, 20, 200))
    table = rank_table({"whole": truth, "p": proxy}, {"whole": 1, "p": 1})
    assert list(table["proxy"]) == ["whole", "p"]
    for row, ranked in zip(table.to_dict("records"), (truth, proxy), strict=True):
        best_first = ranked.sort_values("validation", ascending=False, kind="stable")
        for name, most in {"correlation": 200, "top5": 5, "top10": 10, "top20": 20}.items():
            ours = best_first["validation"][:most]
            theirs = truth["test"][ours.index]
            assert row[name] == pytest.approx(ours.rank().corr(theirs.rank()))
            assert row[name] == pytest.approx(spearmanr(ours, theirs).statistic)


def test_the_interval_is_a_bootstrap_over_candidates():
    random = np.random.default_rng(1)
    truth = frame(random.integers(0, 99, 30), random.integers(0, 30, 30))
    proxy = frame(truth["test"] + random.integers(0, 40, 30))
    row = rank_table({"whole": truth, "p": proxy}, {"whole": 1, "p": 1}).to_dict("records")[1]
    drawn = random.integers(30, size=(20_000, 30))
    ranks = (rankdata(t.to_numpy()[drawn], axis=1) for t in (proxy["validation"], truth["test"]))
    a, b = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    plain = (a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    assert plain[0] == pytest.approx(
        spearmanr(proxy["validation"][drawn[0]], truth["test"][drawn[0]]).statistic
    )
    for outside in (plain < row["low"], plain > row["high"]):
        assert 0.015 < outside.mean() < 0.035  # 95 % lie within
    assert row["low"] < row["correlation"] < row["high"]


def test_of_several_best_the_first_in_the_search_space_is_chosen():
    results = {"whole": frame([1, 2, 3, 4], [8, 7, 6, 8]), "p": frame([3, 9, 9, 9])}
    turned = {name: results[name].iloc[::-1] for name in results}
    for given in (results, turned, results | {"p": turned["p"]}):
        table = rank_table(given, {"whole": 1, "p": 1}, tops=(2,))
        assert list(table["chosen"]) == [SPACE[3].name, SPACE[1].name]
        assert list(table["best"]) == [SPACE[0].name] * 2
        assert np.isnan(table["top2"][1])  # its best two are tied


@pytest.mark.parametrize("values", [[5, 5, 5], [5]])
def test_a_constant_side_has_no_correlation(values):
    varied = list(range(len(values)))
    for whole, proxy in ((values, varied), (varied, values)):
        table = rank_table({"whole": frame(whole), "p": frame(proxy)}, {"whole": 1, "p": 1})
        assert np.isnan(table["correlation"][1])


def test_results_of_other_candidates_are_refused(complains):
    storage = {"whole": 1, "p": 1}
    for other in (frame([1, 2]), frame([1, 2, 3], candidates=SPACE[1:])):
        with complains("results of 'p' are of other candidates", "'whole'"):
            rank_table({"whole": frame([1, 2, 3]), "p": other}, storage)


def test_a_reference_or_storage_that_is_not_there_is_refused(complains):
    with complains("reference is 'all'", "whole"):
        rank_table({"whole": frame([1, 2])}, {"whole": 1}, reference="all")
    with complains("proxy in results is 'whole'", "atom"):
        rank_table({"whole": frame([1, 2])}, {"atom": 1})


def test_a_real_search_gives_a_whole_table(search, data, proxy):
    whole = Proxy.of_full_data(data, zca=False, epochs=3, device="cpu")
    proxies = [whole, proxy, whole.stopped_early(proxy)]
    results = {p.name: search(proxy=p) for p in proxies}
    table = rank_table(results, {p.name: p.storage for p in proxies}, tops=(2, 4))
    assert list(table["proxy"]) == ["whole", "random", "early stopping"]
    assert list(table["images"]) == [60, 15, 60]
    assert (table["accuracy"] <= table["best_accuracy"]).all()
    assert (table["seconds"] > 0).all()
