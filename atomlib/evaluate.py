"""Training networks from scratch on a distilled set and testing them on real images.

The protocol of the DC family (facts, "Evaluation protocol"): SGD with momentum and weight
decay, cross entropy, E + 1 shuffled passes, the last partial batch kept, DSA with one
strategy a batch and parameters drawn image by image, no augmentation at test, and the
accuracy of the final weights on the whole test set.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from atomlib import preprocess
from atomlib.config import EvalConfig
from atomlib.datasets import ImageData
from atomlib.distilled import DistilledSet
from atomlib.dsa import Draw, augment, draw
from atomlib.ensemble import Ensemble, can_stack
from atomlib.errors import SettingError, check_kind
from atomlib.execution import Execution, check_room, network_for, operations, pick_device
from atomlib.models import reset_parameters
from atomlib.randomness import stream
from atomlib.resume import Bookmark

TEST_BATCH = 500


def evaluate(
    distilled: DistilledSet,
    data: ImageData,
    config: EvalConfig | None = None,
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
    resume: str | Path | None = None,
) -> Float[Tensor, "networks"]:
    """Test accuracy, in percent, of each network trained on the distilled set.

    With ``resume``, a file, an evaluation that was killed goes on at the network it was at; see
    atomlib.resume. Network i has its own initialisation, order and augmentation, drawn from the
    config's seed and i. Raises SettingError where the set was made from other data.
    """
    check_same_data(distilled, data)
    config = EvalConfig() if config is None else config
    check_kind("config", config, EvalConfig, "an EvalConfig, or None for the defaults")
    config = config.resolve(data.image_size)
    device = pick_device(device)
    images = distilled.trained.to(device)
    labels = distilled.labels.to(device)
    test = preprocess.test_images(data, distilled.config.zca, device)
    test_labels = data.test_labels.to(device)

    work = 3 * len(images) * (config.epochs + 1) + len(test)
    # Decided by the work of one network, so that a network's accuracy does not depend on how
    # many others are trained.
    execution = Execution(config, device, operations(config, data) * work)
    batch = min(config.batch_size, len(distilled))
    check_room(config, data, device, batch, 1)
    network = network_for(config, data).to(device)
    size = side_by_side(config, network, device)
    check_room(config, data, device, batch, min(size, config.networks))

    @cache  # compiled once for all groups of a size
    def trainer_of(networks: int) -> "Trainer | EnsembleTrainer":
        if networks == 1:
            return Trainer(network, config, execution)
        return EnsembleTrainer(Ensemble(network, networks), config, execution)

    kept = Bookmark(resume, f"{distilled.digest()} {config.model_dump_json()} {execution} {size}")
    accuracies = (kept.read() or {"accuracies": torch.empty(0)})["accuracies"].tolist()
    name = f"evaluate {distilled.config.method} {data.name} ipc {distilled.ipc}"
    passes = config.epochs + 1
    quiet = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
    done = len(accuracies)
    with tqdm(
        total=config.networks * passes, initial=done * passes, desc=name, unit="epoch", **quiet
    ) as bar:
        for first in range(done, config.networks, size):
            group = range(first, min(first + size, config.networks))
            chance = [stream(config.seed, "evaluate", index, device=device) for index in group]
            trainer = trainer_of(len(group))
            if len(group) == 1:
                trainer.train(images, labels, chance[0], bar)
                accuracies.append(trainer.accuracy(test, test_labels))
            else:
                trainer.train(images, labels, chance, bar)
                accuracies += trainer.accuracies(test, test_labels)
            bar.set_postfix(accuracy=f"{accuracies[-1]:.2f} %")
            if len(accuracies) < config.networks:
                kept.write({"accuracies": torch.tensor(accuracies, dtype=torch.float64)})
    kept.end()
    return torch.tensor(accuracies)


def side_by_side(config: EvalConfig, network: nn.Module, device: torch.device) -> int:
    """How many networks train together, which changes how long they take and nothing else.

    Networks that cannot be stacked (see ensemble.can_stack) train one after another whatever
    ``together`` says.
    """
    if not can_stack(network):
        return 1
    return config.together or (1 if device.type == "cpu" else config.networks)


def check_same_data(distilled: DistilledSet, data: ImageData) -> None:
    """Raise SettingError where ``distilled`` was made from other data, or is damaged."""
    check_kind("distilled", distilled, DistilledSet, "what distill returns or DistilledSet.load")
    check_kind("data", data, ImageData, "what load_dataset returns")
    if distilled.data_fingerprint != data.fingerprint:
        raise SettingError(
            f"distilled set was made from {distilled.data_name} (fingerprint "
            f"{distilled.data_fingerprint[:12]}), data is {data.name} ({data.fingerprint[:12]}); "
            "allowed: the data it was made from"
        )
    shape = tuple(distilled.trained.shape[1:])
    if shape != tuple(data.train_images.shape[1:]):
        raise SettingError(
            f"images of the distilled set are {shape}; allowed: "
            f"{tuple(data.train_images.shape[1:])}, as those of {data.name}"
        )
    if not distilled.trained.isfinite().all():
        raise SettingError("images of the distilled set are not finite; allowed: numbers alone")


class Trainer:
    """Trains one network after another, in place, so that each compiled step is made once."""

    def __init__(self, network: nn.Module, config: EvalConfig, execution: Execution):
        self.network, self.config, self.execution = network, config, execution
        self._loss = execution.compiled(self._training_loss)
        self._scores = execution.compiled(self._test_scores)

    def train(self, images: Tensor, labels: Tensor, generator: torch.Generator, bar: tqdm) -> None:
        """E + 1 passes over the set, from a network drawn afresh, as are order and DSA."""
        reset_parameters(self.network, generator)
        for _ in self._passes(images, labels, [generator]):
            bar.update()

    def _passes(
        self,
        images: Float[Tensor, "n c s s"],
        labels: Int[Tensor, "n"],
        generators: Sequence[torch.Generator],
    ) -> Iterator[None]:
        """E + 1 passes over the set, with a stop after each; order and DSA from the generators."""
        config = self.config
        self.network.train()
        optimizer = self._optimizer()
        for epoch in range(config.epochs + 1):
            if self._decay(epoch, optimizer):
                # The DC family rebuilds its optimiser here, and with it loses the momentum.
                optimizer.state.clear()
            for rows in self._order(images, generators).split(config.batch_size, dim=-1):
                drawn = None
                if config.dsa.strategies:
                    size, side = rows.shape[-1], images.shape[-1]
                    drawn = draw(size, side, config.dsa, *generators, one_strategy=True)
                self.execution.begin_step()
                optimizer.zero_grad(set_to_none=True)
                self._loss(images[rows], labels[rows], drawn).backward()
                optimizer.step()
            yield

    def _order(self, images: Tensor, generators: Sequence[torch.Generator]) -> Int[Tensor, "n"]:
        (generator,) = generators
        return torch.randperm(len(images), generator=generator, device=images.device)

    def _optimizer(self) -> torch.optim.SGD:
        return torch.optim.SGD(
            self.network.parameters(),
            lr=self.config.lr,
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
        )

    def _decay(self, epoch: int, optimizer: torch.optim.SGD) -> bool:
        """Set the learning rate of ``epoch`` (from 0); True where the optimiser starts anew."""
        config = self.config
        rate, anew = config.lr, False
        if config.schedule == "step":
            rate *= config.step_decay ** (epoch // config.step_size)
        elif config.schedule == "halfway":
            half = config.epochs // 2 + 1
            rate, anew = (0.1 * rate, epoch == half + 1) if epoch > half else (rate, False)
        optimizer.param_groups[0]["lr"] = rate
        return anew

    def _training_loss(
        self, images: Float[Tensor, "b c s s"], labels: Int[Tensor, "b"], drawn: Draw | None
    ) -> Float[Tensor, ""]:
        with self.execution.autocast():
            scores = self.network(self._augmented(images, drawn))
        return F.cross_entropy(scores.float(), labels)

    def _augmented(self, images: Float[Tensor, "g c s s"], drawn: Draw | None) -> Tensor:
        """Each image by its own draw; a group of DSA is one image."""
        return images if drawn is None else augment(images[:, None], drawn, self.config.dsa)[:, 0]

    def _test_scores(self, images: Tensor) -> Tensor:
        with self.execution.autocast():
            return self.network(images)

    def accuracy(self, images: Float[Tensor, "n c s s"], labels: Int[Tensor, "n"]) -> float:
        """Percent of ``images`` given their label."""
        return 100 * int(self._right(images, labels)) / len(labels)

    @torch.no_grad()
    def _right(self, images: Tensor, labels: Tensor) -> Int[Tensor, "*networks"]:
        """How many images are given their label."""
        self.network.eval()
        right = torch.zeros((), dtype=torch.long, device=images.device)
        for x, y in zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
            right = right + (self._scores(x).argmax(dim=-1) == y).sum(dim=-1)
        return right


class EnsembleTrainer(Trainer):
    """Trains the networks of an Ensemble side by side, each as a Trainer would train it alone."""

    def train(
        self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator], bar: tqdm
    ) -> None:
        """As Trainer.train, one generator a network: initialisation, order and DSA are its own."""
        self.network.reset_parameters(generators)
        for _ in self._passes(images, labels, generators):
            bar.update(self.network.size)

    def _order(
        self, images: Tensor, generators: Sequence[torch.Generator]
    ) -> Int[Tensor, "networks n"]:
        return torch.stack([Trainer._order(self, images, [one]) for one in generators])

    def _training_loss(
        self,
        images: Float[Tensor, "networks b c s s"],
        labels: Int[Tensor, "networks b"],
        drawn: Draw | None,
    ) -> Float[Tensor, ""]:
        """The sum of the networks' losses, whose gradient in each one's weights is its own."""
        flat = self._augmented(images.flatten(0, 1), drawn)
        with self.execution.autocast():
            scores = self.network(flat.view_as(images))
        total = F.cross_entropy(scores.flatten(0, 1).float(), labels.flatten(), reduction="sum")
        return total / labels.shape[1]

    def accuracies(self, images: Float[Tensor, "n c s s"], labels: Int[Tensor, "n"]) -> list[float]:
        """Percent of ``images`` given their label, network by network."""
        return [100 * right / len(labels) for right in self._right(images, labels).tolist()]
