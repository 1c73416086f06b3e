"""Folders and archives of images: the same pixels from each, and a clear word for a bad one."""

import errno
import io
import os
import shutil
import struct
import tarfile
import zipfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from atomlib.datasets import image_folder
from atomlib.datasets import load as load_module
from atomlib.datasets.load import load_dataset
from atomlib.errors import DataError

CLASSES = ("ant", "bee", "cat")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tar.xz")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of this test alone, so that what a failure leaves can be seen."""
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def refuses(complains, cache):
    """Expect a DataError with some parts, and no trace of it in the cache."""

    def check(path, *parts, resize=None):
        with complains(*parts, kind=DataError):
            load(path, resize)
        assert [file for file in cache.rglob("*") if file.is_file()] == []

    return check


def load(path, resize=None):
    return load_dataset(f"folder:{path}", resize=resize)


def random_image(seed, width=8, height=8, grey=False):
    shape = (height, width) if grey else (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def made_up(splits=("train", "test"), **shape):
    """{path: pixels} of three classes, four training and two held-out images each."""
    paths = [
        f"{split}/{name}/{index}.png"
        for split in splits
        for name in CLASSES
        for index in range(4 if split == "train" else 2)
    ]
    return {path: random_image(seed, **shape) for seed, path in enumerate(paths)}


def write(folder, images):
    for path, pixels in images.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / path)
    return folder


def pack(folder, kind, top=""):
    """An archive beside ``folder``, its content below ``top``; test/ comes before train/."""
    path = folder.with_name(f"{folder.name}{kind}")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    members = [(file, Path(top, file.relative_to(folder))) for file in files]
    if kind == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file, name in members:
                archive.write(file, name)
    else:
        with tarfile.open(path, f"w:{kind.removeprefix('.tar').removeprefix('.')}") as archive:
            for file, name in members:
                archive.add(file, name)
    return path


def assert_holds(data, images, held_out="test"):
    """The data set holds exactly these pixels, by class and then by name."""
    for split, source in (("train", "train"), ("test", held_out)):
        paths = sorted(path for path in images if path.startswith(f"{source}/"))
        pixels = np.stack([images[path] for path in paths])
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
        found = getattr(data, f"{split}_images")
        assert found.dtype == torch.uint8
        np.testing.assert_array_equal(found, pixels)
        labels = [CLASSES.index(path.split("/")[1]) for path in paths]
        assert getattr(data, f"{split}_labels").tolist() == labels
    assert data.class_names == CLASSES


@pytest.mark.parametrize("top", ["", "pets"], ids=["bare", "below a top folder"])
@pytest.mark.parametrize("kind", ["", *ARCHIVES])
def test_every_form_holds_what_was_written(tmp_path, kind, top):
    images = made_up()
    folder = write(tmp_path / "pets", images)
    data = load(pack(folder, kind, top) if kind else (tmp_path if top else folder))
    assert_holds(data, images)
    assert data.name == (tmp_path.name if top and not kind else "pets")


def test_every_form_has_the_same_fingerprint(tmp_path):
    folder = write(tmp_path / "pets", made_up())
    forms = [folder, *(pack(folder, kind) for kind in ARCHIVES)]
    assert len({load(form).fingerprint for form in forms}) == 1


def test_val_serves_where_test_is_absent(tmp_path):
    images = made_up(("train", "val"))
    assert_holds(load(write(tmp_path / "pets", images)), images, held_out="val")


def test_test_goes_before_val(tmp_path):
    images = made_up(("train", "val", "test"))
    assert_holds(load(write(tmp_path / "pets", images)), images, held_out="test")


def test_jpeg_is_decoded_as_pil_does(tmp_path):
    images = made_up()
    folder = write(tmp_path / "pets", images)
    decoded = {}
    for path, pixels in images.items():
        (folder / path).unlink()
        Image.fromarray(pixels).save(folder / path.replace("png", "jpg"))
        decoded[path] = np.asarray(Image.open(folder / path.replace("png", "jpg")))
    assert_holds(load(folder), decoded)


def test_grey_among_colour_becomes_three_equal_channels(tmp_path):
    images = made_up()
    images["train/bee/1.png"] = images["test/cat/0.png"] = grey = random_image(99, grey=True)
    data = load(write(tmp_path / "pets", images))
    for path in ("train/bee/1.png", "test/cat/0.png"):
        images[path] = np.stack([grey] * 3, axis=2)
    assert_holds(data, images)


def test_grey_alone_has_one_channel(tmp_path):
    images = made_up(grey=True)
    data = load(write(tmp_path / "pets", images))
    assert data.channels == 1
    assert_holds(data, images)


def test_files_that_are_no_images_are_passed_over(tmp_path):
    images = made_up()
    folder = write(tmp_path / "pets", images)
    (folder / "train" / "bee" / "notes.txt").write_text("about bees")
    (folder / "train" / "bee" / ".hidden.png").write_text("no image")
    (folder / "README.md").write_text("pets")
    assert_holds(load(folder), images)


@pytest.mark.parametrize("shape", [{"width": 16}, {"height": 14}], ids=["wide", "high"])
def test_resize_cuts_the_middle_square_out(tmp_path, shape):
    images = made_up(**shape)
    data = load(write(tmp_path / "pets", images), resize=8)
    top, left = ((side - 8) // 2 for side in next(iter(images.values())).shape[:2])
    assert_holds(data, {k: v[top : top + 8, left : left + 8] for k, v in images.items()})


def test_resize_brings_differing_sizes_to_one(tmp_path):
    images = made_up()
    images["train/bee/1.png"] = np.full((30, 20, 3), 77, np.uint8)
    data = load(write(tmp_path / "pets", images), resize=4)
    assert data.image_size == 4
    assert (data.train_images[5] == 77).all()


# TinyImageNet's own layout


def official(folder):
    """Three classes listed out of order, a greyscale image, names with and without a comma."""
    wnids = {"n03": "cat, house cat", "n01": "ant", "n02": "bee"}
    images = {}
    for seed, wnid in enumerate(wnids):
        for index in range(2):
            images[f"train/{wnid}/images/{wnid}_{index}.png"] = random_image(10 * seed + index)
    images["train/n02/images/n02_1.png"] = random_image(70, grey=True)
    answers = {f"val_{index}.png": wnid for index, wnid in enumerate(["n02", "n03", "n01", "n02"])}
    for seed, file in enumerate(answers):
        images[f"val/images/{file}"] = random_image(80 + seed)
    images["test/images/test_0.png"] = random_image(90)  # has no label anywhere
    write(folder, images)
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    words = {**wnids, "n99": "dog, hound"}
    (folder / "words.txt").write_text("".join(f"{k}\t{v}\n" for k, v in words.items()))
    lines = [f"{file}\t{wnid}\t0\t0\t7\t7\n" for file, wnid in answers.items()]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return images, answers


def test_classes_that_share_a_word_are_told_apart_by_their_number(tmp_path):
    """As ImageNet's two kinds of crane."""
    folder = tmp_path / "tiny-imagenet-200"
    official(folder)
    (folder / "words.txt").write_text("n01\tcrane, bird\nn02\tbee\nn03\tcrane, machine\n")
    data = load_dataset("tinyimagenet", root=tmp_path)
    assert data.class_names == ("crane (n01)", "bee", "crane (n03)")


@pytest.mark.parametrize("kind", ["", ".zip", ".tar.xz", "official"])
def test_tinyimagenets_layout_is_read_with_names_and_labels(tmp_path, monkeypatch, kind):
    folder = tmp_path / "tiny-imagenet-200"
    images, answers = official(folder)
    data = load_dataset("tinyimagenet", root=tmp_path)
    if kind:
        path = pack(folder, kind if kind != "official" else ".zip", folder.name)
        if kind == "official":
            monkeypatch.setattr(load_module, "TINYIMAGENET_MD5", md5(path.read_bytes()).hexdigest())
        shutil.rmtree(folder)
        data = load_dataset("tinyimagenet", root=tmp_path)
    # Known by the checksum of its archive: what was unpacked or packed anew is a folder of images.
    name, label = ("tinyimagenet", "TinyImageNet") if kind == "official" else (folder.name,) * 2
    assert (data.name, data.label, data.class_names) == (name, label, ("ant", "bee", "cat"))
    assert (data.statistics is not None) == (kind == "official")
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    for row, path in enumerate(sorted(p for p in images if p.startswith("train"))):
        pixels = images[path] if images[path].ndim == 3 else np.stack([images[path]] * 3, axis=2)
        np.testing.assert_array_equal(data.train_images[row], pixels.transpose(2, 0, 1))
    expected = sorted((wnid, file) for file, wnid in answers.items())
    assert data.test_labels.tolist() == [int(wnid[1:]) - 1 for wnid, _ in expected]
    for row, (_, file) in enumerate(expected):
        pixels = images[f"val/images/{file}"]
        np.testing.assert_array_equal(data.test_images[row], pixels.transpose(2, 0, 1))


def test_a_part_of_tinyimagenet_keeps_its_own_name(tmp_path):
    official(tmp_path / "tiny-imagenet-3")
    assert load_dataset("tinyimagenet", root=tmp_path).name == "tiny-imagenet-3"


def remove_class(folder):
    shutil.rmtree(folder / "train" / "n02")


def remove_annotations(folder):
    (folder / "val" / "val_annotations.txt").unlink()


def cut_annotations(folder):
    (folder / "val" / "val_annotations.txt").write_text("val_0.png\tn02\nval_1")


def garble_words(folder):
    (folder / "words.txt").write_bytes(b"n01\t\xff\xfe")


def empty_wnids(folder):
    (folder / "wnids.txt").write_text("")


def remove_validation_image(folder):
    (folder / "val" / "images" / "val_0.png").unlink()


@pytest.mark.parametrize("kind", ["", ".zip"])
@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (remove_class, "n02"),
        (remove_annotations, "val_annotations.txt"),
        (cut_annotations, "val_annotations.txt"),
        (garble_words, "words.txt"),
        (empty_wnids, "wnids.txt"),
        (remove_validation_image, "val_0.png"),
    ],
)
def test_a_flaw_in_tinyimagenets_layout_is_named(tmp_path, refuses, spoil, named, kind):
    folder = tmp_path / "tiny"
    official(folder)
    spoil(folder)
    path = pack(folder, kind) if kind else folder
    refuses(path, path.name, named)


# The cache


@pytest.fixture
def no_decoding(monkeypatch):
    def forbid():
        def fail(*_):
            raise AssertionError("decoded again")

        monkeypatch.setattr(image_folder, "_decode", fail)

    return forbid


@pytest.mark.parametrize("kind", ["", ".zip"])
def test_the_second_load_decodes_nothing(tmp_path, no_decoding, kind):
    images = made_up()
    folder = write(tmp_path / "pets", images)
    path = pack(folder, kind) if kind else folder
    first = load(path)
    no_decoding()
    second = load(path)
    assert_holds(second, images)
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize("kind", ["", ".tar.gz"])
def test_a_changed_source_is_decoded_anew(tmp_path, kind):
    images = made_up()
    folder = write(tmp_path / "pets", images)
    load(pack(folder, kind) if kind else folder)
    changed = {**images, "train/bee/1.png": random_image(99)}
    write(folder, changed)
    assert_holds(load(pack(folder, kind) if kind else folder), changed)


def test_a_file_added_is_seen(tmp_path):
    images = made_up()
    folder = write(tmp_path / "pets", images)
    load(folder)
    images["train/cat/9.png"] = random_image(99)
    assert_holds(load(write(folder, images)), images)


def test_each_resize_has_its_own_cache(tmp_path):
    images = made_up()
    folder = write(tmp_path / "pets", images)
    assert [load(folder, size).image_size for size in (None, 4, 6, None)] == [8, 4, 6, 8]
    assert_holds(load(folder), images)


def test_a_damaged_cache_is_named_set_aside_and_made_again(tmp_path, cache, capsys):
    images = made_up()
    folder = write(tmp_path / "pets", images)
    load(folder)
    (file,) = (cache / "data").glob("*.safetensors")
    whole = file.read_bytes()
    pixel = whole[:-1] + bytes([whole[-1] ^ 1])
    for content in (b"", whole[:7], whole[:100], whole[: len(whole) // 2], whole[:-1], pixel):
        file.write_bytes(content)
        assert_holds(load(folder), images)
        assert str(file) in capsys.readouterr().err
        assert file.read_bytes() == whole
    assert len([*(cache / "data" / "damaged").iterdir()]) == 6


def test_a_disk_that_fills_up_leaves_no_cache(tmp_path, cache, monkeypatch, complains):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with complains("No space left"):
        load(write(tmp_path / "pets", made_up()))
    assert [file for file in cache.rglob("*") if file.is_file()] == []


# Bad archives


@pytest.mark.parametrize("share", [0, 0.02, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_truncated_archive_is_named(tmp_path, refuses, kind, share):
    path = pack(write(tmp_path / "pets", made_up()), kind)
    content = path.read_bytes().rstrip(b"\0")  # a .tar is filled up with zeros
    path.write_bytes(content[: int(share * len(content))])
    refuses(path, path.name, "truncated")


@pytest.mark.parametrize("extra", [0, 100, 512], ids=["before", "in", "after"])
def test_a_tar_cut_at_a_header_is_no_smaller_data_set(tmp_path, refuses, extra):
    path = pack(write(tmp_path / "pets", made_up()), ".tar")
    with tarfile.open(path) as archive:
        start = archive.getmembers()[-1].offset
    path.write_bytes(path.read_bytes()[: start + extra])
    refuses(path, path.name, "truncated")


@pytest.mark.parametrize("kind", [".zip", ".tar.gz", ".tar.xz"])
def test_an_archive_damaged_inside_is_named(tmp_path, refuses, kind):
    path = pack(write(tmp_path / "pets", made_up()), kind)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 32] = bytes(32)
    path.write_bytes(content)
    refuses(path, path.name, "truncated or no")


def test_an_archive_whose_checksum_differs_is_named(tmp_path, refuses):
    # Damage that no image format would tell: a .bmp or .jpg shows other pixels and is fine.
    path = pack(write(tmp_path / "pets", made_up()), ".tar.gz")
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    refuses(path, path.name, "truncated or no")


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar.xz", "pets.7z", "pets"])
def test_a_file_that_is_no_archive_is_named(tmp_path, refuses, name):
    (tmp_path / name).write_text("no archive at all")
    refuses(tmp_path / name, name, ".tar.xz")


@pytest.mark.parametrize("feature", ["password", "unknown compression"])
def test_a_zip_that_python_cannot_read_is_named(tmp_path, refuses, feature):
    path = pack(write(tmp_path / "pets", made_up()), ".zip")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start, count = archive.start_dir, len(archive.namelist())
    for _ in range(count):  # one entry of the central directory a member
        if feature == "password":
            content[start + 8] |= 1
        else:
            content[start + 10] = 99
        start += 46 + sum(struct.unpack_from("<3H", content, start + 28))
    path.write_bytes(content)
    refuses(path, path.name)


# Bad images and bad layouts


def encoded(kind):
    file = io.BytesIO()
    Image.fromarray(random_image(1)).save(file, kind)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "tiff", "webp"])
def test_a_truncated_image_is_named(tmp_path, refuses, kind, share):
    folder = write(tmp_path / "pets", made_up())
    content = encoded(kind)
    (folder / "train" / "bee" / f"x.{kind}").write_bytes(content[: int(share * len(content))])
    refuses(folder, f"train/bee/x.{kind}", folder, "truncated")


def test_a_truncated_image_in_an_archive_is_named(tmp_path, refuses):
    folder = write(tmp_path / "pets", made_up())
    (folder / "test" / "cat" / "0.png").write_bytes(encoded("png")[:100])
    refuses(pack(folder, ".zip"), "test/cat/0.png", "pets.zip")


def test_a_text_file_named_jpg_is_named(tmp_path, refuses):
    folder = write(tmp_path / "pets", made_up())
    (folder / "train" / "bee" / "x.jpg").write_text("no image at all")
    refuses(folder, "train/bee/x.jpg", "no image")


def test_an_image_that_claims_to_be_huge_is_named(tmp_path, refuses):
    folder = write(tmp_path / "pets", made_up())
    content = bytearray(encoded("bmp"))
    struct.pack_into("<2i", content, 18, 60_000, 60_000)
    (folder / "train" / "bee" / "x.bmp").write_bytes(content)
    refuses(folder, "train/bee/x.bmp")


@pytest.mark.parametrize(("here", "there"), [("train", "test"), ("test", "train")])
@pytest.mark.parametrize("kind", ["", ".tar"])
def test_a_class_folder_missing_in_one_split_is_named(tmp_path, refuses, here, there, kind):
    images = {k: v for k, v in made_up().items() if not k.startswith(f"{there}/bee")}
    folder = write(tmp_path / "pets", images)
    path = pack(folder, kind) if kind else folder
    refuses(path, "'bee'", path, f"in {here}/ but not in {there}/")


def test_images_of_differing_size_are_named_with_the_way_out(tmp_path, refuses):
    images = {**made_up(), "test/bee/1.png": random_image(1, width=9)}
    folder = write(tmp_path / "pets", images)
    refuses(folder, "test/bee/1.png", "9 x 8", "8 x 8", "resize")


def test_images_that_are_not_square_are_refused_with_the_way_out(tmp_path, refuses):
    folder = write(tmp_path / "pets", made_up(width=10))
    refuses(folder, folder, "10 x 8", "square", "resize")


@pytest.mark.parametrize("shape", [{"width": 10}, {"width": 1, "height": 1}])
def test_a_shape_that_will_not_do_is_told_by_the_first_image(tmp_path, refuses, monkeypatch, shape):
    read, plain = [], image_folder.read_image
    monkeypatch.setattr(image_folder, "read_image", lambda *a: read.append(a[0]) or plain(*a))
    folder = write(tmp_path / "pets", made_up(**shape))
    refuses(folder, folder, "square ones of 2 pixels or more", "resize")
    assert read == ["train/ant/0.png"]


@pytest.mark.parametrize(
    ("splits", "absent"),
    [(("train",), "no test/ or val/"), (("test",), "no train/"), (("val",), "no train/")],
)
def test_a_split_that_is_missing_is_named(tmp_path, refuses, splits, absent):
    folder = write(tmp_path / "pets", made_up(splits))
    refuses(folder, folder, absent, "train/<class>/<image>")


def test_an_empty_folder_is_refused(tmp_path, refuses):
    (tmp_path / "pets").mkdir()
    refuses(tmp_path / "pets", "no train/")


@pytest.mark.parametrize("resize", [0, -1, 1])
def test_a_bad_resize_is_refused(tmp_path, refuses, resize):
    refuses(write(tmp_path / "pets", made_up()), f"resize is {resize}", "2 pixels", resize=resize)
