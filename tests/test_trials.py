"""What people really feed it: an input and its siblings for each kind of fault reported."""

import errno
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import types
import unicodedata
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from PIL import Image, ImageOps

from atomlib.datasets import ImageData, load_dataset, png_folder
from atomlib.distill import distill
from atomlib.distilled_set import DistilledSet
from atomlib.errors import DataError, SettingError
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM, RandomImages
from atomlib.preprocess import Preprocess
from atomlib.report import figures, pictures
from atomlib.report.findings import compare
from atomlib.runs import Store, cells, parameters, profiles
from atomlib.runs.status import status
from atomlib.runtime import files, paths
from atomlib.runtime.torch_state import torch_defaults
from atomlib.training import EvalConfig

pytestmark = pytest.mark.torture
TINY = ATOM(width=8, iterations=1, real_batch=4)
JUDGE = EvalConfig(width=8, epochs=1, networks=1)


@pytest.fixture(autouse=True)
def counted(tally):
    """``make torture`` says how many were tried."""
    yield
    tally("inputs of the kinds that people report, read rightly or refused")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))


def pets(folder, classes=("ant", "bee"), n=2, splits=("train", "test")):
    """A folder of random 8 x 8 images."""
    chance = np.random.default_rng(len(classes))
    for split in splits:
        for name in classes:
            for number in range(n):
                path = folder / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(chance.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return folder


def load(path, **how):
    return load_dataset(f"folder:{path}", **how)


def copy(one, two):
    shutil.copytree(one, two)


# Two roots in one tree


@pytest.mark.parametrize("place", ["x", "backup/old", "train2/y"])
def test_a_copy_of_the_data_set_inside_is_refused_by_both_names(tmp_path, complains, place):
    root = pets(tmp_path / "x")
    copy(root, tmp_path / "copy")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "copy").rename(root / place)
    with complains("'train'", f"'{place}/train'", kind=DataError):
        load(root)


@pytest.mark.parametrize("names", [("fold1", "fold2"), ("photo", "sketch")])
@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_folds_and_domains_side_by_side_are_refused(tmp_path, complains, names, kind):
    path = tmp_path / "x"
    for name in names:
        pets(path / name)
    if kind == "tar":
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            archive.add(path, "x")
        path = tmp_path / "x.tar"
    with complains(*(f"{name}/train" for name in names), kind=DataError):
        load(path)


def test_a_class_called_train_is_a_class(tmp_path):
    data = load(pets(tmp_path / "x", ("bus", "train")))
    assert data.class_names == ("bus", "train") and len(data.train_labels) == 4


def test_train_in_train_is_as_archives_are_unpacked(tmp_path):
    pets(tmp_path / "y")
    for split in ("train", "test"):
        copy(tmp_path / "y" / split, tmp_path / "x" / split / split)
    assert load(tmp_path / "x").class_names == ("ant", "bee")


# Left out in silence


ENDINGS = {"jfif": "JPEG", "jpe": "JPEG", "ppm": "PPM", "pgm": "PPM", "pnm": "PPM", "avif": "AVIF"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_images_of_every_ending_are_read(tmp_path, ending):
    root = pets(tmp_path / "x")
    image = Image.open(root / "train/ant/0.png").convert("L" if ending == "pgm" else "RGB")
    image.save(root / f"train/ant/more.{ending}", format=ENDINGS[ending])
    assert len(load(root).train_labels) == 5


def test_images_in_subfolders_belong_to_the_class(tmp_path):
    root = pets(tmp_path / "x")
    (root / "train/ant/sub/deep").mkdir(parents=True)
    shutil.copy(root / "train/bee/0.png", root / "train/ant/sub/deep/9.png")
    data = load(root)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("train/ant/noending", "noending"),
        ("train/ant/raw.cr2", "raw.cr2"),
        ("train/3.png", "train/3.png"),
        ("raw/scan.png", "raw/scan.png"),
        ("val/ant/0.png", "val/ant/0.png"),
    ],
)
def test_what_is_left_out_is_said_with_a_count_at_every_load(tmp_path, capsys, name, said):
    root = pets(tmp_path / "x")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "train/ant/0.png", root / name)
    for _ in range(2):  # the second from the cache
        assert len(load(root).train_labels) == 4
        err = capsys.readouterr().err
        assert "left out" in err and "1 (" in err and said in err


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_class_of_which_nothing_can_be_read_is_named(tmp_path, complains, split):
    root = pets(tmp_path / "x", ("ant", "bee", "cat"))
    for file in (root / split / "bee").iterdir():
        file.rename(file.with_suffix(".heic"))
    with complains("'bee'", split, ".heic", kind=DataError):
        load(root)
    shutil.rmtree(root / "train" / "bee")
    shutil.rmtree(root / "test" / "bee")
    (root / "train" / "bee").mkdir()
    (root / "test" / "bee").mkdir()
    with complains("'bee'", "no images", kind=DataError):
        load(root)


# Pixel types


def with_image(tmp_path, image, name="0.png", others=None):
    """A data set whose first training image is this one; other images of this kind besides."""
    root = pets(tmp_path / "x")
    (root / "train/ant/0.png").unlink()
    image.save(root / "train/ant" / name)
    if others is not None:
        others.save(root / "train/bee" / f"more{name}")
    return root


def first(root):
    return load(root).train_images[0]


def test_transparent_pixels_lie_on_white_and_that_is_said(tmp_path, capsys):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:4] = (10, 20, 30, 255)
    pixels = first(with_image(tmp_path, Image.fromarray(clear)))
    assert pixels[:, 0, 0].tolist() == [10, 20, 30] and pixels[:, 7, 7].tolist() == [255] * 3
    assert "transparent" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["LA", "P", "gif", "key"])
def test_every_way_to_be_transparent_lies_on_white(tmp_path, kind):
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    mask = Image.fromarray(np.where(np.arange(64) < 32, 255, 0).astype(np.uint8).reshape(8, 8))
    image, name, how = grey, "0.png", {}
    if kind == "LA":
        image = Image.merge("LA", (grey, mask))
    elif kind == "key":
        how = {"transparency": 63}
    else:
        image, how = grey.convert("P"), {"transparency": 63}
        name = "0.gif" if kind == "gif" else name
    root = pets(tmp_path / "x")
    (root / "train/ant/0.png").unlink()
    image.save(root / "train/ant" / name, **how)
    assert first(root)[:, 7, 7].tolist() == [255] * 3


def test_an_opaque_alpha_changes_nothing(tmp_path):
    root = pets(tmp_path / "x")
    before = load(root).fingerprint
    Image.open(root / "train/ant/0.png").convert("RGBA").save(root / "train/ant/0.png")
    assert load(root).fingerprint == before


def test_floats_from_0_to_1_keep_their_order(tmp_path):
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    pixels = first(with_image(tmp_path, Image.fromarray(ramp), "0.tif"))[0]
    assert pixels.flatten().tolist() == np.round(ramp * 255).flatten().tolist()


def test_integers_from_0_to_255_are_taken_as_they_are(tmp_path):
    values = np.arange(64, dtype=np.int32).reshape(8, 8) * 4
    pixels = first(with_image(tmp_path, Image.fromarray(values), "0.tif"))[0]
    assert pixels.tolist() == values.tolist()


@pytest.mark.parametrize(
    "values",
    [
        np.arange(64, dtype=np.int32) * 32 - 1024,  # computed tomography
        np.arange(64, dtype=np.int32) * 1000,
        np.linspace(0, 255, 64, dtype=np.float32),
        np.linspace(-1, 1, 64, dtype=np.float32),
        np.full(64, np.nan, np.float32),
    ],
    ids=["signed", "wide", "floats to 255", "floats from -1", "no numbers"],
)
def test_numbers_without_a_meaning_are_refused_by_file_and_type(tmp_path, complains, values):
    root = with_image(tmp_path, Image.fromarray(values.reshape(8, 8)), "0.tif")
    with complains("train/ant/0.tif", "floats" if values.dtype == np.float32 else "integers"):
        load(root)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_of_16_bits_those_are_kept_that_are_used(tmp_path, capsys, bits):
    ramp = (np.arange(64) * ((1 << bits) - 1) // 63).astype(np.uint16).reshape(8, 8)
    dark = Image.fromarray(ramp // 4)  # one rule for all images of the data set
    data = load(with_image(tmp_path, Image.fromarray(ramp), others=dark))
    assert data.train_images[0][0].tolist() == (ramp >> (bits - 8)).tolist()
    assert data.train_images[-1][0].tolist() == (ramp // 4 >> (bits - 8)).tolist()
    assert (f"use {bits} of them" in capsys.readouterr().err) == (bits < 16)


# Metadata damaged, image fine


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_damaged_exif_is_no_damaged_image(tmp_path, kind):
    root = pets(tmp_path / "x")
    image = Image.open(root / "train/ant/0.png")
    image.save(root / f"train/ant/more.{kind}", exif=b"Exif\0\0garbage!")
    assert len(load(root).train_labels) == 5


@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP"])
def test_a_long_text_or_profile_is_no_damaged_image(tmp_path, chunk):
    root = pets(tmp_path / "x")
    path = root / "train/ant/0.png"
    before, content = load(root).fingerprint, path.read_bytes()
    packed = chunk + b"a\0\0" + zlib.compress(bytes(1 << 24))
    odd = (len(packed) - 4).to_bytes(4, "big") + packed + zlib.crc32(packed).to_bytes(4, "big")
    path.write_bytes(content[:33] + odd + content[33:])  # behind the header
    assert load(root).fingerprint == before


def test_a_camera_held_upright_is_undone(tmp_path):
    root = pets(tmp_path / "x")
    image = Image.open(root / "train/ant/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(root / "train/ant/0.png", exif=exif)
    shown = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(first(root), shown)


def test_the_reason_of_a_damaged_image_is_told(tmp_path, complains):
    root = pets(tmp_path / "x")
    content = (root / "train/ant/0.png").read_bytes()
    (root / "train/ant/0.png").write_bytes(content[:-40])
    with complains("train/ant/0.png", "truncated", "(", kind=DataError):
        load(root)


# Which layout is it


@pytest.mark.parametrize("name", ["wnids.txt", "train/wnids.txt", "old/wnids.txt", "words.txt"])
def test_a_leftover_list_does_not_decide(tmp_path, name):
    root = pets(tmp_path / "x")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text("n01\n")
    assert load(root).class_names == ("ant", "bee")


def test_files_outside_the_splits_are_not_read(tmp_path):
    root = pets(tmp_path / "x")
    (root / "raw").mkdir()
    with open(root / "raw/scan.tif", "wb") as file:
        file.truncate(65 << 20)
    (root / "latest").symlink_to(tmp_path)
    assert len(load(root).train_labels) == 4


# Kinds of archives and names in them


def packed(folder, path, rename=lambda name: name, flag=True):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            member = zipfile.ZipInfo("n")
            member.filename = rename(file.relative_to(folder).as_posix())
            archive.writestr(member, file.read_bytes())
    return path


def test_a_tar_that_ends_in_a_zip_is_a_tar(tmp_path):
    root = pets(tmp_path / "x")
    np.savez(root / "weights.npz", a=np.zeros(3))
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.add(file, file.relative_to(root))
    assert load(tmp_path / "x.tar").class_names == ("ant", "bee")


def test_backslashes_between_folders_are_slashes(tmp_path):
    root = pets(tmp_path / "x")
    path = packed(root, tmp_path / "x.zip", lambda name: name.replace("/", "\\"))
    assert load(path).fingerprint == load(root).fingerprint


def test_utf8_that_is_not_announced_is_read(tmp_path):
    root = pets(tmp_path / "x", ("猫", "犬"))
    path = packed(root, tmp_path / "x.zip")
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [member.header_offset for member in archive.infolist()]
        directory = archive.start_dir
    content = bytearray(content)
    for start in starts:
        content[start + 7] &= ~0x08
    at = directory
    while content[at : at + 4] == b"PK\x01\x02":
        content[at + 9] &= ~0x08
        lengths = [int.from_bytes(content[at + i : at + i + 2], "little") for i in (28, 30, 32)]
        at += 46 + sum(lengths)
    path.write_bytes(bytes(content))
    assert load(path).class_names == tuple(sorted(("猫", "犬")))


def test_letters_that_an_archive_does_not_tell_are_refused(tmp_path, complains):
    root = pets(tmp_path / "x", ("xx", "yy"))
    path = packed(root, tmp_path / "x.zip")
    gbk = "中".encode("gbk")
    path.write_bytes(path.read_bytes().replace(b"/xx/", b"/" + gbk + b"/"))
    with complains("UTF-8", kind=DataError):
        load(path)


def test_two_normal_forms_are_one_class(tmp_path, complains):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    root = pets(tmp_path / "x", ("ant", names[0]))
    if (root / "test" / names[1]).exists():
        pytest.skip("to the file system they are one name")
    (root / "test" / names[0]).rename(root / "test" / names[1])
    assert load(root).class_names == ("ant", names[0])
    pets(root, (names[0],), splits=("test",))
    with complains("two class folders of one name", kind=DataError):
        load(root)


def test_an_archive_that_is_not_read_is_called_by_its_kind(tmp_path, complains):
    (tmp_path / "x.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(600))
    with complains(".7z", kind=DataError):
        load(tmp_path / "x.7z")


# What may not be read (as root everything may, so the system's word is put in its mouth)


@pytest.mark.parametrize("what", ["image", "class folder", "archive"])
def test_what_may_not_be_read_is_named_so(tmp_path, complains, monkeypatch, what):
    path = pets(tmp_path / "x")
    denied = {"image": "train/ant/0.png", "class folder": "train/bee", "archive": "x.zip"}[what]
    if what == "archive":
        path = packed(path, tmp_path / "x.zip")

    def refuse(call):
        def checked(file, *args, **kwargs):
            if str(file).endswith(denied) and not (what == "class folder" and call is open):
                raise PermissionError(errno.EACCES, "Permission denied", str(file))
            return call(file, *args, **kwargs)

        return checked

    monkeypatch.setattr("builtins.open", refuse(open))
    monkeypatch.setattr("io.open", refuse(open))
    monkeypatch.setattr(os, "scandir", refuse(os.scandir))
    with complains(denied, "may not be read", "Permission denied", kind=DataError):
        load(path)


# Names of data


@pytest.mark.parametrize("name", ["a" * 101, ".hidden", "猫" * 40])
def test_a_name_that_files_cannot_bear_is_refused_before_work(tmp_path, complains, name):
    with complains("name is", "rename", kind=DataError):
        load(pets(tmp_path / name))


@pytest.mark.parametrize("name", ["", "a/b", "..", "a\nb", " "])
def test_a_name_given_by_hand_is_checked_too(make_data, complains, name):
    data = make_data()
    with complains("name is", kind=DataError):
        ImageData(name, data.train_images, data.train_labels, data.test_images, data.test_labels,
                  data.class_names)  # fmt: skip


@pytest.mark.parametrize("asked", [".", "../here"])
def test_a_folder_is_called_by_its_own_name(tmp_path, monkeypatch, asked):
    monkeypatch.chdir(pets(tmp_path / "here"))
    made = distill(load(asked), RandomImages(), progress=False)
    assert DistilledSet.load(made.save(tmp_path / f"{made.stem}.safetensors")).stem == made.stem
    assert made.data_name == "here"


def test_two_data_sets_of_one_name_are_refused_in_one_grid(tmp_path, complains):
    pets(tmp_path / "1/images")
    pets(tmp_path / "2/images", ("cat", "dog", "emu"))
    names = [f"folder:{tmp_path}/{n}/images" for n in (1, 2)]
    with complains("'images'", "/1/", "/2/"):
        cells(names, ["random"], [1])
    with complains("each of them once"):
        cells([names[0], names[0]], ["random"], [1])


def test_files_of_equal_size_and_time_in_another_folder_are_another_data_set(tmp_path):
    roots = [pets(tmp_path / str(n) / "images") for n in (1, 2)]
    for number, root in enumerate(roots):
        for file in root.rglob("*.png"):
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(file.with_suffix(".bmp"))
            file.unlink()
            os.utime(file.with_suffix(".bmp"), (0, 0))
    assert [int(load(root).train_images.max()) for root in roots] == [0, 1]


def test_on_in_a_name_means_nothing(tmp_path):
    data, store = load(pets(tmp_path / "cats-on-mats")), Store(tmp_path / "r", progress=False)
    made = store.distilled(data, RandomImages())
    store.accuracies(made, data, JUDGE)
    assert [line.state for line in status(tmp_path / "r")] == ["done", "done"]


# The caller's torch


def float64():
    torch.set_default_dtype(torch.float64)


CALLERS = {
    "float64": float64,
    "float16": lambda: torch.set_default_dtype(torch.float16),
    "no_grad": lambda: torch.set_grad_enabled(False),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "device": lambda: torch.set_default_device("meta"),
}


@pytest.fixture
def restored():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_float32_matmul_precision("highest")
    torch.set_default_device(None)


def everything(zca):
    data = load_dataset("digits")
    made = distill(data, TINY.but(zca=zca), progress=False)
    return made, evaluate(made, data, JUDGE, progress=False)


@pytest.mark.parametrize("caller", CALLERS)
def test_the_callers_torch_changes_no_byte_and_is_put_back(restored, monkeypatch, tmp_path, caller):
    expected, accuracies = everything(True)
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "another"))  # matrices are fitted anew
    for cached in ("fitted", "training_images", "test_images"):
        getattr(sys.modules["atomlib.preprocess"], cached).cache_clear()
    CALLERS[caller]()
    before = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device())
    made, found = everything(True)
    after = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device())
    assert before == after
    assert torch.equal(made.trained, expected.trained) and torch.equal(found, accuracies)


def test_threads_beside_each_other_are_as_ever(restored, make_data):
    """torch's default types are the process's: the first to end must not put the caller's back."""
    data = make_data()
    methods = [TINY.but(iterations=iterations) for iterations in (1, 6, 12)]
    expected = [distill(data, method, progress=False) for method in methods]
    torch.set_default_dtype(torch.float64)
    torch.set_float32_matmul_precision("medium")
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            made = [*pool.map(lambda method: distill(data, method, progress=False), methods)]
            assert all(
                torch.equal(a.trained, b.trained) for a, b in zip(made, expected, strict=True)
            )
    assert torch.get_default_dtype() == torch.float64
    assert torch.get_float32_matmul_precision() == "medium"


def test_the_first_to_end_leaves_them_to_the_others(restored):
    """Entered in two threads, left in either order, and once more by one that changed them."""
    torch.set_default_dtype(torch.float64)
    for first_out in (0, 1):
        both = [torch_defaults(), torch_defaults()]
        for one in both:
            one.__enter__()
        both.pop(first_out).__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float32
        both.pop().__exit__(None, None, None)
        assert torch.get_default_dtype() == torch.float64
    with torch_defaults():
        torch.set_default_dtype(torch.float16)
        with torch_defaults():
            assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_dtype() == torch.float16


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_no_grad_and_inference_mode_as_ever(mode):
    expected, accuracies = everything(False)
    with mode():
        made, found = everything(False)
    assert torch.equal(made.trained, expected.trained) and torch.equal(found, accuracies)
    with torch.autocast("cpu", torch.bfloat16):
        made, _ = everything(False)
    assert torch.equal(made.trained, expected.trained)


# ZCA's own limits


def test_zca_of_one_image_is_refused(tmp_path, complains):
    data = load(pets(tmp_path / "x", ("ant",), 1))
    with complains("zca is on", "one training image"):
        distill(data, RandomImages(zca=True), progress=False)


def test_zca_beyond_memory_is_refused_before_work(make_data, complains, monkeypatch):
    monkeypatch.setattr("atomlib.preprocess.memory", lambda _: 1 << 16)
    with complains("zca is on", "GB", "resize"):
        Preprocess.fit(make_data(), zca=True)


# Statistics without spread


@pytest.mark.parametrize(
    ("a", "b"),
    [([50.0] * 5, [50.0] * 5), ([57.1429] * 2, [57.1429] * 10), ([50.0] * 3, [60.0] * 4)],
)
def test_without_spread_nothing_is_tested(a, b):
    sentence = str(compare({"method": "atom", "accuracies": a}, {"method": "dm", "accuracies": b}))
    assert "not tested" in sentence
    assert "nan" not in sentence and "p =" not in sentence and "below" not in sentence


@pytest.mark.filterwarnings("error")
def test_with_spread_on_one_side_there_is_a_test():
    ours = {"method": "atom", "accuracies": [60.0, 61.0, 62.0]}
    found = compare(ours, {"method": "dm", "accuracies": [50.0] * 3})
    p = scipy.stats.ttest_1samp([60.0, 61.0, 62.0], 50.0).pvalue
    assert found.verdict.p == pytest.approx(p)


# Accounts and file systems


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, capsys, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    store = Store(tmp_path / "r", progress=False)
    made = store.distilled(load_dataset("digits"), RandomImages())
    assert "grants no locks" in capsys.readouterr().err
    assert made.digest() == store.distilled(load_dataset("digits"), RandomImages()).digest()
    assert [line.state for line in status(tmp_path / "r")] == ["done"]


NAMELESS = """
import os, pwd
def unknown(uid): raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
from atomlib.datasets import load_dataset
from atomlib.distill import distill
from atomlib.evaluate import evaluate
from atomlib.methods import ATOM
from atomlib.training import EvalConfig
data = load_dataset("digits")
made = distill(data, ATOM(width=8, iterations=1, real_batch=4, zca=True), progress=False)
evaluate(made, data, EvalConfig(width=8, epochs=1, networks=1), progress=False)
"""


def test_an_account_without_name_and_home_can_do_everything(tmp_path):
    names = ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME", "ATOM_CACHE")
    environment = {k: v for k, v in os.environ.items() if k not in names}
    environment |= {"TMPDIR": str(tmp_path), "HOME": "/proc/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", NAMELESS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no home to write to" in done.stderr and str(tmp_path) in done.stderr


def test_a_cache_may_be_named_from_home(monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", "~/kept")
    assert paths.cache_folder() == paths.Path.home() / "kept"


# The user's Jupyter, YAML and the shell


def test_what_start_up_files_define_is_no_parameter(monkeypatch, complains):
    shell = types.SimpleNamespace(user_ns_hidden={"DATA": (path := "/data/me")})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    names = {"ipc": 1, "DATA": path, "__annotations__": {"ipc": int}}
    monkeypatch.setattr(parameters, "_first_call", True)
    parameters.check(names)
    monkeypatch.setattr(parameters, "_first_call", True)
    with complains("'ipcc'"):
        parameters.check({**names, "ipcc": 2})
    monkeypatch.setattr(parameters, "_first_call", True)
    with complains("'DATA'"):  # another one than the start-up's
        parameters.check({**names, "DATA": "/data/you"})


@pytest.mark.parametrize(("word", "meant"), [("off", "off"), ("no", "off"), ("on", "on")])
def test_words_of_yaml_are_understood(word, meant):
    assert EvalConfig(**yaml.safe_load(f"compile: {word}")).compile == meant


@pytest.mark.parametrize(
    ("text", "value"), [("1e2", 100), ("1e-3", 1e-3), ("2.5e1", 25.0), ("1E4", 10000)]
)
def test_numbers_of_yaml_are_numbers(text, value):
    found = yaml.load(f"x: {text}", profiles._Loader)["x"]
    assert found == value and not isinstance(found, str)
    assert EvalConfig(lr=found * 1e-3).lr == value * 1e-3


def test_a_key_given_twice_is_an_error(tmp_path, monkeypatch, complains):
    monkeypatch.setattr(profiles, "PROFILES", tmp_path)
    (tmp_path / "mine.yaml").write_text("01_main_table: {}\n01_main_table: {}\n")
    with complains("'01_main_table' is given twice", kind=SettingError):
        profiles.read_profile("mine")


@pytest.mark.parametrize("folder", ["with space", "plain"])
def test_make_takes_folders_with_spaces(tmp_path, folder):
    (tmp_path / "Makefile").write_text('include Makefile.real\nshow:\n\t@echo "[$$ATOM_DATA]"\n')
    from tests.test_environment import ROOT

    shutil.copy(ROOT / "Makefile", tmp_path / "Makefile.real")
    for given, expected in ((f"/srv/{folder}", f"/srv/{folder}"), (folder, tmp_path / folder)):
        done = subprocess.run(
            ["make", "-s", "show", f"ATOM_DATA={given}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == f"[{expected}]"


def test_home_is_known_in_atom_data(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pets(tmp_path / "data" / "x")
    assert load_dataset("folder:x", root="~/data").name == "x"


# Names in pictures and exports


@pytest.mark.parametrize("name", ["$$", "a$b$c", "$x_", "cash $"])
def test_dollars_in_a_class_name_are_drawn(tmp_path, name):
    made = distill(load(pets(tmp_path / "x", (name, "b"))), RandomImages(), progress=False)
    path = figures.write_figure(pictures.distilled_grid(made, title=name), tmp_path / "out", "grid")
    assert path.stat().st_size > 0


def test_more_classes_than_digits_keep_their_order():
    names = png_folder._folder_names(map(str, range(1001)))
    assert names == sorted(names) and len(set(names)) == 1001
    assert png_folder._folder_names(["a"]) == ["000_a"]


@pytest.mark.parametrize(
    ("written", "meant"), [("CIFAR10", "cifar10"), ("CIFAR-100", "cifar100"), ("Digits", "digits")]
)
def test_names_as_papers_write_them_are_answered_with_ours(complains, written, meant):
    with complains(f"did you mean {meant!r}"):
        load_dataset(written)


# Siblings of the kinds above, which were found later


@pytest.mark.parametrize("turn", range(2, 9))
@pytest.mark.parametrize("kind", ["tif", "png", "webp"])
def test_every_container_is_turned_once(tmp_path, kind, turn):
    root = pets(tmp_path / "x")
    path = root / "train/ant/0.png"
    image, exif = Image.open(path).convert("RGB"), Image.Exif()
    exif[0x0112] = turn
    path.unlink()
    how = {"lossless": True} if kind == "webp" else {}
    image.save(path.with_suffix(f".{kind}"), exif=exif, **how)
    shown = ImageOps.exif_transpose(Image.open(path.with_suffix(f".{kind}"))).convert("RGB")
    np.testing.assert_array_equal(first(root), np.asarray(shown).transpose(2, 0, 1))


def tiff(values, zero_is_white=False, signed=False):
    """A greyscale TIFF, written tag by tag, since PIL writes neither of these."""
    height, width = values.shape
    tags = {256: width, 257: height, 258: values.itemsize * 8, 259: 1, 262: int(not zero_is_white)}
    tags |= {273: 8, 277: 1, 278: height, 279: values.nbytes, 339: 1 + signed}
    tags[339] = 3 if values.dtype.kind == "f" else tags[339]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = struct.pack("<I", 8 + values.nbytes)
    return b"II*\0" + head + values.tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4)


RAMP = np.arange(64).reshape(8, 8)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_where_0_is_white_it_is(tmp_path, kind):
    values = {np.uint8: RAMP * 4, np.uint16: RAMP * 1024, np.float32: RAMP / 63}[kind].astype(kind)
    root = pets(tmp_path / "x")
    (root / "train/ant/0.png").unlink()
    path = root / "train/ant/0.tif"
    path.write_bytes(tiff(values))
    black = load(root).train_images[0]
    path.write_bytes(tiff(values, zero_is_white=True))
    assert torch.equal(load(root).train_images[0], 255 - black) and black.float().std() > 1


@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_signed_integers_of_few_bits_are_refused(tmp_path, complains, kind):
    root = pets(tmp_path / "x")
    (root / "train/ant/0.tif").write_bytes(tiff((RAMP - 32).astype(kind), signed=True))
    with complains("train/ant/0.tif", "integers", kind=DataError):
        load(root)


def test_a_type_that_no_decoder_has_is_told_by_its_reason(tmp_path, complains):
    root = pets(tmp_path / "x")
    (root / "train/ant/0.tif").write_bytes(tiff((RAMP / 63).astype(np.float64)))
    with complains("train/ant/0.tif", "TIFF: unknown pixel mode", kind=DataError):
        load(root)


def png_of_16_bits(values, colours, *key):
    """A PNG file, as PIL writes none; ``key`` is the value, or the colour, that is transparent."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colours, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if key:
        parts.insert(1, (b"tRNS", struct.pack(f">{len(key)}H", *key)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    )


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize(("colours", "channels"), [(2, 3), (4, 2), (6, 4)], ids=str)
def test_colours_of_16_bits_use_them_or_are_refused(tmp_path, complains, bits, colours, channels):
    values = np.repeat((RAMP << bits >> 6)[..., None], channels, 2)
    if channels != 3:
        values[..., -1] = 0xFFFF  # opaque
    root = pets(tmp_path / "x")
    (root / "train/ant/0.png").write_bytes(png_of_16_bits(values, colours))
    if bits == 16:
        assert first(root)[0].tolist() == (RAMP * 4).tolist()
    else:
        with complains("train/ant/0.png", "16 bits", f"than {bits};", kind=DataError):
            load(root)


@pytest.mark.parametrize("key", [0, 65535])
def test_the_transparent_value_of_16_bits_lies_on_white(tmp_path, capsys, key):
    """Nor does it count among the bits that grey images use: the others have 12 of them."""
    values = RAMP << 6
    values[0, 0] = key
    root = pets(tmp_path / "x")
    (root / "train/ant/0.png").write_bytes(png_of_16_bits(values, 0, key))
    expected = RAMP * 4
    expected[values == key] = 255
    assert first(root)[0].tolist() == expected.tolist()
    assert "transparent" in capsys.readouterr().err


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path, complains):
    root = pets(tmp_path / "x")
    values = np.repeat((RAMP << 10)[..., None], 3, 2)
    (root / "train/ant/0.png").write_bytes(png_of_16_bits(values, 2, 117, 0, 0))
    with complains("train/ant/0.png", "a transparent colour", "an alpha channel", kind=DataError):
        load(root)


@pytest.mark.parametrize("most", [4095, 65535])
def test_grey_of_16_bits_is_read_from_pgm(tmp_path, most):
    values = (RAMP * most // 63).astype(">u2")
    root = pets(tmp_path / "x")
    (root / "train/ant/0.png").unlink()
    (root / "train/ant/0.pgm").write_bytes(b"P5 8 8 %d\n" % most + values.tobytes())
    exact = values.astype(float) * 255 / most
    assert np.abs(first(root)[0].numpy() - exact).max() <= 1


@pytest.mark.parametrize(
    "name", ["train/.net/0.png", "train/ant/.x.png", "train/ant/.ipynb_checkpoints/a.png"]
)
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_hidden_is_told(tmp_path, capsys, name, kind):
    path = pets(tmp_path / "x")
    (path / name).parent.mkdir(exist_ok=True)
    shutil.copy(path / "train/ant/0.png", path / name)
    if kind == "zip":
        path = packed(path, tmp_path / "x.zip")
    assert len(load(path).train_labels) == 4
    err = capsys.readouterr().err
    assert "hidden" in err and "1 (" in err


def test_the_twins_that_macos_packs_are_not_worth_a_word(tmp_path, capsys):
    root = pets(tmp_path / "x")
    (root / "train/ant/._0.png").write_bytes(b"attributes")
    load(root)
    assert "left out" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_an_archive_holds_twice_is_told(tmp_path, capsys, kind):
    root, path = pets(tmp_path / "x"), tmp_path / f"x.{kind}"
    name, other = "train/ant/0.png", root / "train/bee/1.png"
    if kind == "zip":
        packed(root, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.write(other, name)
    else:
        with tarfile.open(path, "w") as archive:
            archive.add(root, "")
            archive.add(other, name)
    shutil.copy(other, root / name)
    assert load(path).fingerprint == load(root).fingerprint  # the last one counts
    assert "more than once" in capsys.readouterr().err


@pytest.mark.parametrize("top", ["PKLot", "BZhang", "Rar!", "x"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_is_a_tar_however_its_first_name_begins(tmp_path, top, form):
    root = pets(tmp_path / "x")
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        for file in sorted(root.rglob("*.png")):
            archive.add(file, f"{top}/{file.relative_to(root)}")
    assert load(tmp_path / "x.tar").fingerprint == load(root).fingerprint


def test_the_name_that_a_zip_gives_in_unicode_counts(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(pets(tmp_path / "x", ("café", "bee")).rglob("*.png")):
            name = str(file.relative_to(tmp_path / "x"))
            member = zipfile.ZipInfo(name.replace("é", "?"))
            field = (
                b"\x01" + struct.pack("<I", zlib.crc32(member.filename.encode())) + name.encode()
            )
            member.extra = struct.pack("<HH", 0x7075, len(field)) + field
            archive.writestr(member, file.read_bytes())
    assert load(path).class_names == ("bee", "café")


def test_a_split_that_is_a_link_is_named_so(tmp_path, complains):
    root = pets(tmp_path / "x")
    (root / "train").rename(tmp_path / "elsewhere")
    (root / "train").symlink_to(tmp_path / "elsewhere")
    with complains("'train'", "is a link", kind=DataError):
        load(root)


@pytest.mark.parametrize("names", [("Train", "Test"), ("train", "valid")])
def test_folders_of_other_names_are_named(tmp_path, complains, names):
    with complains("(but ", names[1], kind=DataError):
        load(pets(tmp_path / "x", splits=names))


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "x" * 300, "x/" * 3000, "a\0b"])
def test_a_path_that_can_be_none_is_not_there(complains, path):
    with complains("is neither in", kind=DataError):
        load(path)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_a_device_is_not_read(complains, path):
    with complains(path, "device", kind=DataError):
        load(path)


def test_a_root_that_is_no_path_is_refused(complains):
    with complains("root is 5", kind=DataError):
        load_dataset("folder:x", root=5)


def test_a_file_that_goes_away_is_told_by_the_systems_word(tmp_path, complains, monkeypatch):
    root = pets(tmp_path / "x")

    def gone(self):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(self))

    monkeypatch.setattr(files.Path, "read_bytes", gone)
    with complains("train/ant/0.png", os.strerror(errno.ESTALE), kind=DataError):
        load(root)


def test_normal_forms_of_a_folders_name_are_one_data_set(tmp_path):
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    assert len({load(pets(tmp_path / str(i) / name)).name for i, name in enumerate(names)}) == 1


@pytest.mark.parametrize("name", ["cifar10", "CIFAR10", "Digits"])
def test_a_known_name_is_nobody_elses_in_any_case(tmp_path, name):
    assert load(pets(tmp_path / name)).name == f"folder-{name}"
