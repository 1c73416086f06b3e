"""Soft labels and learned rates in evaluation, and named protocols."""

import pytest
import torch
from torch.nn import functional as F

from atomlib.distill import distill
from atomlib.distilled_set import DistilledSet, read_published
from atomlib.evaluate import evaluate
from atomlib.methods import RandomImages
from atomlib.preprocess import Preprocess
from atomlib.published.hand_on import write_mtt
from atomlib.published.protocols import PROTOCOLS, protocol
from atomlib.training import EvalConfig
from tests.published.test_reading import LABELS, SIDE, TRAINED

SMALL = {"networks": 2, "epochs": 2, "width": 8, "depth": 2, "precision": "float32"}


@pytest.fixture
def data(make_data):
    return make_data("cifar10", size=SIDE)


def published(folder, data, labels=LABELS, **how):
    write_mtt(folder, TRAINED, labels)
    return read_published(folder, data, **how)


@pytest.mark.parametrize("together", [1, 2])
def test_one_hot_probabilities_train_as_hard_labels_do(tmp_path, data, together):
    """Soft labels that are sure of the class give the accuracies of hard ones."""
    hard = published(tmp_path / "hard", data)
    soft = published(tmp_path / "soft", data)
    soft.labels = F.one_hot(LABELS, 3).float()
    config = EvalConfig(**SMALL, together=together)
    expected = evaluate(hard, data, config, progress=False)
    assert torch.allclose(evaluate(soft, data, config, progress=False), expected)


def test_soft_labels_are_learned(tmp_path, data):
    """A network that is trained for long gives back the probabilities it was given."""
    from atomlib.models.build import network_for
    from atomlib.randomness import stream
    from atomlib.runtime.device import Execution
    from atomlib.training import Trainer

    rows = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
    made = published(tmp_path, data, rows.repeat_interleave(2, 0))
    config = EvalConfig(
        epochs=150, lr=0.05, weight_decay=0.0, width=16, depth=2, dsa={"strategies": ()}
    ).resolve(SIDE)
    network = network_for(config, data)
    trainer = Trainer(network, config, Execution(config, torch.device("cpu"), 0))
    trainer.train(made.trained, made.labels, [stream(0, "test")])
    with torch.no_grad():
        given = network(made.trained).softmax(1)
    assert (given - made.labels).abs().max() < 0.1


def test_a_published_set_is_judged_as_our_own_is(tmp_path, data):
    """The same tensors give the same accuracies, whichever class holds them."""
    config = RandomImages(ipc=2, zca=False)
    made = distill(data, config, progress=False)
    file = made.export(tmp_path, layout="dc")
    read = read_published(file, data, space="normalised")
    assert torch.equal(read.trained, made.trained) and torch.equal(read.labels, made.labels)
    settings = EvalConfig(**SMALL)
    ours, theirs = (evaluate(s, data, settings, progress=False) for s in (made, read))
    assert torch.equal(ours, theirs)


def test_hand_on_undoes_whitening(tmp_path, data, complains):
    """The field's files are normalised; of a whitened set that takes the data."""
    made = distill(data, RandomImages(ipc=2, zca=True), progress=False)
    with complains("data is None", "cifar10"):
        made.export(tmp_path / "mtt", layout="mtt")
    file = made.export(tmp_path / "mtt", layout="mtt", data=data)
    read = read_published(file, data, space="normalised")
    assert torch.allclose(read.images, made.images, atol=1e-4)
    assert read.looks.copies == len(made)
    own = read_published(made.save(tmp_path / "own.safetensors"), data)
    assert torch.equal(own.trained, made.trained) and own.zca is True
    again = DistilledSet.load(tmp_path / "own.safetensors")
    assert torch.allclose(own.images, again.images, atol=1e-4)


def test_whitening_of_pixels_in_0_1(tmp_path, data):
    """MTT's ZCA is fitted on images in [0, 1], and undone likewise."""
    unit = Preprocess.fit(data, zca="unit")
    pixels = data.train_images[::3].float() / 255
    published(tmp_path, data)
    torch.save(unit(data.train_images[::3]), tmp_path / "images_best.pt")
    whitened = read_published(tmp_path, data, space="whitened")
    assert torch.allclose(whitened.images, pixels, atol=1e-3)
    rows = data.train_images.flatten(1).double() / 255
    values, vectors = torch.linalg.eigh(rows.T.cov())
    matrix = vectors @ ((values.clamp_min(0) + 0.1) ** -0.5).diag() @ vectors.T
    expected = (pixels.flatten(1).double() - rows.mean(0)) @ matrix
    assert torch.allclose(whitened.trained.flatten(1).double(), expected, atol=1e-3)
    evaluate(whitened, data, EvalConfig(**SMALL), progress=False)


def test_read_without_data_is_not_evaluated(tmp_path, data, complains):
    write_mtt(tmp_path, TRAINED, LABELS)
    with complains("distilled set", "data is cifar10"):
        evaluate(read_published(tmp_path), data, EvalConfig(**SMALL), progress=False)


def test_protocols(tmp_path, data, complains):
    """What the authors do otherwise, and nothing else."""
    made = published(tmp_path, data)
    made.lr = 0.0184
    default = EvalConfig()
    assert protocol("ours", made) == default
    assert protocol("dc", made) == default.but(epochs=300, dsa={"strategies": ()})
    assert protocol("mtt", made) == protocol("datm", made) == default.but(lr=0.0184)
    assert protocol("datadam", made) == default.but(epochs=1800, batch_size=64)
    made.lr = None
    assert protocol("mtt", made) == default
    assert protocol("ours", made, networks=2).networks == 2
    # Digits are augmented without flips, which a protocol without augmentation is not to undo.
    no_flips = {"strategies": ("crop",)}
    assert protocol("dc", made, dsa=no_flips).dsa.strategies == ()
    assert protocol("dsa", made, dsa=no_flips).dsa.strategies == ("crop",)
    assert all(p.source for p in PROTOCOLS.values())
    with complains("protocol", "did you mean 'datm'"):
        protocol("datms", made)
