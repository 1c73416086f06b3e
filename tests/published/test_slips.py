"""Sets as people pack them: what would be read wrongly in silence is refused, or said in a note."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.utils import save_image

from atomlib.distill import distill
from atomlib.errors import SettingError
from atomlib.methods import RandomImages
from atomlib.preprocess import STATISTICS
from atomlib.published import read_published
from atomlib.runtime.files import DamagedError
from tests.published.test_reading import IPC, LABELS, TRAINED, normalised, smooth

BACKWARDS = LABELS.flip(0)


@pytest.fixture
def data(make_data):
    return replace(make_data("cifar10"), statistics=STATISTICS["cifar10"])


def pictures(folder, names, kind=None):
    """One picture of its own in each of these files."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (8, 8), (20 * number, 100, 200))
        (image.convert(kind) if kind else image).save(path)
    return folder


@pytest.mark.parametrize(
    "labels",
    [
        BACKWARDS.tolist(),
        tuple(map(float, BACKWARDS)),
        [[label] for label in BACKWARDS.tolist()],
        torch.eye(3)[BACKWARDS].tolist(),
        {"labels": BACKWARDS},
    ],
)
@pytest.mark.parametrize("layout", ["names", "list", "dc", "file"])
def test_labels_in_lists_are_labels(tmp_path, data, labels, layout):
    """Not passed over for the order of the images."""
    file = tmp_path / "images_best.pt"
    torch.save(
        {
            "names": {"images": TRAINED, "labels": labels},
            "list": [TRAINED, labels],
            "dc": {"data": [[TRAINED, labels]]},
            "file": TRAINED,
        }[layout],
        file,
    )
    if layout == "file":
        torch.save(labels, tmp_path / "labels_best.pt")
    assert torch.equal(read_published(file, data).labels, BACKWARDS)


@pytest.mark.parametrize(
    "labels",
    [["ant", "bee", "cat"] * 2, "ant", {"ant": 0}, [[0], [0, 1]], [None] * 6, [], 3],
)
@pytest.mark.parametrize("layout", ["names", "list", "dc", "file"])
def test_labels_that_are_none_are_refused(tmp_path, data, complains, labels, layout):
    file = tmp_path / "images_best.pt"
    dc = {"data": [[TRAINED, labels]]}
    tree = {"names": {"images": TRAINED, "labels": labels}, "list": [TRAINED, labels], "dc": dc}
    torch.save(tree.get(layout, TRAINED), file)
    if layout == "file":
        torch.save(labels, tmp_path / "labels_best.pt")
    with complains("labels of", kind=DamagedError):
        read_published(file, data)


@pytest.mark.parametrize("rows", [[[0.5, 0.2, 0.1]], [[0.0, 0.0, 0.0]], [[1.0, 1.0, 0.0]]])
def test_rows_from_0_to_1_that_are_no_parts_of_1_are_refused(tmp_path, data, complains, rows):
    """As logits they would be nearly equal; who means that says so."""
    torch.save([TRAINED, torch.tensor(rows * 6)], tmp_path / "s.pt")
    with complains("rows sum to", "'logits'"):
        read_published(tmp_path / "s.pt", data)
    assert read_published(tmp_path / "s.pt", data, labels="logits").soft


@pytest.mark.parametrize(
    "rate", [0.0, -0.1, float("nan"), float("inf"), torch.tensor([0.1, 0.2]), "0.1", True, [0.1]]
)
def test_a_rate_that_cannot_be_is_said(tmp_path, data, rate):
    torch.save([TRAINED, LABELS, rate], tmp_path / "s.pt")
    read = read_published(tmp_path / "s.pt", data)
    assert read.lr is None and any("no positive number" in note for note in read.notes)


def test_a_rate_by_name_in_its_file_is_read(tmp_path, data):
    for name, value in {"images": TRAINED, "labels": LABELS, "lr": {"lr": 0.25}}.items():
        torch.save(value, tmp_path / f"{name}.pt")
    assert read_published(tmp_path, data).lr == 0.25


def test_floats_from_0_to_255_are_pixels(tmp_path, data):
    pixels = smooth(1)
    torch.save([pixels * 254.5, LABELS], tmp_path / "s.pt")
    read = read_published(tmp_path / "s.pt", data)
    assert read.space == "pixels"
    assert torch.allclose(read.images, pixels * (254.5 / 255), atol=1e-5)


def test_values_that_are_no_pixels_are_not_called_so(tmp_path, data, complains):
    torch.save([TRAINED.clamp(-2, 2.5), LABELS], tmp_path / "s.pt")
    with complains("space is 'pixels'", "'normalised'"):
        read_published(tmp_path / "s.pt", data, space="pixels")


@pytest.mark.parametrize(("least", "most"), [(-0.45, 2.6), (0, 2.6), (0, 15.5), (-0.5, 2.01)])
def test_learned_pixels_are_not_divided_by_255(tmp_path, data, least, most):
    """Beyond black and white, as they are where nothing clips them; and that is said."""
    images = smooth(1)
    images = (images - images.min()) / (images.max() - images.min()) * (most - least) + least
    torch.save([images, LABELS], tmp_path / "s.pt")
    read = read_published(tmp_path / "s.pt", data, space="pixels")
    assert torch.allclose(read.trained, normalised(images), atol=1e-5)
    assert torch.equal(read.images, images.clamp(0, 1))
    assert any("1 is taken for white" in note for note in read.notes)


@pytest.mark.parametrize("space", [None, "pixels"])
@pytest.mark.parametrize("most", [2, 3, 16, 255])
def test_dark_bytes_are_divided_by_255(tmp_path, data, space, most):
    images = (smooth(1) * most).round()
    images[0, 0, 0, 0] = most
    torch.save([images, LABELS], tmp_path / "s.pt")
    read = read_published(tmp_path / "s.pt", data, space=space)
    assert read.space == "pixels" and torch.allclose(read.images, images / 255)
    assert not any("white" in note for note in read.notes)


@pytest.mark.parametrize(("least", "most"), [(-3, 258), (-0.1, 17), (-0.6, 2.1)])
def test_what_is_neither_pixels_nor_bytes_is_refused(tmp_path, data, complains, least, most):
    images = smooth(1)
    images = (images - images.min()) / (images.max() - images.min()) * (most - least) + least
    torch.save([images, LABELS], tmp_path / "s.pt")
    with complains("space is 'pixels'", "0 to 1 or 0 to 255"):
        read_published(tmp_path / "s.pt", data, space="pixels")


@pytest.mark.parametrize("factor", [5, 8, 16])
def test_parts_of_one_pixel_are_refused(tmp_path, data, complains, factor):
    torch.save([TRAINED, LABELS], tmp_path / "s.pt")
    with complains(f"factor is {factor}", "1 to 4"):
        read_published(tmp_path / "s.pt", data, factor=factor)


@pytest.mark.parametrize("path", [None, 5, b"set.pt", ["set.pt"]])
def test_what_is_no_path_is_told(complains, path):
    with complains("path is", "allowed: the path of"):
        read_published(path)


@pytest.mark.parametrize("path", ["a" * 300, "none/set.pt", "/proc/self/mem"])
def test_a_path_that_leads_nowhere_is_told(complains, path):
    with complains("allowed:"):
        read_published(path)


@pytest.mark.parametrize(
    "tops", [("train", "test"), ("ipc1", "ipc10"), (".", "copy"), ("set/a", "set/b"), (".", "0")]
)
def test_two_sets_in_one_folder_are_not_one(tmp_path, make_data, complains, tops):
    """Else each image counts twice."""
    names = [f"{top}/{k}/a.png" for top, k in itertools.product(tops, range(3))]
    pictures(tmp_path / "s", names)
    with complains(f"in '{tops[0]}'", f"in '{tops[1]}'", "the path of one set"):
        read_published(tmp_path / "s", make_data())


def test_two_folders_of_one_class_are_refused(tmp_path, make_data, complains):
    pictures(tmp_path / "s", [f"{name}/a.png" for name in ("ant", "Ant", "bee", "cat")])
    if len(list((tmp_path / "s").iterdir())) == 3:
        pytest.skip("to the file system they are one name")
    with complains("['Ant', 'ant']", "one class"):
        read_published(tmp_path / "s", make_data())


def test_a_folder_that_is_called_like_no_class_is_named(tmp_path, make_data, complains):
    """In alphabetical order the classes behind it would get wrong labels."""
    pictures(tmp_path / "s", [f"{name}/a.png" for name in ("ant", "wasp", "bee")])
    with complains("folder 'wasp'", "'ant', 'bee', 'cat'"):
        read_published(tmp_path / "s", make_data())


def test_numbers_from_1_do_not_say_which_is_0(tmp_path, complains):
    """Alphabetical order has 10 before 2."""
    pictures(tmp_path / "s", [f"{k}/a.png" for k in range(1, 11)])
    with complains("numbered 1 to 10", "0 to 9"):
        read_published(tmp_path / "s")


def test_a_picture_beside_the_folders_is_said(tmp_path, make_data):
    pictures(tmp_path / "s", ["0/a.png", "1/a.png", "2/a.png", "preview.png"])
    read = read_published(tmp_path / "s", make_data())
    assert len(read) == 3 and any("'preview.png'" in note for note in read.notes)


def test_transparent_pictures_are_put_on_white_and_that_is_said(tmp_path, make_data):
    pictures(tmp_path / "s", ["0/a.png", "1/a.png"])
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(pictures(tmp_path / "s", ["2/a.png"]) / "2/a.png")
    read = read_published(tmp_path / "s", make_data())
    assert (read.images[2] == 1).all() and any("transparent" in note for note in read.notes)


def test_12_bits_of_16_are_not_dark(tmp_path, make_data):
    for label in range(3):
        (tmp_path / str(label)).mkdir()
        values = np.full((8, 8), 2000 + 1000 * label, np.uint16)
        Image.fromarray(values).save(tmp_path / str(label) / "a.png")
    read = read_published(tmp_path, make_data(channels=1))
    assert torch.allclose(read.images.amax((1, 2, 3)) * 255, torch.tensor([125.0, 187.0, 250.0]))
    assert any("use 12 of them" in note for note in read.notes)


@pytest.mark.parametrize("ground", [0, 1])
def test_a_row_that_is_not_full_is_refused(tmp_path, data, complains, ground):
    """The ground that goes on there is no image."""
    images = smooth(3).clamp(0.1, 0.9)
    save_image(images[:5], tmp_path / "grid.png", nrow=IPC, pad_value=ground)
    with complains("no image at the end of its last row"):
        read_published(tmp_path / "grid.png", data)
    save_image(images, tmp_path / "grid.png", nrow=IPC, pad_value=ground)
    assert len(read_published(tmp_path / "grid.png", data)) == 6


@pytest.mark.parametrize("zca", [False, True, "unit", "computed"])
def test_our_own_file_says_which_whitening_it_has(tmp_path, data, zca):
    made = distill(data, RandomImages(ipc=2, zca=zca), progress=False)
    read = read_published(made.save(tmp_path / "s.safetensors"), data)
    assert read.zca == zca and torch.equal(read.trained, made.trained)
    assert torch.allclose(read.images, made.images, atol=1e-4)


def test_our_own_file_is_whole_and_of_this_data_or_refused(tmp_path, data, make_data, complains):
    path = distill(data, RandomImages(ipc=2), progress=False).save(tmp_path / "s.safetensors")
    with complains("made from cifar10", "data is toy", kind=SettingError):
        read_published(path, make_data(seed=1))
    with complains("experiment is 0", "one set"):
        read_published(path, data, experiment=0)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with complains("checksum", kind=DamagedError):
        read_published(path, data)
    tensors = load_file(path)
    save_file(tensors, path)  # without what it says of itself, it is anybody's
    assert read_published(path, data).layout == "images and labels by name"


def test_statistics_without_data_are_refused(tmp_path, complains):
    torch.save([TRAINED, LABELS], tmp_path / "s.pt")
    with complains("statistics is 'cifar10'"):
        read_published(tmp_path / "s.pt", statistics="cifar10")
