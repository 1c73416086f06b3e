"""Files that nobody should trust: read or refused in one sentence, never a traceback or a crash."""

import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from atomlib.datasets import limits
from atomlib.errors import SettingError
from atomlib.published import PublishedSet, read_published, tensor_files
from atomlib.published.hand_on import write_mtt
from atomlib.runtime.files import DamagedError
from tests.conftest import often
from tests.published.test_reading import LABELS, SIDE, TRAINED, dc

MUTATED = often(5000, 150)


@pytest.fixture
def refused(complains, tmp_path):
    """Expect a file of some content to be refused in one sentence with these parts."""

    def check(content, *parts, name="set.pt", kind=DamagedError):
        (tmp_path / name).write_bytes(content)
        with complains(*parts, kind=kind):
            read_published(tmp_path / name)

    return check


def saved(value, **how):
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def repacked(content, **changes):
    """A torch file with members replaced, and with right checksums."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for end, change in changes.items():
        (name,) = (name for name in members if name.endswith(end.replace("__", ".")))
        members[name] = change(members[name])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return buffer.getvalue()


class Runs:
    """What a pickle of a stranger would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_run(tmp_path, refused, zipped):
    content = saved({"data": Runs(tmp_path / "made")}, _use_new_zipfile_serialization=zipped)
    refused(content, "posix.mkdir", "not read")
    assert not (tmp_path / "made").exists()


def test_a_plain_pickle(tmp_path, refused):
    refused(pickle.dumps(Runs(tmp_path / "made")), "no file of tensors")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", [bytearray(b"x"), {1, 2}, torch.device("cpu"), complex(1, 1)])
def test_more_than_tensors_and_numbers(refused, value):
    refused(saved([TRAINED, LABELS, value]), "not read")


def test_objects_of_numpy(tmp_path, refused):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object))
    refused(buffer.getvalue(), "type object", name="images.npy")
    refused(saved({"images": np.zeros(3)}), "numpy")


def test_sizes_that_are_not_there(refused):
    """A storage or an array of a size that its bytes do not fill takes no memory."""
    content = saved([TRAINED, LABELS])
    count = TRAINED.numel()
    small, large = struct.pack("<H", count), struct.pack("<i", 2**31 - 1)

    def inflate(pickled):
        assert b"M" + small in pickled
        return pickled.replace(b"M" + small, b"J" + large)

    old = saved([TRAINED, LABELS], _use_new_zipfile_serialization=False)
    array = io.BytesIO()
    np.save(array, TRAINED.numpy())
    grown = array.getvalue().replace(b"(6, 3, 8, 8), }", b"(6, 3, 8, 80000000), }")
    assert len(grown) == len(array.getvalue()) + 7
    grown = grown.replace(b"       \n", b"\n")
    tracemalloc.start()
    refused(repacked(content, data__pkl=inflate), "not hold as many")
    refused(inflate(old), "not hold as many")
    refused(grown, "not hold as many", name="images.npy")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_one_value_for_many(refused):
    """A view that repeats one value has a size that its memory does not show."""
    wide = torch.zeros(1).expand(10**6, 3, 64, 64)
    refused(saved({"images": wide, "labels": LABELS}), "12,288,000,000 values")


def test_a_bomb(tmp_path, refused, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(3):
            archive.writestr(f"{k}.npy", bytes(1 << 25))
    refused(buffer.getvalue(), "unfolds", name="set.npz", kind=SettingError)
    monkeypatch.setattr(tensor_files, "MOST_BYTES", 1000)
    refused(saved(TRAINED), "1,000 at the most")


def test_deep_and_endless(refused):
    deep = TRAINED
    for _ in range(300):
        deep = [deep]
    refused(saved(deep), "no known layout")
    refused(saved({}), "no known layout")
    refused(saved({"data": []}), "no images and labels")
    refused(saved([TRAINED]), "no known layout")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ("git lfs pull",)),
        (b"<!DOCTYPE html><title>404</title>", ("web page",)),
        (b"", ("empty",)),
        (b"hello", ("no file of tensors",)),
    ],
)  # fmt: skip
def test_not_the_file_itself(tmp_path, refused, complains, content, parts):
    for name in ("set.pt", "images.npy", "set.npz", "set.zip", "set.png"):
        expected = parts if "hello" not in str(content) else ()
        refused(content, *expected, name=name, kind=SettingError)
    folder = tmp_path / "set" / "0"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(content)
    with complains(*(parts if content != b"hello" else ("no image",))):
        read_published(tmp_path / "set")


def test_a_picture_that_is_too_large_is_told_by_its_size(tmp_path, complains):
    """And not taken for an empty one."""
    with open(tmp_path / "big.png", "wb") as file:
        file.truncate(limits.FILE_BYTES + 1)  # takes no room on the disk
    with complains("big.png", "67,108,865 bytes", "allowed: 67,108,864"):
        read_published(tmp_path / "big.png")


def test_pixels_that_are_no_numbers(refused):
    bad = TRAINED.clone()
    bad[0, 0, 0, 0] = float("nan")
    refused(saved([bad, LABELS]), "no numbers")
    refused(saved([TRAINED.to(torch.complex64), LABELS]), "ComplexFloatStorage")
    refused(saved([TRAINED[..., :4], LABELS]), "square")
    refused(saved([TRAINED, LABELS + 0.5]), "whole numbers")
    refused(saved([TRAINED, LABELS - 1]), "whole numbers")
    refused(saved([TRAINED, LABELS.float() / 0]), "finite")


def originals(folder):
    """One file of every kind, as bytes, by the name that it needs."""
    files = {
        "res.pt": dc(folder / "a", [(TRAINED, LABELS)] * 2, [np.float64(0.5)] * 2),
        "old.pt": dc(folder / "b", accuracies=[0.5], _use_new_zipfile_serialization=False),
        "images_best.pt": write_mtt(folder / "mtt", TRAINED, LABELS),
    }
    contents = {name: file.read_bytes() for name, file in files.items()}
    for name, save in (("images.npy", np.save), ("set.npz", np.savez_compressed)):
        buffer = io.BytesIO()
        save(buffer, TRAINED.numpy()) if name == "images.npy" else save(
            buffer, image=TRAINED.numpy(), label=LABELS.numpy()
        )
        contents[name] = buffer.getvalue()
    picture = io.BytesIO()
    Image.new("RGB", (2 * (SIDE + 2) + 2, 3 * (SIDE + 2) + 2)).save(picture, format="png")
    contents["grid.png"] = picture.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for label in range(3):
            archive.writestr(f"{label}/a.png", picture.getvalue())
    contents["pictures.zip"] = buffer.getvalue()
    return contents


def mutate(content, chance):
    """Bytes changed, cut out, doubled or cut off."""
    content = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        if not content:
            break
        place = chance.randrange(len(content))
        kind = chance.choice(["byte", "byte", "head", "cut", "end", "double", "number"])
        if kind == "byte":
            content[place] = chance.randrange(256)
        elif kind == "head":  # where formats say what follows
            content[chance.randrange(min(300, len(content)))] = chance.randrange(256)
        elif kind == "cut":
            del content[place : place + chance.randrange(1, 50)]
        elif kind == "end":
            del content[max(1, place) :]
        elif kind == "double":
            content[place:place] = content[place : place + chance.randrange(1, 200)]
        else:
            content[place : place + 4] = struct.pack("<I", chance.choice([0, 2**31 - 1, 2**32 - 1]))
    return bytes(content) or b"\0"


@pytest.mark.torture
def test_mutated_files(tmp_path, make_data, tally):
    """Read or refused; a pickle within an archive is tried too, its checksum put right."""
    chance = random.Random(0)
    data = make_data(size=SIDE)
    (tmp_path / "kept").mkdir()
    contents = originals(tmp_path / "kept")
    place = tmp_path / "tried"
    place.mkdir()
    torch.save(LABELS, place / "labels_best.pt")
    np.save(place / "labels.npy", LABELS.numpy())
    outcomes = {"read": 0, "refused": 0}
    for number in range(MUTATED):
        name = sorted(contents)[number % len(contents)]
        content = contents[name]
        if name.endswith(".pt") and name != "old.pt" and chance.random() < 0.6:
            content = repacked(content, data__pkl=lambda pickled: mutate(pickled, chance))
        else:
            content = mutate(content, chance)
        (place / name).write_bytes(content)
        try:
            read = read_published(place / name, data if number % 2 else None)
            assert isinstance(read, PublishedSet) and read.trained.isfinite().all()
            outcomes["read"] += 1
        except SettingError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            outcomes["refused"] += 1
        (place / name).unlink()
    assert min(outcomes.values()) > MUTATED // 20
    tally("mutated files of published sets, read or refused", MUTATED)
