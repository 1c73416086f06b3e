"""Data by name: what is loaded, how it is told apart, and what is said where it is missing."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from atomlib.cli import main
from atomlib.datasets import known
from atomlib.datasets.load import load_dataset
from atomlib.errors import DataError


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits")


def test_digits_are_1797_grey_images_of_8_x_8(digits):
    for images in (digits.train_images, digits.test_images):
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (1, 8, 8)
    assert len(digits.train_images) == len(digits.train_labels)
    assert len(digits.test_images) == len(digits.test_labels)
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
    assert digits.class_names == tuple("0123456789")
    assert (digits.channels, digits.image_size, digits.num_classes) == (1, 8, 10)


def test_digits_are_scikit_learns_scaled_to_bytes_and_split_by_class(digits):
    bunch, seen = load_digits(), Counter()
    expected = {"train": ([], []), "test": ([], [])}
    for image, label in zip(bunch.images, bunch.target, strict=True):
        seen[label] += 1
        images, labels = expected["test" if seen[label] % 5 == 0 else "train"]
        images.append(np.round(image * 255 / 16))
        labels.append(label)
    for split, (images, labels) in expected.items():
        np.testing.assert_array_equal(getattr(digits, f"{split}_images")[:, 0], images)
        np.testing.assert_array_equal(getattr(digits, f"{split}_labels"), labels)
        assert set(labels) == set(range(10))
    train = Counter(expected["train"][1])
    assert digits.class_counts == {str(digit): train[digit] for digit in range(10)}


def test_fingerprint_is_the_same_at_every_load(digits):
    assert load_dataset("digits").fingerprint == digits.fingerprint


@pytest.mark.parametrize("tensor", ["train_images", "train_labels", "test_images", "test_labels"])
def test_fingerprint_changes_with_a_single_value(make_data, tensor):
    data = make_data()
    changed = getattr(data, tensor).clone()
    changed.view(-1)[-1] ^= 3  # the last label is 2, of three classes
    other = replace(data, fingerprint="", **{tensor: changed})
    assert replace(data, fingerprint="").fingerprint == data.fingerprint
    assert other.fingerprint != data.fingerprint


def test_fingerprint_changes_with_class_names_but_not_with_the_name(make_data):
    data = make_data()
    assert replace(data, fingerprint="", name="other").fingerprint == data.fingerprint
    renamed = replace(data, fingerprint="", class_names=("ant", "bee", "cow"))
    assert renamed.fingerprint != data.fingerprint


OWN = ((0.5,) * 3, (0.25,) * 3)


def test_fingerprint_changes_with_statistics_that_the_content_does_not_bring(make_data):
    """Pixels that are normalised otherwise train other networks."""
    plain = make_data()
    own, again = (replace(plain, statistics=OWN) for _ in range(2))
    other = replace(own, statistics=((0.5,) * 3, (0.2,) * 3))
    assert len({plain.fingerprint, own.fingerprint, other.fingerprint}) == 3
    assert replace(own).fingerprint == again.fingerprint == own.fingerprint
    assert replace(own, statistics=None).fingerprint == plain.fingerprint
    assert replace(plain, statistics=[[0.5] * 3, [0.25] * 3]) == own


def test_fingerprint_of_a_known_set_is_its_own_with_the_statistics_that_it_brings(make_data):
    cifar10 = known.official("cifar10")
    for name, print_ in (("cifar10", cifar10.fingerprint), ("cifar10-held-out", "")):
        data = replace(make_data(), name=name, fingerprint=print_, statistics=None)
        brought = replace(data, statistics=cifar10.statistics)
        own = replace(brought, statistics=OWN)
        assert brought.fingerprint == data.fingerprint and ":" not in data.fingerprint
        assert own.fingerprint.endswith(f":{data.fingerprint}")
        # What a reader must know is told of it all the same.
        assert (own.label, own.note) == (data.label, data.note)


@pytest.mark.parametrize(
    ("part", "value", "allowed"),
    [("label", 3, "text on one line"), ("note", "a\nb", "text on one line"),
     ("published_as", 7, "text on one line"), ("zca", "yes", "True, False or None"),
     ("zca", 1, "True, False or None"), ("augmentations", ("mirror",), "a tuple of color, crop"),
     ("augmentations", "crop", "a tuple of color, crop"),
     ("augmentations", ["crop"], "a tuple of color, crop"),
     ("augmentations", (["crop"],), "a tuple of color, crop")],
)  # fmt: skip
def test_what_stands_beside_the_images_is_checked(make_data, complains, part, value, allowed):
    with complains(f"{part} of toy ", f"allowed: {allowed}", kind=DataError):
        replace(make_data(), **{part: value})


@pytest.mark.parametrize(
    "statistics",
    [0.5, "mean", (), ((0.5,) * 3,), ((0.5,) * 2, (0.2,) * 2), (("a",) * 3, (0.2,) * 3),
     ((0.5,) * 3, (0.2, 0.2, 0.0)), ((0.5, 0.5, float("nan")), (0.2,) * 3)],
    ids=str,
)  # fmt: skip
def test_statistics_that_are_none_are_refused(make_data, complains, statistics):
    with complains("statistics of toy are", "one per channel", kind=DataError):
        replace(make_data(), statistics=statistics)


def test_two_classes_of_one_name_are_refused(make_data, complains):
    """Counts, files and tables go by name."""
    with complains("two classes of toy are called 'ant'", kind=DataError):
        replace(make_data(), class_names=("ant", "bee", "ant"))


@pytest.mark.parametrize(("name", "nearest"), [("cifr10", "cifar10"), ("digit", "digits")])
def test_an_unknown_name_is_answered_with_the_nearest(complains, name, nearest):
    with complains(f"dataset is {name!r}", f"did you mean {nearest!r}", "tinyimagenet", "folder:"):
        load_dataset(name)


def test_a_folder_without_folder_before_it_is_told_so(tmp_path, complains, monkeypatch):
    (tmp_path / "my-images").mkdir()
    monkeypatch.chdir(tmp_path)
    said = "dataset is {0!r}, a path without 'folder:' before it; allowed: 'folder:{0}', or digits"
    for name, root in (("my-images", tmp_path), ("./my-images", None)):
        with complains(said.format(name), kind=DataError):
            load_dataset(name, root=root)
    with complains("dataset is PosixPath('my-images'); allowed", "folder:PATH", kind=DataError):
        load_dataset(Path("my-images"))


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tinyimagenet"])
def test_missing_data_is_answered_with_the_command_that_gets_it(tmp_path, complains, name):
    with complains(f"make data DATASET={name}", tmp_path, kind=DataError):
        load_dataset(name, root=tmp_path)


def test_a_missing_folder_is_answered_with_where_to_put_it(tmp_path, complains):
    with complains("folder:nowhere.zip", tmp_path, "ATOM_DATA=", kind=DataError):
        load_dataset("folder:nowhere.zip", root=tmp_path)
    with complains(f"folder:{tmp_path}/nowhere is not there; allowed", kind=DataError):
        load_dataset(f"folder:{tmp_path}/nowhere")


def test_data_is_looked_for_where_atom_data_says(tmp_path, monkeypatch, complains):
    monkeypatch.setenv("ATOM_DATA", str(tmp_path / "there"))
    with complains(tmp_path / "there", kind=DataError):
        load_dataset("cifar10")


def test_the_first_alternative_that_is_there_is_loaded(tmp_path, complains, digits):
    found = load_dataset("folder:nowhere|cifar10|digits", root=tmp_path)
    assert found.fingerprint == digits.fingerprint
    with complains("make data DATASET=cifar10", kind=DataError):
        load_dataset("folder:nowhere|cifar10", root=tmp_path)


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100"])
def test_resize_is_refused_where_images_are_of_one_size(tmp_path, complains, name):
    with complains("resize is 16", name, kind=DataError):
        load_dataset(name, root=tmp_path, resize=16)


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("cifar10", "cifar-10-batches-py", "data_batch_1"),
        ("cifar100", "cifar-100-python", "train"),
    ],
)
def test_a_damaged_download_is_named_and_never_unpickled(tmp_path, complains, name, folder, file):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / file).write_bytes(b"\x80\x04 cut short")
    with complains(tmp_path / folder, "damaged", f"make data DATASET={name}", kind=DataError):
        load_dataset(name, root=tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "tinyimagenet"])
def test_a_download_without_a_network_is_one_sentence(tmp_path, monkeypatch, complains, name):
    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with complains(name, "no route to host", kind=DataError):
        load_dataset(name, root=tmp_path, download=True)


@pytest.mark.parametrize("name", ["cifar10", "tinyimagenet"])
def test_a_download_that_is_another_file_is_one_sentence(tmp_path, monkeypatch, complains, name):
    """The page of a network that asks for a login first."""

    def page(url, path):
        Path(path).write_text("<html>log in")

    monkeypatch.setattr("torchvision.datasets.utils._get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr("torchvision.datasets.utils._urlretrieve", page)
    for _ in range(2):  # what came does not stand in the way of the next
        with complains(name, "corrupted", "fetched elsewhere", kind=DataError):
            load_dataset(name, root=tmp_path, download=True)
    assert not list(tmp_path.iterdir())


def test_the_command_describes_the_data(capsys):
    assert main(["data", "digits"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("digits: ")
    assert "8 x 8 x 1, 10 classes" in line


@pytest.mark.parametrize("name", ["folder:nowhere", "cifr10"])
def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path, capsys, name):
    assert main(["data", name, "--root", str(tmp_path)]) == 1
    assert re.fullmatch(f"error: .*{name}.*\n", capsys.readouterr().err)
