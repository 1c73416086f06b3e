"""Training images held out for tests: what is drawn, what is left, and what may not be asked."""

import pytest
import torch

from atomlib.datasets import load_dataset
from atomlib.datasets.held_out import held_out
from atomlib.datasets.png_folder import png_folder
from atomlib.errors import DataError
from atomlib.randomness import stream
from atomlib.runs import Store, cells, sweep
from atomlib.runs.verify import verify
from atomlib.runtime.files import read_record
from tests.test_environment import ROOT


def rows_of(images):
    return sorted(image.numpy().tobytes() for image in images)


@pytest.mark.parametrize("counts", [(20, 21, 35), (2, 9, 10)])
def test_the_two_parts_are_the_training_split_and_a_tenth_of_each_class_is_for_tests(
    make_data, counts
):
    data = make_data(counts=counts)
    part = held_out(data)
    together = torch.cat([part.train_images, part.test_images])
    assert rows_of(together) == rows_of(data.train_images)
    of_tests = torch.bincount(part.test_labels, minlength=3).tolist()
    assert of_tests == [-(-count // 10) for count in counts]
    for images, labels in (
        (part.train_images, part.train_labels),
        (part.test_images, part.test_labels),
    ):
        for image, label in zip(images, labels, strict=True):
            same = (data.train_images == image).flatten(1).all(dim=1)
            assert label in data.train_labels[same]
    assert part == held_out(data)


def test_those_of_the_highest_draws_are_held_out(make_data):
    data = make_data(counts=(20, 21, 35))
    rows = [(data.train_labels == k).nonzero().flatten() for k in range(3)]
    draws = torch.rand(3, max(map(len, rows)), generator=stream(0, "held out"))
    test = []
    for own, draw in zip(rows, draws, strict=True):
        first = sorted(range(len(own)), key=lambda i, draw=draw: -float(draw[i]))
        test += sorted(own[first[: -(-len(own) // 10)]].tolist())
    part = held_out(data)
    assert torch.equal(part.test_images, data.train_images[test])
    rest = torch.cat([own[~torch.isin(own, torch.tensor(test))] for own in rows])
    assert torch.equal(part.train_images, data.train_images[rest])


def test_it_is_a_data_set_by_name_with_what_the_whole_one_brings():
    whole, part = load_dataset("digits"), load_dataset("digits-held-out")
    assert part.name == "digits-held-out"
    # As in the committed records: another draw would be another experiment.
    (kept,) = {
        record["data"]
        for record in map(read_record, ROOT.glob("reports/quick/results/digits-held-out-*.json"))
    }
    assert part.fingerprint == kept
    assert len(part.train_images) + len(part.test_images) == len(whole.train_images)
    assert (part.zca, part.augmentations) == (whole.zca, whole.augmentations)
    assert part.label == f"{whole.label} (held out)" and "left alone" in part.note
    assert part.published_as == "" and part.fingerprint != whole.fingerprint
    for name in (
        "folder:missing|digits",
        "folder:missing-held-out|digits",
        "digits-held-out|digits32",
    ):
        assert load_dataset(f"{name}-held-out") == part  # held out once, whichever is there


def test_a_folder_has_such_a_part_and_may_not_be_called_one(tmp_path, monkeypatch, complains):
    monkeypatch.setenv("ATOM_DATA", str(tmp_path))
    digits = load_dataset("digits")
    for name in ("mine", "mine-held-out"):
        for split in ("train", "test"):
            images, labels = digits.train_images[:40], digits.train_labels[:40]
            png_folder(images, labels, digits.class_names, tmp_path / name / split)
    with complains("mine-held-out", "rename it", kind=DataError):
        load_dataset("folder:mine-held-out")
    (tmp_path / "mine-held-out").rename(tmp_path / "other")
    part = load_dataset("folder:mine-held-out")
    assert len(part.train_images) + len(part.test_images) == 40
    assert part.label == "mine (held out)"


def test_a_class_with_one_image_is_one_sentence(make_data, complains):
    with complains("one training image", "two or more", kind=DataError):
        held_out(make_data(counts=(1, 5, 5)))


def test_a_record_of_it_is_made_again_from_itself(tmp_path):
    small = {"width": 8, "epochs": 1, "networks": 1, "depth": 1}
    grid = cells(["digits-held-out"], ["random"], [1], evaluation=small)
    (record,), _ = sweep(Store(tmp_path, progress=False), grid)
    found = verify(tmp_path / "results" / f"{record['name']}.json", progress=False)
    assert found.same_images and found.same_accuracies
