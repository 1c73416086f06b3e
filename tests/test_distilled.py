"""A distilled set as a file, as a torch Dataset and as a folder of PNG files."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from atomlib.distilled_set import DistilledSet, load_folder, read_published, stem, summarise
from atomlib.errors import SettingError
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, find
from atomlib.runs.store import Store
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.files import DamagedError, read_record, read_tensors, write_tensors
from atomlib.training import EvalConfig


@pytest.fixture
def make_set(make_data):
    """A made-up set of two images for each of three classes."""

    def make(channels=3, method=ATOM, **settings):
        data = make_data(channels=channels)
        made_by = find(method)(**{"ipc": 2, **settings}).resolve(data)
        count = made_by.ipc * data.num_classes
        generator = torch.Generator().manual_seed(1)
        return DistilledSet(
            images=torch.rand(count, channels, 8, 8, generator=generator),
            trained=torch.randn(count, channels, 8, 8, generator=generator),
            labels=torch.arange(3).repeat_interleave(made_by.ipc),
            method=made_by,
            data_name=data.name,
            data_fingerprint=data.fingerprint,
            class_names=data.class_names,
            versions={"torch": "2.0"},
            history=[(0, 1.5), (1, 0.1)],
            extras={"learned rate": 0.25},
        )

    return make


@pytest.fixture
def saved(make_set, tmp_path):
    return make_set().save(tmp_path / "set.safetensors")


TENSORS = ("images", "trained", "labels")
WORDS = ("method", "data_name", "data_fingerprint", "class_names", "versions", "history")
WORDS += ("revision", "given", "extras")


@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_saved_is_loaded(make_set, tmp_path, channels):
    made = make_set(channels)
    found = DistilledSet.load(made.save(tmp_path / "folder" / "set.safetensors"))
    for name in TENSORS:
        assert getattr(found, name).dtype == getattr(made, name).dtype
        assert torch.equal(getattr(found, name), getattr(made, name))
    for name in WORDS:
        assert getattr(found, name) == getattr(made, name)


def test_the_same_set_gives_the_same_bytes(make_set, tmp_path):
    first, second = (make_set().save(tmp_path / name).read_bytes() for name in "ab")
    assert first == second


def test_the_file_is_plain_safetensors_that_says_what_made_it(make_set, saved):
    made = make_set()
    with safe_open(saved, "pt") as file:
        assert sorted(file.keys()) == sorted(TENSORS)
        about = json.loads(file.metadata()["atomlib"])
    assert about["method"] == "atom"
    assert ATOM.from_json(json.dumps(about["settings"])) == made.method
    assert about["data"]["name"] == "toy"
    assert about["data"]["fingerprint"] == made.data_fingerprint
    assert about["versions"] == made.versions


def test_a_set_saved_over_another_leaves_the_loaded_one_alone(make_set, saved):
    found = DistilledSet.load(saved)
    before = found.images.clone()
    replace(make_set(), images=torch.zeros(6, 3, 8, 8)).save(saved)
    assert torch.equal(found.images, before)


def test_the_stem_is_dataset_method_ipc_seed(make_set):
    made = make_set(method="dm", ipc=3, seed=7)
    assert made.stem == "toy-dm-ipc3-seed7" == stem("toy", made.method)


def test_a_data_loader_reads_it(make_set):
    made = make_set()
    batches = list(DataLoader(made, batch_size=4))
    assert [len(labels) for _, labels in batches] == [4, 2]
    assert torch.equal(torch.cat([images for images, _ in batches]), made.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), made.labels)


@pytest.mark.parametrize(("count", "steps"), [(0, []), (1, [0]), (5, [0, 1, 2, 3, 4])])
def test_a_short_history_is_kept_whole(count, steps):
    losses = [float(i) for i in range(count)]
    assert summarise(losses) == [(i, losses[i]) for i in steps]


@pytest.mark.parametrize("count", [200, 201, 399, 8000, 12345])
def test_a_long_history_is_thinned_evenly_and_keeps_the_last(count):
    steps = [step for step, _ in summarise([0.5] * count)]
    assert 100 <= len(steps) <= 200
    assert steps[-1] == count - 1
    assert len(set(np.diff(steps))) == 1


# Export


@pytest.mark.parametrize("channels", [1, 3])
def test_export_is_an_image_folder_of_the_rounded_pixels(make_set, tmp_path, channels):
    made = make_set(channels)
    folder = ImageFolder(made.export(tmp_path / "out"))
    assert len(folder.classes) == 3
    assert [name.split("_")[1] for name in folder.classes] == ["ant", "bee", "cat"]
    assert [label for _, label in folder.samples] == made.labels.tolist()
    for (path, _), image in zip(folder.samples, made.images, strict=True):
        expected = np.round(image.numpy() * 255).transpose(1, 2, 0)
        assert path.endswith(".png")
        np.testing.assert_array_equal(np.asarray(Image.open(path)).reshape(8, 8, -1), expected)


def test_export_for_hugging_face_says_what_it_is(make_set, tmp_path, complains):
    made = make_set()
    folder = made.export(tmp_path / "out", layout="hugging-face")
    assert len(ImageFolder(folder / "train")) == len(made)
    assert f"{len(made)} images that stand in for toy" in (folder / "README.md").read_text()
    with complains("layout is 'huggingface'", "did you mean 'hugging-face'"):
        made.export(tmp_path / "other", layout="huggingface")
    assert not (tmp_path / "other").exists()


def test_export_keeps_the_extremes(make_set, tmp_path):
    images = torch.zeros(6, 3, 8, 8)
    images[::2] = 1
    folder = ImageFolder(replace(make_set(), images=images).export(tmp_path))
    assert [np.unique(image).tolist() for image, _ in folder] == [[255], [0]] * 3


def test_export_makes_folder_names_of_any_class_names(make_set, tmp_path):
    made = replace(make_set(), class_names=("z/../..", "cat, tabby", "cat: tabby"))
    folder = ImageFolder(made.export(tmp_path / "out"))
    assert [label for _, label in folder.samples] == made.labels.tolist()
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_export_into_a_folder_that_holds_something_is_refused(make_set, tmp_path, complains):
    (tmp_path / "mine.txt").write_text("mine")
    with complains(tmp_path, "not empty"):
        make_set().export(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("below", ["", "x"])
def test_export_to_or_below_a_file_is_refused(make_set, saved, complains, below):
    with complains(saved / below):
        make_set().export(saved / below)


def test_export_to_a_full_disk_leaves_nothing(make_set, tmp_path, monkeypatch, complains):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with complains(tmp_path / "out", "No space left"):
        make_set().export(tmp_path / "out")
    assert list((tmp_path / "out").rglob("*")) == []


# Bad files


def test_a_missing_file_is_named(tmp_path, complains):
    with complains(tmp_path / "none.safetensors", "missing"):
        DistilledSet.load(tmp_path / "none.safetensors")


def test_a_folder_is_no_file(tmp_path, complains):
    with complains(tmp_path, "is a folder; allowed: one file (load_folder reads a folder)"):
        DistilledSet.load(tmp_path)


def test_another_authors_file_is_answered_with_what_reads_it(tmp_path, complains):
    torch.save(torch.zeros(3, 3, 8, 8), tmp_path / "images_best.pt")
    with complains("images_best.pt is", "read_published reads other", kind=DamagedError):
        DistilledSet.load(tmp_path / "images_best.pt")


def test_a_file_cut_anywhere_is_named(saved, complains):
    whole = saved.read_bytes()
    for length in [*range(0, len(whole), 149), len(whole) - 1]:
        saved.write_bytes(whole[:length])
        with complains(saved, "cut short", "allowed: a whole file", kind=DamagedError):
            DistilledSet.load(saved)


def test_random_bytes_are_no_set(saved, complains):
    generator = np.random.default_rng(0)
    for length in range(0, 400, 9):
        saved.write_bytes(generator.bytes(length))
        with complains(saved):
            DistilledSet.load(saved)


def test_a_garbled_header_is_a_complaint_or_no_harm(saved):
    whole, generator = saved.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(300):
        content = bytearray(whole)
        content[generator.integers(header)] = generator.integers(256)
        saved.write_bytes(content)
        try:
            DistilledSet.load(saved)
        except SettingError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"format": "pt"}, {"atomlib": "{"}, {"atomlib": "[" * 100_000}],
    ids=["none", "empty", "another's", "broken", "deep"],
)
def test_a_file_of_another_program_is_no_set(make_set, tmp_path, complains, metadata):
    made, path = make_set(), tmp_path / "x.safetensors"
    save_file({name: getattr(made, name) for name in TENSORS}, path, metadata)
    with complains(path, "allowed: a whole file", kind=DamagedError):
        DistilledSet.load(path)


def forge(saved, tensors=None, **about):
    """The saved file with some tensors or metadata replaced, or removed where None, and sealed."""
    kept, words = read_tensors(saved)
    kept = {k: v for k, v in {**kept, **(tensors or {})}.items() if v is not None}
    words = {k: v for k, v in {**words, **about}.items() if v is not None}
    write_tensors(saved, kept, words)


LABELS = torch.arange(3).repeat_interleave(2)


@pytest.mark.parametrize(
    "tensors",
    [
        {"trained": None},
        {"labels": None},
        {"images": torch.zeros(5, 3, 8, 8)},
        {"images": torch.zeros(5, 3, 8, 8), "trained": torch.zeros(5, 3, 8, 8)},
        {"images": torch.zeros(6, 8, 8), "trained": torch.zeros(6, 8, 8)},
        {"trained": torch.zeros(6, 3, 4, 4)},
        {"labels": LABELS[:5].clone()},
        {"labels": LABELS[:, None].clone()},
        {"labels": LABELS + 1},
        {"labels": LABELS - 1},
        {"labels": LABELS.float()},
        {"images": torch.zeros(6, 3, 8, 8, dtype=torch.uint8)},
        {"images": torch.full((6, 3, 8, 8), torch.nan)},
        {"images": torch.full((6, 3, 8, 8), 1.5)},
        {"trained": torch.full((6, 3, 8, 8), torch.inf)},
        {"images": torch.zeros(6, 3, 8, 4), "trained": torch.zeros(6, 3, 8, 4)},
    ],
    ids=lambda tensors: ", ".join(
        f"{k} {v if v is None or v.ndim == 1 else [*v.shape, v.dtype, v.max().item()]}"
        for k, v in tensors.items()
    ),
)
def test_tensors_that_do_not_fit_are_refused(saved, complains, tensors):
    forge(saved, tensors)
    with complains(saved, "no distilled set", "DistilledSet.save", kind=DamagedError):
        DistilledSet.load(saved)


@pytest.mark.parametrize(
    "about",
    [
        {"settings": None},
        {"settings": {"ipc": 0}},
        {"settings": {"ipc": 2, "unheard_of": 1}},
        {"settings": {"ipc": 3}},
        {"method": None},
        {"method": "../x"},
        {"method": "theirs", "settings": {"ipc": 2}},
        {"method": "theirs", "settings": {"ipc": 2, "seed": True, "variant": "", "zca": False}},
        {"data": {"name": "toy"}},
        {"data": []},
        {"format": 1},
        {"data": {"name": "../x", "fingerprint": "", "class_names": ["a", "b", "c"]}},
        {"data": {"name": ".x", "fingerprint": "", "class_names": ["a", "b", "c"]}},
        {"data": {"name": "", "fingerprint": "", "class_names": ["a", "b", "c"]}},
        {"data": {"name": "x" * 200, "fingerprint": "", "class_names": ["a", "b", "c"]}},
        {"data": {"name": "x", "fingerprint": 1, "class_names": ["a", "b", "c"]}},
        {"data": {"name": "x", "fingerprint": "", "class_names": ["a", "b", 3]}},
        {"revision": None},
        {"given": [1]},
        {"extras": None},
        {"extras": {"rate": "fast"}},
        {"versions": ["torch"]},
        {"versions": None},
        {"history": [[1]]},
        {"history": 5},
    ],
    ids=lambda about: str(about)[:60],
)
def test_metadata_that_does_not_fit_is_refused(saved, complains, about):
    forge(saved, **about)
    with complains(saved, "no distilled set", "DistilledSet.save", kind=DamagedError):
        DistilledSet.load(saved)


def test_any_change_of_what_it_says_is_noticed(saved, complains):
    """Of pixels as of settings: a learning rate that is another than it was, by one digit."""
    whole = saved.read_bytes()
    for old, new in ((b'image_lr\\": 1.0', b'image_lr\\": 2.0'), (whole[-400:], b"\0" * 400)):
        assert old in whole
        saved.write_bytes(whole.replace(old, new))
        with complains(saved, "its checksum differs", kind=DamagedError):
            DistilledSet.load(saved)


# Several sets


def test_a_folder_is_loaded_in_the_order_of_methods_and_ipc(make_set, tmp_path):
    asked = [("random", 1), ("random", 2), ("datadam", 1), ("atom", 1), ("atom", 2)]
    for method, ipc in reversed(asked):
        made = make_set(method=method, ipc=ipc)
        made.save(tmp_path / f"{made.stem}.safetensors")
    found = load_folder(tmp_path)
    assert [(made.method.name, made.ipc) for made in found] == asked
    assert [made.ipc for made in load_folder(tmp_path, ["atom"])] == [1, 2]
    assert load_folder(tmp_path, ["atom"], 0) and found[0].method.seed == 0


def test_a_damaged_set_is_named_and_left_out(make_set, tmp_path, capsys):
    for method in ("dm", "atom"):
        make_set(method=method).save(tmp_path / f"{method}.safetensors")
    (tmp_path / "dm.safetensors").write_bytes(b"x" * 99)
    assert [made.method.name for made in load_folder(tmp_path)] == ["atom"]
    (said,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "dm.safetensors") in said and said.endswith("left out")


def test_a_seed_that_is_not_there_is_told(make_set, tmp_path, complains):
    made = make_set(method="atom")
    made.save(tmp_path / f"{made.stem}.safetensors")
    with complains("no distilled set of atom and seed 7", "make reports"):
        load_folder(tmp_path, ["atom"], 7)


def test_a_folder_without_the_sets_is_answered_with_the_command(make_set, tmp_path, complains):
    folder = tmp_path / "quick" / "distilled"
    make_set(method="dm").save(folder / "x.safetensors")
    for methods in (["atom"], ["atom", "random"]):
        with complains(folder, ", ".join(methods), "make reports PROFILE=quick"):
            load_folder(folder, methods)
    with complains(f"folder {tmp_path}/none/distilled is not there", "make reports PROFILE=none"):
        load_folder(tmp_path / "none" / "distilled")
    with complains("did you mean 'atom'"):
        load_folder(folder, ["atmo"])


# Sets put together by hand, and what is no path or no row


def by_hand(made, change):
    """A set that somebody has changed."""
    flat = replace(made, images=made.images[..., 0], trained=made.trained[..., 0])
    return {
        "float64": replace(made, trained=made.trained.double()),
        "float16": replace(made, images=made.images.half()),
        "0 to 255": replace(made, images=made.images * 255),
        "not finite": replace(made, trained=made.trained / 0),
        "int32 labels": replace(made, labels=made.labels.int()),
        "float labels": replace(made, labels=made.labels.float()),
        "labels from 1": replace(made, labels=made.labels + 1),
        "negative labels": replace(made, labels=made.labels - 1),
        "fewer labels": replace(made, labels=made.labels[:2]),
        "soft labels": replace(made, labels=torch.eye(3)[made.labels]),
        "a list of labels": replace(made, labels=made.labels.tolist()),
        "numpy": replace(made, trained=made.trained.numpy()),
        "sparse": replace(made, trained=made.trained.to_sparse()),
        "no memory": replace(made, images=made.images.to("meta")),
        "flat": flat,
        "no method": replace(made, method=None),
        "a path for a name": replace(made, data_name="../set"),
        "no versions": replace(made, versions=None),
        "fewer classes": replace(made, class_names=made.class_names[:2]),
    }[change]


CHANGES = (
    "float64", "float16", "0 to 255", "not finite", "int32 labels", "float labels",
    "labels from 1", "negative labels", "fewer labels", "soft labels", "a list of labels", "numpy",
    "sparse", "no memory", "flat", "no method", "a path for a name", "no versions",
    "fewer classes",
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_load_would_refuse_is_neither_saved_nor_exported_nor_evaluated(
    make_set, make_data, tmp_path, complains, change
):
    made = by_hand(make_set(), change)
    with complains("distilled set is not whole"):
        made.save(tmp_path / "set.safetensors")
    for layout in ("png", "hugging-face", "dc", "mtt"):
        with complains("distilled set is not whole"):
            made.export(tmp_path / "export", layout)
    with complains("distilled set is not whole"):
        evaluate(made, make_data(), EvalConfig(networks=1, epochs=1, width=8), progress=False)
    assert not any(tmp_path.iterdir())


def test_gradients_and_numbers_in_tensors_are_no_harm(make_set, make_data, tmp_path):
    made = make_set()
    held = replace(
        made,
        trained=made.trained.clone().requires_grad_(),
        extras={"lr": torch.tensor(0.5)},
        history=[(1, torch.tensor(0.25))],
    )
    assert held.digest() == made.digest()
    again = DistilledSet.load(held.save(tmp_path / "set.safetensors"))
    assert again.lr == 0.5 and again.history == [(1, 0.25)]
    assert torch.equal(again.trained, made.trained)


PATHS = (None, 5, b"set", ["set"], "", "a" * 300, "\0", "\ud800")


@pytest.mark.parametrize("path", PATHS, ids=[ascii(path)[:9] for path in PATHS])
def test_what_is_no_path_is_told(make_set, complains, path):
    made = make_set()
    for use in (made.save, made.export, DistilledSet.load, load_folder):
        with complains("is", "allowed: the path of"):
            use(path)


@pytest.mark.parametrize("path", [".", "", "/", "..", "a/..", Path()])
def test_a_path_without_a_name_is_no_file(make_set, tmp_path, monkeypatch, complains, path):
    monkeypatch.chdir(tmp_path)
    with complains("path is", "allowed: the path of a file"):
        make_set().save(path)
    with complains("resume is", "allowed: the path of a file"):
        Bookmark.of(path, "run")
    assert not any(tmp_path.iterdir())


def test_a_path_may_begin_at_home(make_set, tmp_path, monkeypatch, complains):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = make_set()
    assert made.save("~/x.safetensors") == tmp_path / "x.safetensors"
    assert torch.equal(DistilledSet.load(Path("~/x.safetensors")).trained, made.trained)
    assert torch.equal(read_published("~/x.safetensors").trained, made.trained)
    assert len(load_folder("~")) == 1
    assert made.export("~/png") == tmp_path / "png"
    assert Store("~/st").folder == tmp_path / "st"
    assert Bookmark.of("~/b", "run").path == tmp_path / "b"
    for use in (made.save, made.export, DistilledSet.load, read_published, load_folder, Store):
        with complains("is '~nobody-of-that-name/x', and there is no such home", "allowed"):
            use("~nobody-of-that-name/x")


@pytest.mark.parametrize("data", ["toy", 5, torch.zeros(3)])
def test_what_is_no_data_to_export_with_is_told(make_set, tmp_path, complains, data):
    with complains("data is", "load_dataset"):
        make_set().export(tmp_path / "mtt", layout="mtt", data=data)


@pytest.mark.parametrize("methods", ["atom", 5, {"atom": 1}])
def test_what_is_no_list_of_methods_is_told(saved, complains, methods):
    with complains("methods is", "a list"):
        load_folder(saved.parent, methods)


@pytest.mark.parametrize(
    "index", [slice(0, 3), [0, 1], torch.tensor([0, 1]), None, "0", 1.5, ..., (0, 1)]
)
def test_several_images_are_no_item(make_set, complains, index):
    with complains("index is", "images[:3]"):
        make_set()[index]


@pytest.mark.parametrize("index", [1, -2, np.int64(1), torch.tensor(1)])
def test_a_number_of_any_kind_is_an_item(make_set, index):
    made = make_set()
    image, label = made[index]
    assert torch.equal(image, made.images[int(index)]) and label == int(made.labels[int(index)])
    with pytest.raises(IndexError):  # by which a loop over it ends
        made[len(made)]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><title>404</title>", "web page"),
        (b"", "empty"),
    ],
)
def test_a_pointer_or_a_page_in_place_of_the_file_is_told(tmp_path, complains, content, parts):
    (tmp_path / "set.safetensors").write_bytes(content)
    with complains(parts, kind=DamagedError):
        DistilledSet.load(tmp_path / "set.safetensors")
    (tmp_path / "record.json").write_bytes(content)
    with complains(parts, kind=DamagedError):
        read_record(tmp_path / "record.json")
