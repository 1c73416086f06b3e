"""Files that say whether they are whole: any change is noticed, any junk is one complaint."""

import json
import pickle

import hypothesis.strategies as some
import pytest
import torch
from conftest import often
from hypothesis import HealthCheck, given, settings
from safetensors.torch import save_file

from atomlib.errors import SettingError
from atomlib.runtime import files as artifact
from atomlib.runtime.files import (
    DamagedError,
    is_intact,
    read_about,
    read_record,
    read_tensors,
    sealed,
    set_aside,
    unsealed,
    write_record,
    write_tensors,
)

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor([1, 2]),
    "c": torch.zeros(0, dtype=torch.uint8),
}
ABOUT = {"name": "é", "list": [1, 2.5, None], "nested": {"x": True}}


def same(found):
    return found.keys() == TENSORS.keys() and all(
        torch.equal(found[name], TENSORS[name]) and found[name].dtype == TENSORS[name].dtype
        for name in TENSORS
    )


@pytest.fixture
def path(tmp_path):
    write_tensors(tmp_path / "x.safetensors", TENSORS, ABOUT)
    return tmp_path / "x.safetensors"


@pytest.fixture
def record(tmp_path):
    write_record(tmp_path / "x.json", ABOUT)
    return tmp_path / "x.json"


def test_what_was_written_is_read(path, record):
    tensors, about = read_tensors(path)
    assert same(tensors) and about == ABOUT
    assert read_record(record) == ABOUT
    assert {**read_about(path), "checksum": 0} == {**ABOUT, "checksum": 0}


def test_the_same_things_are_the_same_bytes(path, tmp_path):
    backwards = {name: TENSORS[name].clone() for name in reversed(TENSORS)}
    write_tensors(tmp_path / "y", backwards, ABOUT)
    assert (tmp_path / "y").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("which", ["path", "record"])
def test_any_byte_changed_or_cut_is_noticed(request, complains, which):
    file = request.getfixturevalue(which)
    whole = file.read_bytes()

    def read():
        return read_tensors(file)[0] if which == "path" else read_record(file)

    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            found = read()
        except DamagedError as error:
            assert "\n" not in str(error) and str(file) in str(error)
        else:  # a byte without a meaning, such as a space
            assert same(found) if which == "path" else found == ABOUT
        if whole[place:].strip():
            file.write_bytes(whole[:place])
            with complains(file, "allowed", kind=DamagedError):
                read()


@pytest.mark.torture
@settings(max_examples=often(200, 50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(change=some.data())
def test_files_mutated_at_random_are_whole_or_refused(path, record, tally, change):
    """Bytes flipped, cut out, put in, doubled and swapped, in any order and number."""
    for file, read in ((path, read_tensors), (record, read_record)):
        whole = file.read_bytes()
        content = bytearray(whole)
        for _ in range(change.draw(some.integers(1, 4))):
            first, second = sorted(change.draw(some.integers(0, len(content))) for _ in range(2))
            part = content[first:second]
            part = change.draw(
                some.sampled_from([b"", part + part, part[::-1], b"9" * len(part), b"[" * 5000])
                | some.binary(max_size=20)
            )
            content[first:second] = part
        file.write_bytes(content)
        try:
            found = read(file)
        except DamagedError as error:
            assert "\n" not in str(error)
        else:
            assert content == whole or found == ABOUT or same(found[0])
        file.write_bytes(whole)
        tally("mutated sets and records read or refused")


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_nothing_is_unpickled(tmp_path, complains):
    file = tmp_path / "x"
    for content in (pickle.dumps(Harmful()), b""):
        file.write_bytes(content)
        for read in (read_tensors, read_record, read_about):
            with complains(file, kind=DamagedError):
                read(file)
    torch.save(Harmful(), file)
    for read in (read_tensors, read_record):
        with complains(file, kind=DamagedError):
            read(file)


def test_sizes_are_bounded_before_anything_is_read(path, record, complains, monkeypatch):
    monkeypatch.setattr(artifact, "MOST_BYTES", 10)
    monkeypatch.setattr(artifact, "MOST_RECORD_BYTES", 10)
    monkeypatch.setattr(artifact, "safe_open", lambda *_: pytest.fail("opened"))
    with complains(path, "allowed: 10 at the most", kind=DamagedError):
        read_tensors(path)
    with complains(record, "allowed: 10 at the most", kind=DamagedError):
        read_record(record)


def test_a_header_cannot_ask_for_more_than_the_file_has(path, complains):
    """Of a hundred terabytes, say, which nothing is set aside for."""
    whole = path.read_bytes()
    assert b"[2,3]" in whole
    longer = whole.replace(b"[2,3]", b"[2,9]")
    path.write_bytes(longer)
    with complains(path, kind=DamagedError):
        read_tensors(path)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**45], "data_offsets": [0, 2**47]}})
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with complains(path, kind=DamagedError):
        read_tensors(path)


def test_what_others_wrote_is_refused(tmp_path, complains):
    for metadata in (None, {}, {"atomlib": "{"}, {"atomlib": "[]"}, {"atomlib": "{}"}):
        save_file(TENSORS, tmp_path / "x", metadata)
        with complains(tmp_path / "x", kind=DamagedError):
            read_tensors(tmp_path / "x")
    for text in ("", "[]", "{}", "null", '{"a": 1}', "[" * 100_000, '{"checksum": 3}'):
        (tmp_path / "x").write_text(text)
        with complains(tmp_path / "x", kind=DamagedError):
            read_record(tmp_path / "x")


def test_what_is_not_there_or_a_folder_is_damaged(tmp_path, complains):
    for place in (tmp_path / "missing", tmp_path):
        for read in (read_tensors, read_record, read_about):
            with complains(place, kind=DamagedError):
                read(place)


def test_a_record_is_sealed_as_it_is():
    assert is_intact(sealed(ABOUT)) and unsealed(sealed(ABOUT)) == ABOUT
    assert sealed(sealed(ABOUT)) == sealed(ABOUT)
    assert is_intact(json.loads(json.dumps(sealed(ABOUT))))
    for other in ({**sealed(ABOUT), "name": "e"}, ABOUT, {}, [], None, "x"):
        assert not is_intact(other)


def test_damaged_files_are_set_aside_under_names_of_their_own(tmp_path, capsys):
    for content in ("first", "second"):
        (tmp_path / "x").write_text(content)
        set_aside(tmp_path / "x", tmp_path / "damaged", DamagedError("x is damaged"))
        assert not (tmp_path / "x").exists()
    assert (tmp_path / "damaged" / "x.0").read_text() == "first"
    assert (tmp_path / "damaged" / "x.1").read_text() == "second"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith("x is damaged; set aside as") for line in said)


def test_damage_is_a_complaint_as_any():
    assert issubclass(DamagedError, SettingError)
