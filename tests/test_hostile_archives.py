"""Archives, folders and images that nobody should trust: data, or one sentence, within bounds."""

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import struct
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from atomlib.datasets import image_folder, limits
from atomlib.distill import distill
from atomlib.errors import DataError
from atomlib.methods import RandomImages
from tests.conftest import often
from tests.test_imagefolder import ARCHIVES, load, made_up, official, pack, random_image, write


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def refuses(complains, tmp_path, cache_folder):
    """Expect a DataError with some parts, and no file anywhere that was not there before."""

    def check(path, *parts, resize=None):
        before = sorted(tmp_path.rglob("*"))
        with complains("allowed", *parts, kind=DataError):
            load(path, resize)
        new = set(tmp_path.rglob("*")) - set(before)
        assert [file for file in new if file.is_file()] == []

    return check


@pytest.fixture
def bounds(monkeypatch):
    """Set bounds, so that little archives are too large."""

    def put(**values):
        for name, value in values.items():
            owner = limits if hasattr(limits, name) else image_folder
            monkeypatch.setattr(owner, name, value)

    return put


# Random damage


def image_bytes(pixels, kind):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


@cache
def small_set(layout, kind):
    """{path: content} of a little data set in PNG, JPEG, ... or of TinyImageNet's layout."""
    with tempfile.TemporaryDirectory() as folder:
        if layout == "official":
            official(Path(folder))
        else:
            write(Path(folder), made_up())
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
        content = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    if layout == "official":
        return content
    return {
        f"{name[:-3]}{kind}": image_bytes(np.asarray(Image.open(io.BytesIO(one))), kind)
        for name, one in content.items()
    }


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, put in, cut out or swapped, or the end cut off."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at, length = chance.randrange(len(changed) + 1), chance.choice((1, 2, 4, 30, 512))
        match chance.randrange(6):
            case 0:
                if at < len(changed):
                    changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at:at] = chance.randbytes(length)
            case 2:
                del changed[at : at + length]
            case 3:
                changed[at : at + length] = bytes([chance.choice((0, 255))]) * length
            case 4:
                other = chance.randrange(len(changed) + 1)
                one, two = changed[at : at + length], changed[other : other + length]
                if len(one) == len(two):
                    changed[at : at + length], changed[other : other + length] = two, one
            case 5:
                if not chance.randrange(4):
                    del changed[at:]
    return bytes(changed)


@pytest.mark.torture
@pytest.mark.filterwarnings("ignore")  # PIL and zipfile tell of oddities that they pass over
@settings(
    max_examples=often(1500, 40),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**32),
    archive=st.sampled_from(("", *ARCHIVES)),
    layout=st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp", "official"]),
    inside=st.booleans(),
    resize=st.sampled_from([None, 5]),
)
def test_a_mutated_archive_is_data_or_one_sentence(
    tally, monkeypatch, seed, archive, layout, inside, resize
):
    tally("mutated archives and images read or refused")
    chance = random.Random(seed)
    kind = layout if layout != "official" else "png"
    content = dict(small_set(layout if layout == "official" else "plain", kind))
    if inside or not archive:
        for name in chance.sample(sorted(content), chance.choice((1, 3))):
            content[name] = mutated(content[name], chance)
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("ATOM_CACHE", f"{folder}/cache")
        path = Path(folder, "pets")
        for name, one in content.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(one)
        if archive:
            path = pack(path, archive)
            shutil.rmtree(Path(folder, "pets"))
            if not inside:
                path.write_bytes(mutated(path.read_bytes(), chance))
        before = set(Path(folder).rglob("*"))
        try:
            data = load(path, resize)
        except DataError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
            left = set(Path(folder).rglob("*")) - before
            assert [file for file in left if file.is_file()] == []
            return
        left = [file.name for file in set(Path(folder).rglob("*")) - before if file.is_file()]
        assert len(left) == 1 and left[0].endswith(".safetensors")
    for images, labels in (
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
    ):
        side = images.shape[-1] if resize is None else resize
        assert images.dtype == torch.uint8
        assert images.shape == (len(labels), data.channels, side, side)
        assert set(labels.tolist()) == set(range(data.num_classes))


# Bombs

ZEROS = bytes(1 << 24)
REPEATS = 100


@cache
def many_zeros(compress):
    """1.6 GB of zeros in a few kilobytes: streams one behind the other are one stream."""
    return compress(ZEROS) * REPEATS


COMPRESSIONS = {".tar.gz": gzip.compress, ".tar.xz": lzma.compress, ".tar.bz2": bz2.compress}
compressions = pytest.mark.parametrize("kind", COMPRESSIONS)


def tar_header(name, size, kind=tarfile.REGTYPE):
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf()


@pytest.fixture
def little_memory():
    """That what follows takes no more memory than a bounded piece of a bomb."""
    tracemalloc.start()
    yield
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 << 20


@compressions
@pytest.mark.parametrize(
    ("name", "type_", "said"),
    [
        ("train/ant/0.png", tarfile.REGTYPE, "bytes"),
        ("README", tarfile.REGTYPE, "unfolds"),
        ("x", tarfile.XHDTYPE, "unfolds"),
        ("x", tarfile.GNUTYPE_LONGNAME, "unfolds"),
    ],
    ids=["an image", "another file", "an extended header", "a long name"],
)
def test_a_compressed_bomb_in_a_tar_is_refused(
    tmp_path, refuses, little_memory, kind, name, type_, said
):
    compress, path = COMPRESSIONS[kind], tmp_path / f"pets{kind}"
    header = tar_header(name, REPEATS * len(ZEROS), type_)
    path.write_bytes(compress(header) + many_zeros(compress))
    assert path.stat().st_size < 3e6
    refuses(path, path, said)


@compressions
def test_a_bomb_behind_the_end_of_a_tar_is_refused(tmp_path, refuses, little_memory, kind):
    path, compress = tmp_path / f"pets{kind}", COMPRESSIONS[kind]
    whole = pack(write(tmp_path / "pets", made_up()), ".tar").read_bytes()
    path.write_bytes(compress(whole))
    assert len(load(path).train_labels) == 12
    path.write_bytes(compress(whole) + many_zeros(compress))
    shutil.rmtree(tmp_path / "cache")
    refuses(path, path, "unfolds")


def patch_zip(path, **fields):
    """Change fields of each member's entry in a zip's central directory."""
    offsets = {"compressed": (20, "<I"), "size": (24, "<I")}
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start, count = archive.start_dir, len(archive.namelist())
    for _ in range(count):
        for name, value in fields.items():
            offset, form = offsets[name]
            struct.pack_into(form, content, start + offset, value)
        start += 46 + sum(struct.unpack_from("<3H", content, start + 28))
    path.write_bytes(content)


def zip_of(path, content, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for split in ("train", "test"):
            archive.writestr(f"{split}/ant/0.png", content)
    return path


def test_a_zip_that_says_gigabytes_is_refused(tmp_path, refuses, little_memory):
    path = zip_of(tmp_path / "pets.zip", bytes(1000))
    patch_zip(path, size=4_000_000_000)
    refuses(path, path, "unfolds")


def test_a_zip_with_a_file_too_large_is_refused(tmp_path, refuses, bounds):
    bounds(FILE_BYTES=1000, RATIO=10**6)
    refuses(zip_of(tmp_path / "pets.zip", bytes(1001)), "train/ant/0.png", "1,001", "1,000 a file")


@pytest.mark.parametrize("said", [100, 100_000])
def test_a_zip_that_says_less_than_it_unfolds_to_is_refused(tmp_path, refuses, said):
    path = zip_of(tmp_path / "pets.zip", ZEROS)
    patch_zip(path, size=said)
    tracemalloc.start()
    refuses(path, path, "truncated or no archive")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(ZEROS) / 4


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_cannot_be_unfolded_in_pieces_is_refused(tmp_path, refuses, compression):
    path = zip_of(tmp_path / "pets.zip", bytes(1000), compression)
    refuses(path, "train/ant/0.png", f"method {compression}", "deflate")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_too_large_in_all_are_refused(tmp_path, refuses, bounds, kind):
    path = pack(write(tmp_path / "pets", made_up()), kind)
    bounds(ARCHIVE_BYTES=2000)
    refuses(path, path, "unfolds", "2,000 bytes")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_of_too_many_files_are_refused(tmp_path, refuses, bounds, kind):
    path = pack(write(tmp_path / "pets", made_up()), kind)
    bounds(MEMBERS=17)
    refuses(path, path, "too many files", "17")
    bounds(MEMBERS=18)
    assert len(load(path).train_labels) == 12


def test_a_zip_whose_directory_is_too_long_is_refused_unread(tmp_path, refuses, monkeypatch):
    path = pack(write(tmp_path / "pets", made_up()), ".zip")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, len(content) - 22 + 12, 1 << 30)
    path.write_bytes(content)
    monkeypatch.delattr(zipfile, "ZipFile")
    refuses(path, path, "too many files")


@pytest.mark.parametrize("kind", ["", *ARCHIVES])
def test_a_file_too_large_is_refused_unread(tmp_path, refuses, bounds, kind):
    folder = write(tmp_path / "pets", made_up())
    with open(folder / "train" / "bee" / "x.png", "wb") as file:
        file.truncate(1 << 20)
    path = pack(folder, kind) if kind else folder
    bounds(FILE_BYTES=(1 << 20) - 1, RATIO=10**6)
    refuses(path, path, "train/bee/x.png", "1,048,576", "1,048,575")


def png_of(width, height):
    """A PNG that says it has so many pixels, and has none."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [6000, 10_000, 60_000])
@pytest.mark.parametrize("resize", [None, 8])
def test_an_image_of_too_many_pixels_is_refused(tmp_path, refuses, little_memory, side, resize):
    folder = write(tmp_path / "pets", made_up())
    (folder / "train" / "bee" / "x.png").write_bytes(png_of(side, side))
    refuses(folder, folder, "train/bee/x.png", "too large", "pixels", resize=resize)


@pytest.mark.parametrize(("resize", "side"), [(None, "8 x 8"), (20, "20 x 20")])
def test_images_too_large_in_all_are_refused(tmp_path, refuses, bounds, resize, side):
    folder = write(tmp_path / "pets", made_up())
    pixels = 3 * 18 * (resize or 8) ** 2
    bounds(DECODED_BYTES=pixels - 1)
    refuses(folder, folder, "18 images", side, resize=resize)
    bounds(DECODED_BYTES=pixels)
    assert load(folder, resize).image_size == (resize or 8)


@pytest.mark.parametrize("resize", [10**9, 10**5000, 1.0, True, "8"], ids=range(5))
def test_a_resize_out_of_bounds_is_refused(tmp_path, refuses, resize):
    refuses(write(tmp_path / "pets", made_up()), "resize is", "2 pixels", resize=resize)


@pytest.mark.parametrize("kind", ["gif", "tiff", "webp"])
def test_of_an_animation_the_first_frame_counts(tmp_path, kind):
    frames = [Image.fromarray(random_image(seed, grey=True)) for seed in (50, 51, 52)]
    exact = {"lossless": True} if kind == "webp" else {}
    folder = write(tmp_path / "pets", made_up())
    path = folder / "train" / "ant" / f"0.{kind}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **exact)
    (folder / "train" / "ant" / "0.png").unlink()
    first = load(folder).train_images[0]
    assert torch.equal(first, torch.from_numpy(np.array(frames[0])).expand(3, 8, 8))


def test_a_format_that_is_not_listed_is_no_image(tmp_path, complains):
    folder = write(tmp_path / "pets", made_up())
    Image.fromarray(random_image(1)).save(folder / "train" / "bee" / "x.png", "pcx")
    with complains("train/bee/x.png", "no image", kind=DataError):
        load(folder)


# Names


def tar_with(tmp_path, *members):
    """A .tar of a good data set and of more members: (name or TarInfo, content)."""
    path = pack(write(tmp_path / "pets", made_up()), ".tar")
    with tarfile.open(path, "a") as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def with_zip(tmp_path, *members):
    """As tar_with, a .zip."""
    path = pack(write(tmp_path / "pets", made_up()), ".zip")
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


PNG = image_bytes(random_image(77), "png")


@pytest.mark.parametrize("make", [tar_with, with_zip])
@pytest.mark.parametrize("top", ["/", "./", "../../", "x/../../../"])
def test_names_that_lead_out_of_an_archive_write_nothing(tmp_path, cache_folder, make, top):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    path = make(inner, *[(f"{top}{split}/ant/odd.png", PNG) for split in ("train", "test")])
    before = set(tmp_path.rglob("*"))
    data = load(path)
    # Absolute names are names like any other; those with ".." are passed over, as hidden ones are.
    assert len(data.train_labels) == 12 + (".." not in top)
    new = {file for file in set(tmp_path.rglob("*")) - before if file.is_file()}
    assert {file.parent for file in new} == {cache_folder / "data"}


@pytest.mark.parametrize("make", [tar_with, with_zip])
@pytest.mark.parametrize(
    "name", ["a\nb", "\x1b[31m", "a\u2028b", "\x7f", " ", "x" * 201, "é" * 101], ids=ascii
)
def test_class_names_that_cannot_be_shown_or_be_a_folder_are_refused(tmp_path, refuses, make, name):
    path = make(tmp_path, *[(f"{split}/{name}/0.png", PNG) for split in ("train", "test")])
    refuses(path, path)


def test_class_names_that_are_no_text_are_refused(tmp_path, refuses):
    folder = write(tmp_path / "pets", made_up())
    for split in ("train", "test"):
        try:
            (folder / split / "bee").rename(os.fsdecode(bytes(folder / split) + b"/b\xff"))
        except OSError:
            pytest.skip("the file system takes text alone")
    refuses(folder, folder, r"\udcff")
    refuses(pack(folder, ".tar"), r"\udcff")


def test_a_name_without_end_is_refused(tmp_path, refuses):
    refuses(tar_with(tmp_path, ("train/ant/" + "x" * 100_000 + ".png", PNG)), "no name of a file")


@pytest.mark.parametrize("make", [tar_with, with_zip])
def test_class_names_of_any_script_and_form_are_exported(tmp_path, make):
    names = ["猫", "🐈 🐕", "naïve (1)", "a\\b", "CON", "-rf *", "x" * 200, "%2e%2e", "é" * 100]
    path = make(tmp_path, *[(f"{s}/{n}/0.png", PNG) for s in ("train", "test") for n in names])
    data = load(path)
    assert set(data.class_names) == {"ant", "bee", "cat", *names}
    made = distill(data, RandomImages(), progress=False)
    folder = made.export(tmp_path / "out")
    assert len([*folder.iterdir()]) == len([*folder.rglob("*.png")]) == 12


@pytest.mark.parametrize(
    ("type_", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "0.png"),
        (tarfile.LNKTYPE, "train/ant/0.png"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, refuses, type_, target):
    info = tarfile.TarInfo("train/ant/x.png")
    info.type, info.linkname = type_, target
    refuses(tar_with(tmp_path, (info, b"")), "train/ant/x.png", "link or a device")


def test_a_link_in_a_zip_is_no_image(tmp_path, complains):
    info = zipfile.ZipInfo("train/ant/x.png")
    info.external_attr = 0o120777 << 16
    with complains("train/ant/x.png", "no image", kind=DataError):
        load(with_zip(tmp_path, (info, b"/etc/passwd")))


def test_a_link_to_a_file_is_followed(tmp_path):
    folder = write(tmp_path / "pets", made_up())
    target = (folder / "train" / "ant" / "0.png").rename(tmp_path / "elsewhere.png")
    (folder / "train" / "ant" / "0.png").symlink_to(target)
    plain = load(write(tmp_path / "plain", made_up()))
    assert load(folder).fingerprint == plain.fingerprint


@pytest.mark.parametrize("target", [".", "..", "train/bee", "/", "missing.png", "train/ant/x.png"])
def test_a_link_to_a_folder_to_itself_or_to_nothing_is_refused(tmp_path, refuses, target):
    folder = write(tmp_path / "pets", made_up())
    (folder / "train" / "ant" / "x.png").symlink_to(folder / target)
    refuses(folder, "train/ant/x.png", "link")


def test_a_linked_class_folder_is_refused(tmp_path, refuses):
    folder = write(tmp_path / "pets", made_up())
    (folder / "train" / "bee").rename(tmp_path / "bee")
    (folder / "train" / "bee").symlink_to(tmp_path / "bee")
    refuses(folder, "train/bee", "link to a folder")


def test_a_hidden_link_is_passed_over(tmp_path):
    folder = write(tmp_path / "pets", made_up())
    (folder / ".cache").symlink_to(folder)
    assert len(load(folder).train_labels) == 12


def test_a_pipe_is_not_waited_for(tmp_path):
    folder = write(tmp_path / "pets", made_up())
    os.mkfifo(folder / "train" / "ant" / "x.png")
    assert len(load(folder).train_labels) == 12
