"""Experts: networks trained on the full data, whose weights after each epoch are kept.

Plain SGD without momentum, weight decay or schedule: a trajectory that is easy to imitate, and not
a good network (docs/facts.md, "MTT"). Weights are cached (``ATOM_CACHE``) with the facts they are
of, one file per expert: an expert that is killed, or asked for more epochs, goes on from there.
"""

import time
from dataclasses import asdict
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData
from atomlib.models.build import network_for, operations, reset_parameters
from atomlib.randomness import stream
from atomlib.runtime.bookmark import EVERY_SECONDS
from atomlib.runtime.cache import check_cache, kept_place, kept_tensors, place
from atomlib.runtime.device import Execution, memory
from atomlib.runtime.files import lock, write_tensors
from atomlib.runtime.progress import Bar
from atomlib.runtime.provenance import Facts, libraries, settings_of
from atomlib.training import REVISION, EvalConfig, Trainer

TRAINING = {
    "lr": 0.01,
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "batch_size": 256,
}
"""How an expert is trained: settings of EvalConfig, as published."""


class Experts:
    """``count`` experts of so many epochs on ``data``, trained as ``config`` says.

    Their constant rate makes epochs the same however many follow, so no more are trained than are
    asked for, and the number is none of the facts of the cache.
    """

    def __init__(
        self,
        data: ImageData,
        config: EvalConfig,
        zca: preprocess.ZCA,
        device: torch.device,
        *,
        count: int,
        epochs: int,
    ):
        config = config.resolve(data)
        self.data, self.config, self.zca, self.count, self.epochs = data, config, zca, count, epochs
        work = 3 * operations(config, data) * len(data.train_labels) * epochs * count
        self.execution = Execution(config, device, work)
        network = network_for(config, data, stream(config.seed, "expert")).to(device)
        passes = config.but(epochs=max(1, epochs - 1))  # one more is made
        self.trainer = Trainer(network, passes, self.execution)
        self._held: dict[int, Tensor] = {}

    def train(self, *, progress: bool = True) -> None:
        """Train those that the cache has not."""
        name = f"experts of {self.data.name}"
        for index in Bar(range(self.count), desc=name, unit="network", shown=progress):
            self.weights(index)

    def weights(self, index: int) -> Float[Tensor, "epochs+1 p"]:
        """All weights of an expert, each time in one row, on the CPU: before its first epoch and
        after each. Trained where the cache has it not; held in memory, as far as an eighth of it
        goes, for a student's life on a GPU is no longer than reading and checking them again."""
        if index in self._held:
            return self._held[index]
        path, facts = self._file(index)
        with lock(path):
            path = kept_place(path, facts, settings_of(EvalConfig()))
            found = kept_tensors(path)
            kept = found and found[0]
            if kept is None or len(kept["weights"]) <= self.epochs:
                check_cache(path.parent)
                kept = self._trained(index, path, facts, kept)
        found = kept["weights"][: self.epochs + 1]
        if (len(self._held) + 1) * found.nbytes <= memory(torch.device("cpu")) // 8:
            self._held[index] = found.clone()  # without the epochs that are not asked for
        return found

    def _file(self, index: int) -> tuple[Path, Facts]:
        settings = settings_of(self.config)
        settings |= {"zca": self.zca, "expert": index, "how": str(self.execution)}
        facts = Facts("training", REVISION, settings, self.data.fingerprint, libraries())
        return place("experts", self.data.name, facts), facts

    def _trained(
        self, index: int, path: Path, facts: Facts, kept: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """What the file holds: weights by epoch, and the state that further epochs depend on."""
        device, network = self.execution.device, self.trainer.network
        images = preprocess.training_images(self.data, self.zca, device)
        labels = self.data.train_labels.to(device)
        if kept is None:
            reset_parameters(network, self._generator(index))  # the draw that training starts with
            rows, state = [_flat(network)], None
        else:
            state = dict(kept)
            rows = [*state.pop("weights")]
        written = time.monotonic()
        for epoch in self.trainer.passes(images, labels, [self._generator(index)], state):
            rows.append(_flat(network))
            done = epoch == self.epochs
            if done or time.monotonic() - written >= EVERY_SECONDS:
                kept = {"weights": torch.stack(rows), **self.trainer.state()}
                write_tensors(path, kept, {"facts": asdict(facts)})
                written = time.monotonic()
            if done:
                break
        return kept

    def _generator(self, index: int) -> torch.Generator:
        return stream(self.config.seed, "expert", index, device=self.execution.device)


def _flat(network: nn.Module) -> Float[Tensor, "p"]:
    """All weights in one vector of its own, on the CPU."""
    return parameters_to_vector(network.parameters()).detach().cpu()
