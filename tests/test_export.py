"""Folders of PNG files, as others read them: every pixel and label, or nothing at all."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.datasets import ImageFolder

from atomlib.datasets.load import load_dataset
from atomlib.datasets.png_folder import (
    as_bytes,
    example_folder,
    first_of_each,
    hugging_face_folder,
    png_folder,
)

NAMES = ("ant", "bee, honey", "z/../cat")
LABELS = torch.tensor([2, 0, 1, 0])


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def images(request):
    generator = torch.Generator().manual_seed(0)
    shape = (4, request.param, 6, 6)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def pixels(folder):
    """(label, pixels) of every file, as torchvision sorts them."""
    found = ImageFolder(folder)
    for path, label in found.samples:
        yield label, np.asarray(Image.open(path)).reshape(6, 6, -1).transpose(2, 0, 1)


def assert_holds(folder, images):
    found = list(pixels(folder))
    order = LABELS.argsort(stable=True)
    assert [label for label, _ in found] == LABELS[order].tolist()
    for (_, one), row in zip(found, order, strict=True):
        np.testing.assert_array_equal(one, images[row].numpy())


def test_a_png_folder_is_torchvisions(images, tmp_path):
    assert_holds(png_folder(images, LABELS, NAMES, tmp_path / "out"), images)


def test_a_hugging_face_folder_has_a_split_and_a_card(images, tmp_path):
    folder = hugging_face_folder(images, LABELS, NAMES, tmp_path / "out", about="Of insects.")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "train"]
    assert_holds(folder / "train", images)
    _, head, text = (folder / "README.md").read_text().split("---\n")
    (config,) = yaml.safe_load(head)["configs"]
    assert config == {"config_name": "default", "data_files": "train/**", "drop_labels": False}
    assert "Of insects." in text and all(f"- {name}\n" in text for name in NAMES)


def test_two_channels_are_no_picture(tmp_path, complains):
    with complains("2 channels", "1 (grey) or 3 (colour)"):
        png_folder(torch.zeros(4, 2, 6, 6).byte(), LABELS, NAMES, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("write", "where"),
    [
        (png_folder, (Image.Image, "save")),
        (hugging_face_folder, (Image.Image, "save")),
        (hugging_face_folder, (Path, "write_text")),  # the card, after all images
    ],
)
def test_a_full_disk_leaves_nothing(images, tmp_path, monkeypatch, complains, write, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*where, full)
    about = {"about": ""} if write is hugging_face_folder else {}
    with complains("No space left"):
        write(images, LABELS, NAMES, tmp_path / "out", **about)
    assert list((tmp_path / "out").rglob("*")) == []


def test_the_example_is_a_data_set_of_digits(tmp_path):
    folder = example_folder(tmp_path / "example", train=3, test=2)
    data, digits = load_dataset(f"folder:{folder}"), load_dataset("digits")
    assert data.class_names == digits.class_names
    for split, count in (("train", 3), ("test", 2)):
        images, labels = first_of_each(digits, split, count)
        assert torch.equal(getattr(data, f"{split}_images"), images)
        assert torch.equal(getattr(data, f"{split}_labels"), labels)


def test_the_example_is_written_once_and_whole(tmp_path, monkeypatch):
    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", cut)
        example_folder(tmp_path / "example", train=1, test=1)
    assert not (tmp_path / "example").exists()
    folder = example_folder(tmp_path / "example", train=1, test=1)
    (folder / "mine").touch()
    example_folder(folder, train=2, test=2)
    assert (folder / "mine").exists() and len([*folder.rglob("*.png")]) == 20
    assert [path.name for path in tmp_path.iterdir()] == ["example"]


def test_the_example_is_whole_where_two_processes_write_it(tmp_path, monkeypatch):
    folder, plain = tmp_path / "example", Image.Image.save

    def save_beside_another(self, *args, **kwargs):
        """Before the first image is written, another process begins and ends."""
        monkeypatch.setattr(Image.Image, "save", plain)
        example_folder(folder, train=1, test=1)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", save_beside_another)
    assert example_folder(folder, train=2, test=2) == folder
    assert len([*folder.rglob("*.png")]) == 20
    assert folder.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["example"]


def test_the_example_is_not_put_in_place_of_a_file(tmp_path, complains):
    (tmp_path / "example").touch()
    with complains(tmp_path / "example", "could not be written", "allowed: a new"):
        example_folder(tmp_path / "example", train=1, test=1)
    assert [path.name for path in tmp_path.iterdir()] == ["example"]
    with complains("folder is '.'", "allowed: the path"):
        example_folder(".")


def test_the_first_of_each_class_in_its_order(make_data):
    data = make_data(counts=(4, 2, 3))
    images, labels = first_of_each(data, "train", 3)
    assert labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert torch.equal(images, data.train_images[[0, 1, 2, 4, 5, 6, 7, 8]])


def test_bytes_are_the_nearest():
    assert as_bytes(torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 1.0])).tolist() == [0, 0, 1, 255]
