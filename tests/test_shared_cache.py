"""One cache for several accounts: what one may not read or write is done without, and said."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from atomlib.datasets import load_dataset
from atomlib.distill import distill
from atomlib.full_data import full_data_accuracies
from atomlib.methods import RandomImages
from atomlib.methods.decoder import trained_autoencoder
from atomlib.preprocess import fitted
from atomlib.runtime import cache as shared
from atomlib.training import EvalConfig
from tests.test_trials import pets

NOBODY = 65534
JUDGE = EvalConfig(width=8, epochs=1, networks=1)
CPU = torch.device("cpu")


@pytest.fixture
def place(monkeypatch):
    """A folder that every account can reach, with a data set in it and the cache beside."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    pets(folder / "x", n=6)
    monkeypatch.setenv("ATOM_CACHE", str(folder / "cache"))
    _forget()
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def _forget():
    shared._tell.cache_clear()
    fitted.cache_clear()


@pytest.fixture
def become(request):
    """From here on another account; one that is not root stays, whom modes of files stop too."""

    def change():
        _forget()
        if os.geteuid() == 0:
            request.addfinalizer(lambda: os.seteuid(0))
            os.seteuid(NOBODY)
            if not os.access(__file__, os.R_OK, effective_ids=True):
                pytest.skip("another account cannot read this clone")

    return change


def decoder(data):
    """GLaD's, or rather its first weight."""
    network = trained_autoencoder(data, 8, 1, JUDGE, CPU, progress=False)
    return next(network.parameters()).flatten()[0].item()


def everything(place):
    """Digests of what has been read, distilled with ZCA, and trained on all of the data."""
    data = load_dataset(f"folder:{place}/x")
    made = distill(data, RandomImages(zca=True), progress=False)
    trained = full_data_accuracies(data, JUDGE, zca=True, progress=False)
    return data.fingerprint, made.digest(), trained.tolist(), decoder(data)


def test_what_another_account_has_kept_is_read(place, become, capsys):
    expected = everything(place)
    for folder in (place / "cache").rglob("*"):
        folder.chmod(0o555 if folder.is_dir() else 0o444)
    (place / "cache").chmod(0o555)
    before = {path: path.stat().st_mtime_ns for path in (place / "cache").rglob("*.safetensors")}
    capsys.readouterr()
    become()
    assert everything(place) == expected
    assert "going on without, so the same" not in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (place / "cache").rglob("*.safetensors")} == before


@pytest.mark.parametrize("mode", [0o555, 0o000], ids=["read only", "closed"])
def test_where_nothing_may_be_kept_the_work_is_done_all_the_same(place, become, capsys, mode):
    expected = everything(place)[:2]
    shutil.rmtree(place / "cache")
    (place / "cache").mkdir()
    (place / "cache").chmod(mode)
    become()
    for _ in range(2):
        data = load_dataset(f"folder:{place}/x")
        made = distill(data, RandomImages(zca=True), progress=False)
        assert (data.fingerprint, made.digest()) == expected
    err = capsys.readouterr().err
    assert "going on without" in err and "ATOM_CACHE" in err and "Permission denied" in err
    assert err.count(f"{place}/cache/data cannot be") == 1  # said once


def test_what_takes_hours_is_not_begun_where_it_cannot_be_kept(place, become, complains):
    (place / "cache").mkdir(mode=0o555)
    become()
    data = load_dataset(f"folder:{place}/x")
    with complains("cache/networks", "Permission denied", "ATOM_CACHE"):
        full_data_accuracies(data, JUDGE, zca=False, progress=False)
    with complains("cache/decoders", "Permission denied", "ATOM_CACHE"):
        decoder(data)


@pytest.mark.parametrize("damage", [False, True], ids=["closed", "damaged"])
def test_a_file_of_another_account_is_left_alone(place, become, capsys, damage):
    expected = everything(place)
    for path in (place / "cache").rglob("*.safetensors"):
        if damage:
            path.write_bytes(path.read_bytes()[:-1])
        path.chmod(0o444 if damage else 0o000)
    for folder in (place / "cache").rglob("*/"):
        folder.chmod(0o555)
    become()
    assert load_dataset(f"folder:{place}/x").fingerprint == expected[0]
    err = capsys.readouterr().err
    assert ("cannot be set aside" if damage else "cannot be read") in err


def test_a_cache_that_is_a_file_is_refused(place, complains):
    (place / "cache").write_text("")
    with complains(place / "cache"):
        load_dataset(f"folder:{place}/x")


@pytest.mark.parametrize("given", ["~nobody-of-that-name/x", "~nobody-of-that-name"])
def test_a_home_that_is_none_is_refused(place, monkeypatch, complains, given):
    monkeypatch.setenv("ATOM_CACHE", given)
    with complains("ATOM_CACHE is", given, "no such home"):
        load_dataset(f"folder:{place}/x")


def test_the_system_is_told_of_by_its_word(place, monkeypatch):
    """A disk that is mounted read only says EROFS, where a folder says EACCES."""

    def refuse(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "fsync", refuse)
    assert torch.is_tensor(load_dataset(f"folder:{place}/x").train_images)
