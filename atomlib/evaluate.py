"""Evaluation: trains networks from scratch on a distilled set and tests them on real images.

The protocol of the DC family (docs/facts.md, 'Evaluation protocol'): SGD with momentum and weight
decay, cross entropy, E + 1 shuffled passes, the last partial batch kept, DSA with one strategy per
batch and parameters drawn per image, no augmentation at test, and the accuracy of the final weights
on all test images.
"""

from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData
from atomlib.distilled_set import DistilledSet, PublishedSet
from atomlib.errors import SettingError, check_kind
from atomlib.models.build import check_room, network_for, operations
from atomlib.models.ensemble import Ensemble
from atomlib.randomness import stream
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.device import Execution, free_memory, pick_device
from atomlib.runtime.progress import Bar
from atomlib.runtime.torch_state import under_torch_defaults
from atomlib.training import (
    REVISION,
    EnsembleTrainer,
    EvalConfig,
    Trainer,
    say_smaller,
    short_of_memory,
    side_by_side,
)


@under_torch_defaults
def evaluate(
    distilled: DistilledSet | PublishedSet,
    data: ImageData,
    config: EvalConfig | None = None,
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
    resume: str | Path | Bookmark | None = None,
) -> Float[Tensor, "networks"]:
    """Test accuracy, in percent, of each network trained on the distilled set.

    Labels may be probabilities, as published sets have them: cross entropy takes both. Test images
    are pre-processed as the set was.

    With ``resume``, a file, an evaluation that was killed resumes from its bookmark; see
    ``runtime.bookmark``. Network i has its own initialisation, order and augmentation, drawn from
    the config's seed and i. Raises SettingError where the set was made from other data, and
    DivergedError for a network whose scores of test images are not finite.
    """
    check_same_data(distilled, data)
    config = EvalConfig() if config is None else config
    check_kind("config", config, EvalConfig, "an EvalConfig, or None for the defaults")
    config = config.resolve(data)
    device = pick_device(device)
    free_memory(device)
    images = distilled.trained.to(device)
    if config.rescale:
        images = _rescaled(images, preprocess.training_images(data, distilled.zca, device))
    labels = distilled.labels.to(device)
    test = preprocess.test_images(data, distilled.zca, device)
    test_labels = data.test_labels.to(device)

    work = 3 * len(images) * (config.epochs + 1) + len(test)
    # Decided by the work of one network, so that a network's accuracy does not depend on how
    # many others are trained.
    execution = Execution(config, device, operations(config, data) * work)
    batch = min(config.batch_size, len(distilled))
    check_room(config, data, device, batch, 1)
    network = network_for(config, data, stream(config.seed, "evaluate")).to(device)
    size = side_by_side(config, data, device, batch)
    check_room(config, data, device, batch, min(size, config.networks))

    @cache  # compiled once for all groups of a size
    def trainer_of(networks: int) -> "Trainer | EnsembleTrainer":
        if networks == 1:
            return Trainer(network, config, execution)
        return EnsembleTrainer(Ensemble(network, networks), config, execution)

    about = f"{distilled.digest()} {config.model_dump_json()} {REVISION} {execution} {size}"
    kept = Bookmark.of(resume, about, str(execution))
    state = kept.read()
    accuracies = state.pop("accuracies", torch.empty(0)).tolist()
    size = int(state.pop("together", size))  # fewer, where memory was short
    name = f"evaluate {distilled.title} {data.name} ipc {distilled.ipc}"
    passes = config.epochs + 1
    total = config.networks * passes
    done = len(accuracies) * passes
    with Bar(total=total, initial=done, desc=name, unit="epoch", shown=progress) as bar:
        while len(accuracies) < config.networks:
            first = len(accuracies)
            group = range(first, min(first + size, config.networks))
            generators = [stream(config.seed, "evaluate", index, device=device) for index in group]
            trainer = trainer_of(len(group))
            reached = {"accuracies": torch.tensor(accuracies, dtype=torch.float64)}
            reached["together"] = torch.tensor(size)
            fits = False
            with short_of_memory(alone=len(group) == 1):
                for epoch in trainer.passes(images, labels, generators, state):
                    bar.update(first * passes + len(group) * epoch - done)
                    done = first * passes + len(group) * epoch
                    if kept.due():
                        kept.write(reached | trainer.state(), done, total)
                accuracies += trainer.accuracies(test, test_labels, first)
                fits = True
            state = {}
            if fits:
                bar.set_postfix(accuracy=f"{accuracies[-1]:.2f} %", refresh=False)
                continue
            size = len(group) // 2
            say_smaller(len(group), size, device)
            del trainer
            trainer_of.cache_clear()
            free_memory(device)
    kept.how = str(execution)
    if kept is not resume:  # whoever gave a Bookmark ends it, when what it led to is kept
        kept.end()
    return torch.tensor(accuracies)


def _rescaled(
    images: Float[Tensor, "n c s s"], real: Float[Tensor, "m c s s"]
) -> Float[Tensor, "n c s s"]:
    """Images with the standard deviation of ``real``, over all pixels; flat ones stay."""
    own = float(images.double().std())
    return images * (float(real.std()) / own) if own > 0 else images


def check_same_data(distilled: DistilledSet | PublishedSet, data: ImageData) -> None:
    """Raise SettingError where ``distilled`` was made from other data, or is damaged."""
    allowed = "what distill, DistilledSet.load or read_published returns"
    check_kind("distilled", distilled, DistilledSet | PublishedSet, allowed)
    check_kind("data", data, ImageData, "what load_dataset returns")
    if distilled.data_fingerprint != data.fingerprint:
        raise SettingError(
            f"distilled set was made from {distilled.data_name} (fingerprint "
            f"{distilled.data_fingerprint[:12]}), data is {data.name} ({data.fingerprint[:12]}); "
            "allowed: the data it was made from"
        )
    if isinstance(distilled, DistilledSet):
        distilled.check()
    shape = tuple(distilled.trained.shape[1:])
    if shape != tuple(data.train_images.shape[1:]):
        raise SettingError(
            f"images of the distilled set are {shape}; allowed: "
            f"{tuple(data.train_images.shape[1:])}, as those of {data.name}"
        )
    if not distilled.trained.isfinite().all():
        raise SettingError("images of the distilled set are not finite; allowed: finite numbers")
