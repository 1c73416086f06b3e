"""Networks trained on the full data: the ceiling of the main table, and what coresets choose by.

Trained as networks are on a distilled set (atomlib.evaluate), with fewer epochs. Weights are cached
(``ATOM_CACHE``) with the facts they are of, so each network is trained once per machine.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData
from atomlib.errors import DivergedError
from atomlib.models.build import check_room, network_for, operations
from atomlib.randomness import stream
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.cache import check_cache, kept_place, kept_tensors, place
from atomlib.runtime.device import Execution, pick_device
from atomlib.runtime.files import lock, write_tensors
from atomlib.runtime.progress import Bar
from atomlib.runtime.provenance import Facts, libraries, settings_of
from atomlib.runtime.torch_state import under_torch_defaults
from atomlib.training import REVISION, TEST_BATCH, EvalConfig, Trainer

FULL_DATA_EPOCHS = 200
"""Epochs of training on the full data in the field (docs/facts.md, 'NAS protocol')."""


@under_torch_defaults
def full_data_accuracies(
    data: ImageData,
    config: EvalConfig,
    *,
    zca: preprocess.ZCA,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> Float[Tensor, "networks"]:
    """Test accuracy, in percent, of each network trained on all training images.

    Raises DivergedError for a network whose scores of test images are not finite.
    """
    trainers = (
        _trained(data, config, zca, index, pick_device(device), progress)
        for index in range(config.networks)
    )
    test = preprocess.test_images(data, zca, pick_device(device))
    labels = data.test_labels.to(test.device)
    return torch.tensor([t.accuracies(test, labels, index)[0] for index, t in enumerate(trainers)])


@under_torch_defaults
def trained_network(
    data: ImageData,
    config: EvalConfig,
    *,
    zca: preprocess.ZCA,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> nn.Module:
    """The first of these networks, in evaluation mode."""
    return _trained(data, config, zca, 0, pick_device(device), progress).network.eval()


@under_torch_defaults
def features_of(
    data: ImageData,
    config: EvalConfig,
    zca: preprocess.ZCA,
    device: torch.device,
    *,
    progress: bool = True,
) -> Float[Tensor, "n f"]:
    """f_out of every training image under the first of these networks, on the CPU."""
    key = (data.fingerprint, config, zca, str(device))
    if key not in _features:
        network = trained_network(data, config, zca=zca, device=device, progress=progress)
        images = preprocess.training_images(data, zca, device)
        with torch.no_grad(), Execution(config, device, 0).step():
            parts = [network.features(part)[1].cpu() for part in images.split(TEST_BATCH)]
        _features.clear()
        _features[key] = torch.cat(parts)
    return _features[key]


@under_torch_defaults
def right_after_passes(
    data: ImageData,
    config: EvalConfig,
    zca: preprocess.ZCA,
    device: torch.device,
    *,
    progress: bool = True,
) -> Bool[Tensor, "passes n"]:
    """Which training images the first of these networks gives their label after each pass over
    them, on the CPU; images are tested as they are, unaugmented. Raises DivergedError where its
    weights are not finite in the end."""
    trainer, facts = _untrained(data, config, zca, 0, device)
    path = place("passes", data.name, facts)
    with lock(path):
        found = _found(path, facts)
        if found:
            return found[0]["right"]
        passes, n = trainer.config.epochs + 1, len(data.train_labels)
        record = {"right": torch.zeros(passes, n, dtype=torch.bool)}
        images = preprocess.training_images(data, zca, device)
        labels = data.train_labels.to(device)
        for epoch in _passes(trainer, data, facts, path, progress, record):
            record["right"][epoch - 1] = trainer.right(images, labels)
        if not all(weight.isfinite().all() for weight in trainer.network.parameters()):
            raise DivergedError(
                f"weights after {passes} passes over the full data are not finite; try fewer "
                f"epochs, or another norm (now {config.norm!r})"
            )
        _keep(path, record, facts)
    return record["right"]


# The last ones only: one table of cells asks for the same features again and again.
_features: dict[tuple, Tensor] = {}


def _trained(
    data: ImageData,
    config: EvalConfig,
    zca: preprocess.ZCA,
    index: int,
    device: torch.device,
    progress: bool,
) -> Trainer:
    """The trainer of network ``index``, once it is trained or read from the cache."""
    trainer, facts = _untrained(data, config, zca, index, device)
    path = place("networks", data.name, facts)
    with lock(path):
        found = _found(path, facts)
        if found:
            trainer.network.load_state_dict(found[0])
            return trainer
        for _ in _passes(trainer, data, facts, path, progress):
            pass
        _keep(path, trainer.network.state_dict(), facts)
    return trainer


def _untrained(
    data: ImageData, config: EvalConfig, zca: preprocess.ZCA, index: int, device: torch.device
) -> tuple[Trainer, Facts]:
    """The trainer of network ``index``, and the facts of its training."""
    config = config.resolve(data)
    passes = config.epochs + 1
    work = operations(config, data) * (3 * len(data.train_labels) * passes + len(data.test_labels))
    check_room(config, data, device, min(config.batch_size, len(data.train_labels)), 1)
    execution = Execution(config, device, work)
    network = network_for(config, data, stream(config.seed, "evaluate")).to(device)
    trainer = Trainer(network, config, execution)
    # Networks on the full data train one by one; how many there are, or go together, decides
    # nothing.
    settings = settings_of(config.but(networks=1, together=None))
    settings |= {"zca": zca, "network": index, "how": str(execution)}
    return trainer, Facts("training", REVISION, settings, data.fingerprint, libraries())


def _passes(
    trainer: Trainer,
    data: ImageData,
    facts: Facts,
    path: Path,
    progress: bool,
    record: dict[str, Tensor] | None = None,
) -> Iterator[int]:
    """Train, with a stop after each pass, which gives how many are done.

    A training that was killed goes on from its bookmark beside ``path``, and so does ``record``,
    which is filled in at the stops.
    """
    check_cache(path.parent)
    record = record or {}
    device, passes = trainer.execution.device, trainer.config.epochs + 1
    images = preprocess.training_images(data, facts.settings["zca"], device)
    labels = data.train_labels.to(device)
    kept = Bookmark.of(Bookmark(_bookmark(path)), json.dumps(asdict(facts)))
    state = kept.read(like=record)
    for name, tensor in record.items():
        tensor.copy_(state.pop(name, tensor))
    generator = stream(trainer.config.seed, "evaluate", facts.settings["network"], device=device)
    with Bar(
        total=passes, desc=f"train on all of {data.name}", unit="epoch", shown=progress
    ) as bar:
        for epoch in trainer.passes(images, labels, [generator], state):
            bar.update(epoch - bar.n)
            yield epoch
            if kept.due():
                kept.write({**trainer.state(), **record}, epoch, passes)


def _found(path: Path, facts: Facts) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What came of an earlier training with these facts, if any."""
    return kept_tensors(kept_place(path, facts, settings_of(EvalConfig())))


def _keep(path: Path, tensors: dict[str, Tensor], facts: Facts) -> None:
    """Keep what came of a training, which then has no more to go on from."""
    write_tensors(path, tensors, {"facts": asdict(facts)})
    Bookmark(_bookmark(path)).end()


def _bookmark(path: Path) -> Path:
    return path.with_suffix(".unfinished")
