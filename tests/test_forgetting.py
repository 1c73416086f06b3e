"""Forgetting against its definition, image by image, and the passes that it counts over."""

from itertools import pairwise

import pytest
import torch

from atomlib import full_data
from atomlib.full_data import right_after_passes, trained_network
from atomlib.methods import Forgetting
from atomlib.methods.forgetting import forgetting_events
from atomlib.preprocess import training_images
from atomlib.runtime import bookmark
from atomlib.training import EvalConfig, Trainer

PLACE = "atomlib.methods.forgetting"
CPU = torch.device("cpu")
SMALL = {"width": 8, "feature_epochs": 4, "precision": "float32", "compile": "off"}


@pytest.fixture
def data(make_data):
    return make_data(counts=(9, 7, 8))


def plain_events(right):
    """Of one image: how often it is right and then wrong, or infinite where it never is right."""
    if not any(right):
        return torch.inf
    return sum(now and not then for now, then in pairwise(right))


def test_worked_values():
    right = torch.tensor(
        [
            [0, 1, 0, 1, 1],
            [0, 1, 1, 0, 0],
            [0, 1, 0, 1, 0],
            [0, 1, 1, 0, 0],
        ]
    ).bool()
    assert forgetting_events(right).tolist() == [4, 0, 1, 2, 1]  # 4 passes: never learned
    assert forgetting_events(right[:1]).tolist() == [1, 0, 1, 0, 0]


def test_events_are_as_defined_and_never_learned_is_more_than_any():
    right = torch.rand(20, 200, generator=torch.Generator().manual_seed(0)) < 0.1
    events = forgetting_events(right)
    plain = [plain_events(column) for column in right.T.tolist()]
    assert torch.inf in plain and len(set(plain)) > 3
    order = sorted(set(plain))
    for f in order:
        of_this = [e for e, p in zip(events.tolist(), plain, strict=True) if p == f]
        assert set(of_this) == ({int(f)} if f < torch.inf else {20})
    assert max(f for f in order if f < torch.inf) < 20


def test_the_most_forgotten_of_each_class_are_taken(data, monkeypatch):
    right = torch.rand(8, 24, generator=torch.Generator().manual_seed(2)) < 0.3
    monkeypatch.setattr(f"{PLACE}.right_after_passes", lambda *given, **how: right)
    rows = Forgetting(ipc=3, **SMALL).resolve(data).rows(data, CPU)
    events = [plain_events(column) for column in right.T.tolist()]
    for label, chosen in enumerate(rows.tolist()):
        own = (data.train_labels == label).nonzero().flatten().tolist()
        most = sorted((events[row] for row in own), reverse=True)[:3]
        assert [events[row] for row in chosen] == most and set(chosen) <= set(own)
    assert len(set(events)) > 3 and len(rows.unique()) == 9


def test_it_counts_over_the_network_that_its_settings_say(data):
    config = Forgetting(ipc=1, **SMALL).resolve(data)
    right = right_after_passes(data, config.training(), config.zca, CPU, progress=False)
    assert right.shape == (5, 24)
    events = forgetting_events(right)
    rows = config.rows(data, CPU, progress=False)
    for label, (row,) in enumerate(rows.tolist()):
        assert events[row] == events[data.train_labels == label].max()


def test_equal_images_are_drawn_by_the_seed(data, monkeypatch):
    monkeypatch.setattr(
        f"{PLACE}.right_after_passes",
        lambda *given, **how: torch.zeros(4, 24, dtype=torch.bool),
    )
    draws = [
        tuple(Forgetting(ipc=1, seed=s, **SMALL).resolve(data).rows(data, CPU)[0].tolist())
        for s in range(60)
    ]
    own = (data.train_labels == 0).nonzero().flatten().tolist()
    assert sorted({row for (row,) in draws}) == own


def test_passes_are_those_of_the_network_trained_on_all(data):
    """After the last one, what that network says of its own training images."""
    config = EvalConfig(networks=1, epochs=4, width=8, norm="batch", compile="off")
    right = right_after_passes(data, config, False, CPU, progress=False)
    assert right.shape == (5, 24) and right.dtype == torch.bool
    network = trained_network(data, config, zca=False, device=CPU, progress=False)
    with torch.no_grad():
        scores = network(training_images(data, False, CPU))
    assert torch.equal(right[-1], scores.argmax(dim=1) == data.train_labels)


def test_a_count_leaves_training_as_it_was(data):
    """BatchNorm trains on its batch's statistics after a stop to count as before it."""
    config = EvalConfig(networks=1, epochs=3, width=8, norm="batch", compile="off").resolve(data)
    trainer, _ = full_data._untrained(data, config, False, 0, CPU)
    images, labels = training_images(data, False, CPU), data.train_labels

    def weights(count):
        for _ in trainer.passes(images, labels, [torch.Generator().manual_seed(1)]):
            if count:
                trainer.right(images, labels)
        return torch.cat([w.flatten().clone() for w in trainer.network.state_dict().values()])

    assert torch.equal(weights(False), weights(True))


@pytest.mark.parametrize("passes", [1, 3, 5])
def test_a_count_that_was_killed_goes_on_to_the_same(data, tmp_path, monkeypatch, passes):
    config = EvalConfig(networks=1, epochs=4, width=8, compile="off", seed=passes)
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "whole"))
    whole = right_after_passes(data, config, False, CPU, progress=False)
    monkeypatch.setenv("ATOM_CACHE", str(tmp_path / "killed"))
    monkeypatch.setattr(bookmark, "EVERY_SECONDS", -1.0)
    right, counted = Trainer.right, []

    def killed(self, *about):
        if len(counted) == passes:
            raise KeyboardInterrupt
        counted.append(1)
        return right(self, *about)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "right", killed)
        if passes < 5:
            with pytest.raises(KeyboardInterrupt):
                right_after_passes(data, config, False, CPU, progress=False)
            assert len(list(tmp_path.rglob("*.unfinished"))) == (passes > 0)
        else:
            right_after_passes(data, config, False, CPU, progress=False)
    counted.clear()

    def seen(self, *about):
        counted.append(1)
        return right(self, *about)

    monkeypatch.setattr(Trainer, "right", seen)
    assert torch.equal(right_after_passes(data, config, False, CPU, progress=False), whole)
    assert len(counted) == (5 - passes if passes < 5 else 0)
    assert not list(tmp_path.rglob("*.unfinished"))
