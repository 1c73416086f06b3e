"""Writing: whole or not at all, and a clear word where it cannot be done."""

import errno
import hashlib
from pathlib import Path

import pytest
from safetensors import SafetensorError

from atomlib.errors import SettingError
from atomlib.runtime import files
from atomlib.runtime.files import atomic_write, sha256_file
from atomlib.runtime.paths import cache_folder, check_writable


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def old(tmp_path):
    """A file that was written before, alone in its folder."""
    path = tmp_path / "results" / "table.csv"
    path.parent.mkdir()
    path.write_text("old")
    return path


def assert_untouched(path):
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_is_replaced_only_when_the_body_is_done(old):
    with atomic_write(old) as partial:
        partial.write_text("new")
        assert old.read_text() == "old"
    assert old.read_text() == "new"
    assert list(old.parent.iterdir()) == [old]


def test_whoever_reads_the_old_file_meanwhile_reads_it_whole(old):
    with open(old) as reader:
        with atomic_write(old) as partial:
            partial.write_text("new")
        assert reader.read() == "old"


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    with atomic_write(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    "error",
    [RuntimeError("lost"), SafetensorError("lost"), OSError(errno.ENOSPC, "lost")],
    ids=lambda error: type(error).__name__,
)
def test_a_failing_body_is_a_complaint_and_leaves_the_old_file(old, complains, error):
    with complains(old, "could not be written", "lost"), atomic_write(old) as partial:
        partial.write_text("half")
        raise error
    assert_untouched(old)


def test_a_complaint_from_the_body_passes_unchanged(old):
    complaint = SettingError("ipc is 0; allowed: 1 or more")
    with pytest.raises(SettingError) as caught, atomic_write(old):
        raise complaint
    assert caught.value is complaint
    assert_untouched(old)


def test_an_interrupt_passes_and_leaves_the_old_file(old):
    with pytest.raises(KeyboardInterrupt), atomic_write(old) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert_untouched(old)


def test_a_disk_that_fills_up_leaves_the_old_file(old, monkeypatch, complains):
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with complains(old, "No space left"), atomic_write(old) as partial:
        partial.write_text("new")
    assert_untouched(old)


def test_a_body_that_writes_nothing_is_a_complaint(old, complains):
    with complains(old, "could not be written"), atomic_write(old):
        pass
    assert_untouched(old)


@pytest.mark.parametrize("below", ["x.txt", "folder/x.txt"])
def test_a_path_below_a_file_is_a_complaint(old, complains, below):
    with complains(old / below, "could not be written"), atomic_write(old / below) as partial:
        partial.write_text("new")
    assert_untouched(old)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a read-only file system")
def test_a_read_only_folder_is_a_complaint(complains):
    path = Path("/proc/x.txt")
    with complains(path, "could not be written"), atomic_write(path) as partial:
        partial.write_text("new")
    with complains("/proc", "cannot be written"):
        check_writable(Path("/proc"))


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    folder = tmp_path / "a" / "b"
    assert check_writable(folder) == folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("below", ["", "x", "x/y"])
def test_a_folder_at_or_below_a_file_is_a_complaint(old, complains, below):
    with complains(old / below, "cannot be written", "allowed: a writable folder"):
        check_writable(old / below)
    assert_untouched(old)


def test_a_full_disk_is_found_before_any_work(tmp_path, monkeypatch, complains):
    monkeypatch.setattr(files.os, "fsync", full_disk)
    with complains(tmp_path, "No space left"):
        check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_sha256_file_is_the_digest_of_the_content(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "x").write_bytes(content)
    assert sha256_file(tmp_path / "x") == hashlib.sha256(content).hexdigest()


def test_the_cache_is_where_atom_cache_says_or_in_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("ATOM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "atomlib"
