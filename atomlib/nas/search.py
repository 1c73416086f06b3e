"""Neural architecture search (NAS): 720 ConvNets ranked by training on a small proxy set.

Every candidate is trained from scratch on a proxy set (a distilled set, random images, the full
data for a short while, the full data) and ranked by its accuracy on real held-out images. A proxy
is good when its ranking is that of the full data, at a fraction of the time and storage
(supplement, 1.4; docs/facts.md, 'NAS protocol').

Candidates train beside each other: on a CPU in processes of one thread each, on a GPU those of one
shape as one network (atomlib.nas.together). Each result is written to a file at once, so that an
interrupted search resumes.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData
from atomlib.distilled_set import DistilledSet
from atomlib.errors import SettingError, check_choice, check_kind, shown
from atomlib.models.build import build_model, operations
from atomlib.nas.space import Candidate, fits, search_space
from atomlib.nas.together import Group, MixedEnsemble, cost, pack
from atomlib.randomness import stream
from atomlib.runs import lines
from atomlib.runs.engine import Engine
from atomlib.runs.processes import processors
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.device import Execution, free_memory, pick_device
from atomlib.runtime.files import digest_of, lock
from atomlib.runtime.layout import Layout
from atomlib.runtime.paths import as_path, check_writable
from atomlib.runtime.progress import Bar
from atomlib.runtime.provenance import hardware
from atomlib.runtime.torch_state import under_torch_defaults
from atomlib.training import (
    EnsembleTrainer,
    EvalConfig,
    Trainer,
    say_smaller,
    short_of_memory,
)

MEASURED = ("validation", "test", "seconds")


@dataclass(frozen=True, eq=False)
class Proxy:
    """What candidates are trained on, and for how long."""

    name: str
    images: Float[Tensor, "n c s s"]
    """Network inputs."""
    labels: Int[Tensor, "n"]
    epochs: int
    """As in EvalConfig: one pass more is made."""
    zca: preprocess.ZCA
    """Whether the images are whitened."""
    data_fingerprint: str

    @classmethod
    def of_set(cls, distilled: DistilledSet, *, epochs: int = 200, name: str | None = None) -> Self:
        """A distilled set, or random real images as one; named by its method where not named."""
        about = distilled.method.zca, distilled.data_fingerprint
        name = name or distilled.method.name
        return cls(name, distilled.trained, distilled.labels, epochs, *about)

    @classmethod
    def of_full_data(
        cls,
        data: ImageData,
        *,
        zca: preprocess.ZCA,
        epochs: int,
        device: str | torch.device | None = None,
    ) -> Self:
        """The full data, "whole": the reference that proxies are held against."""
        images = preprocess.training_images(data, zca, pick_device(device))
        return cls("whole", images, data.train_labels, epochs, zca, data.fingerprint)

    def stopped_early(self, like: "Proxy") -> Self:
        """Early stopping: the same set, trained for about as many images as ``like`` sees.

        In whole passes, two at the least, which is as few as EvalConfig has. (500 images in
        201 passes are two passes over CIFAR-10's 50,000.)
        """
        passes = max(2, round(like.storage * (like.epochs + 1) / self.storage))
        return replace(self, name="early stopping", epochs=passes - 1)

    @property
    def storage(self) -> int:
        """How many images have to be kept."""
        return len(self.images)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of images, labels and what they are."""
        return digest_of(f"{self.data_fingerprint} {self.zca}", self.images, self.labels)


@under_torch_defaults
def evaluate_candidates(
    proxy: Proxy,
    candidates: Sequence[Candidate],
    data: ImageData,
    config: EvalConfig | None = None,
    *,
    zca: preprocess.ZCA,
    keep: str | Path,
    workers: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train every candidate once on ``proxy``; one row each, in the order given.

    Columns: name, depth, width, activation, norm, pooling; validation and test, the percent of
    each half of the test set (see ``halves``) given their label; seconds, by the clock of its
    worker, for training and test: its part of those of a group; hardware that did it. ``config``
    says how to train; the candidate's settings and the proxy's epochs stand in for its own. Each
    network draws from the seed and from its place in the search space: its result is the same in
    any sample, order or number of workers, and up to rounding in any group. ``config.together`` of
    one shape train together at most; None leaves it to atomlib.nas.together.

    ``keep`` is a .jsonl file. What it holds of the same facts (atomlib.runtime.provenance) is read
    (unless older than ATOM_MADE_SINCE, see atomlib.runs.store); everything else is trained and
    added line by line. ``workers`` are processes; None is what WORKERS says, or else one per
    processor, or per GPU (all GPUs, unless ``device`` names one); 1 starts none. A script that
    asks for more must do so under ``if __name__ == "__main__":``, because each worker imports it;
    a notebook need not care. With ENGINE=ray (atomlib.runs.engine) candidates go to the cluster
    instead, as many at a time as it has GPUs; processors, where it has none or GPUS_PER_CELL=0.

    Raises SettingError before any work for an invalid setting, and RuntimeError, naming the
    candidate or its group, where training failed.
    """
    keep, engine = as_path("keep", keep, file=True), Engine.chosen()
    device, room = engine.device(device)
    check_kind("config", config, EvalConfig | None, "an EvalConfig, or None for the defaults")
    asked = config or EvalConfig()
    config = _check(proxy, candidates, data, asked, zca, workers, device)
    unfinished = check_writable(Layout.of_candidates(keep).unfinished).absolute()
    of_each = {candidate.name: config.but(**asdict(candidate)) for candidate in candidates}
    about = proxy.data_fingerprint, proxy.digest
    wanted = {name: lines.facts(own, *about) for name, own in of_each.items()}
    with lock(unfinished / keep.name):
        kept = lines.kept(keep, wanted, MEASURED)
        pending = [candidate for candidate in candidates if candidate.name not in kept]
        if pending:
            engine, room = _for_candidates(engine, workers, device, room)
            # What goes to a cluster need not be on this machine's GPU first.
            here = device if engine.name == "processes" else torch.device("cpu")
            costs = _costs(pending, data, config, proxy)
            images = min(config.batch_size, proxy.storage)
            groups = pack(costs, asked, data, device, images=images, room=room)
            tensors = _tensors(proxy, data, config, here)
            run = f"{proxy.digest} {lines.REVISION} {config.model_dump_json()}"
            work = (device, config, data.num_classes, unfinished, run)
            results = engine.side_by_side(groups, _bench, tensors, work)
            # Counted in operations, not in candidates, for the time left to mean something.
            total, done = sum(costs.values()), 0
            shown = {"unit": "FLOP", "unit_scale": True, "shown": progress}
            bar = Bar(total=total, desc=f"nas {proxy.name}", **shown)
            with bar, closing(results):
                for group, found in results:
                    for candidate, measured in zip(group.candidates, found, strict=True):
                        kept[candidate.name] = measured
                        names = {"proxy": proxy.name, "name": candidate.name}
                        line = lines.as_line(of_each[candidate.name], *about)
                        lines.append(keep, names | line | measured)
                    done += len(found)
                    bar.set_postfix(candidates=f"{done}/{len(pending)}", refresh=False)
                    bar.update(cost(group, costs))
    return pd.DataFrame(
        {"name": candidate.name, **asdict(candidate), **kept[candidate.name]}
        for candidate in candidates
    )


def _for_candidates(
    engine: Engine, workers: int | None, device: torch.device, room: float
) -> tuple[Engine, float]:
    """The engine with a thread per candidate and so many workers; the room that each has."""
    gpus = engine.gpus if device.type == "cuda" else 0
    engine = replace(engine, cpus=1, cpus_asked=1, gpus=gpus)
    if engine.name != "processes":
        return engine, room
    default = engine.workers if engine.workers > 1 else processors(device)
    engine = replace(engine, workers=workers or default)
    return engine, room / -(-engine.workers // processors(device))  # of those that share a GPU


def halves(labels: Int[Tensor, "m"], seed: int) -> tuple[Int[Tensor, "v"], Int[Tensor, "t"]]:
    """Rows of the test set for validation and for test, so that what chose is not what is said.

    Drawn with the seed. The halves, and each class in them, differ by one image at most.
    """
    order = torch.randperm(len(labels), generator=stream(seed, "nas", "halves"))
    by_class = order[labels[order].argsort(stable=True)]
    return by_class[0::2], by_class[1::2]


def check_training(config: EvalConfig, epochs: Sequence[int], workers: int | None = None) -> None:
    """Raise SettingError, before proxies are made, unless candidates can train so."""
    check_choice("model", config.model, ["convnet"])
    for number in epochs:
        config.but(epochs=number)
    if workers is not None and (type(workers) is not int or workers < 1):
        raise SettingError(f"workers is {shown(workers)}; allowed: 1 or more, or None")


def _check(
    proxy: Proxy,
    candidates: Sequence[Candidate],
    data: ImageData,
    config: EvalConfig,
    zca: preprocess.ZCA,
    workers: int | None,
    device: torch.device,
) -> EvalConfig:
    """The settings that all candidates share; SettingError for any that is invalid."""
    if not candidates:
        raise SettingError("candidates is empty; allowed: one at the least")
    known, seen = set(search_space()), set()
    for candidate in candidates:
        if candidate not in known or candidate in seen:
            name = getattr(candidate, "name", repr(candidate))
            raise SettingError(f"candidates has {name}; allowed: those of search_space, once each")
        if not fits(candidate.depth, candidate.pooling, data.image_size):
            raise SettingError(
                f"candidates has {candidate.name}; allowed: those that images of "
                f"{data.image_size} pixels are large enough for, which sample picks"
            )
        seen.add(candidate)
    check_training(config, [proxy.epochs], workers)
    if proxy.data_fingerprint != data.fingerprint:
        raise SettingError(
            f"proxy {proxy.name!r} was made from other data than {data.name} (fingerprints "
            f"{proxy.data_fingerprint[:12]} and {data.fingerprint[:12]}); allowed: the same data"
        )
    if proxy.zca != zca:
        raise SettingError(f"zca is {zca}; allowed with proxy {proxy.name!r}: {proxy.zca}, its own")
    if len(data.test_labels) < 2:
        raise SettingError(
            f"{data.name} has {len(data.test_labels)} test images; allowed: 2 or more, for a "
            "half that ranks and a half that is reported"
        )
    # Uncompiled: each candidate has shapes of its own, and compiling one costs as much as training
    # it on a small proxy. Other number types pay uncompiled only on a GPU.
    precision = config.precision if device.type == "cuda" else "float32"
    fixed = {"epochs": proxy.epochs, "networks": 1, "compile": "off", "precision": precision}
    # How many train together decides nothing.
    return config.but(**fixed, together=None).resolve(data)


def _costs(
    candidates: Iterable[Candidate], data: ImageData, config: EvalConfig, proxy: Proxy
) -> dict[Candidate, int]:
    """Operations to train and test each of them."""

    @cache
    def forward(depth: int, width: int, pooling: str) -> int:  # norm and activation do not count
        return operations(config.but(depth=depth, width=width, pooling=pooling), data)

    work = 3 * proxy.storage * (config.epochs + 1) + len(data.test_labels)
    return {c: forward(c.depth, c.width, c.pooling) * work for c in candidates}


def _tensors(
    proxy: Proxy, data: ImageData, config: EvalConfig, device: torch.device
) -> dict[str, Tensor]:
    """What all candidates share: the images trained on and both halves, as network inputs."""
    images = preprocess.test_images(data, proxy.zca, device)
    labels = data.test_labels.to(device)
    tensors = {"images": proxy.images.to(device), "labels": proxy.labels.to(device)}
    for half, rows in zip(
        ("validation", "test"), halves(data.test_labels, config.seed), strict=True
    ):
        rows = rows.to(device)
        tensors |= {f"{half}_images": images[rows], f"{half}_labels": labels[rows]}
    return tensors


@dataclass(frozen=True, eq=False)
class _Bench:
    """Trains and tests one group of candidates after another, in this process."""

    tensors: dict[str, Tensor]
    config: EvalConfig
    num_classes: int
    unfinished: Path
    """The bookmark of a training."""
    run: str
    """What all trainings have in common."""

    def measure(self, group: Group) -> list[dict[str, float | str]]:
        """Of each: validation and test accuracy in percent, its part of the seconds it took, and
        the hardware.

        A training that diverges is a result like any other: accuracy is what argmax says.
        """
        if len(group.candidates) > 1:
            found = None
            with short_of_memory(alone=False):
                found = self._measured(group)
            if found is not None:
                return found
            half = len(group.candidates) // 2
            say_smaller(len(group.candidates), half, self.tensors["images"].device)
            free_memory(self.tensors["images"].device)
            parts = group.candidates[:half], group.candidates[half:]
            return [one for part in parts for one in self.measure(Group(part))]
        return self._measured(group)

    def _measured(self, group: Group) -> list[dict[str, float | str]]:
        run = " ".join([self.run, *(candidate.name for candidate in group.candidates)])
        name = f"{group.name}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
        kept = Bookmark.of(Bookmark(self.unfinished / f"{name}.safetensors"), run)
        images, labels = self.tensors["images"], self.tensors["labels"]
        trainer = self._trainer(group)
        seed, device = self.config.seed, images.device
        places = [search_space().index(candidate) for candidate in group.candidates]
        generators = [stream(seed, "nas", place, device=device) for place in places]
        for epoch in trainer.passes(images, labels, generators, kept.read()):
            if kept.due():
                kept.write(trainer.state(), epoch, self.config.epochs + 1)
        halves = [
            trainer.accuracies(self.tensors[f"{half}_images"], self.tensors[f"{half}_labels"])
            for half in ("validation", "test")
        ]
        kept.end()
        seconds = round(kept.seconds / len(group.candidates), 3)
        return [
            dict(zip(MEASURED, (*own, seconds), strict=True)) | {"hardware": hardware()}
            for own in zip(*halves, strict=True)
        ]

    def _trainer(self, group: Group) -> Trainer:
        images = self.tensors["images"]
        shape = {"in_channels": images.shape[1], "image_size": images.shape[-1]}
        configs = [self.config.but(**asdict(candidate)) for candidate in group.candidates]
        networks = [
            build_model(
                "convnet",
                **shape,
                num_classes=self.num_classes,
                generator=stream(self.config.seed, "nas"),
                **config.network_settings(),
            ).to(images.device)
            for config in configs
        ]
        config, execution = configs[0], Execution(configs[0], images.device, 0)
        if len(networks) == 1:
            return Trainer(networks[0], config, execution)
        return EnsembleTrainer(MixedEnsemble(networks), config, execution)


def _bench(tensors: Mapping[str, Tensor], device: torch.device, *about: Any) -> Callable:
    """What a worker does with each group; "cuda" without a number is its own GPU."""
    tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
    return _Bench(tensors, *about).measure
