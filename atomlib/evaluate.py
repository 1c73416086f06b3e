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
from atomlib.architectures import Dropout
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
    resume: str | Path | Bookmark | None = None,
) -> Float[Tensor, "networks"]:
    """Test accuracy, in percent, of each network trained on the distilled set.

    With ``resume``, a file, an evaluation that was killed goes on at the pass it was at; see
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

    about = f"{distilled.digest()} {config.model_dump_json()} {execution} {size}"
    kept = Bookmark.of(resume, about)
    state = kept.read()
    accuracies = state.pop("accuracies", torch.empty(0)).tolist()
    name = f"evaluate {distilled.config.method} {data.name} ipc {distilled.ipc}"
    passes = config.epochs + 1
    total = config.networks * passes
    quiet = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
    done = len(accuracies) * passes
    with tqdm(total=total, initial=done, desc=name, unit="epoch", **quiet) as bar:
        for first in range(len(accuracies), config.networks, size):
            group = range(first, min(first + size, config.networks))
            chance = [stream(config.seed, "evaluate", index, device=device) for index in group]
            trainer = trainer_of(len(group))
            reached = {"accuracies": torch.tensor(accuracies, dtype=torch.float64)}
            for epoch in trainer.passes(images, labels, chance, state):
                bar.update(first * passes + len(group) * epoch - done)
                done = first * passes + len(group) * epoch
                if kept.due():
                    kept.write(reached | trainer.state(), done, total)
            state = {}
            accuracies += trainer.accuracies(test, test_labels)
            bar.set_postfix(accuracy=f"{accuracies[-1]:.2f} %")
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

    def train(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> None:
        """E + 1 passes over the set, from a network drawn afresh, as are order and DSA."""
        for _ in self.passes(images, labels, generators):
            pass

    def passes(
        self,
        images: Float[Tensor, "n c s s"],
        labels: Int[Tensor, "n"],
        generators: Sequence[torch.Generator],
        state: dict[str, Tensor] | None = None,
    ) -> Iterator[int]:
        """The same with a stop after each pass, which gives how many are done.

        ``state`` is what ``state()`` gave at such a stop of the same training: it goes on from
        there. One generator a network, for its initialisation, order and DSA.
        """
        config = self.config
        self.generators, self.epoch = generators, 0
        self._reset()
        self.network.train()
        self.optimizer = self._optimizer()
        if state:
            self._go_on(state)
        while self.epoch <= config.epochs:
            if self._decay(self.epoch, self.optimizer):
                # The DC family rebuilds its optimiser here, and with it loses the momentum.
                self.optimizer.state.clear()
            for rows in self._order(images, generators).split(config.batch_size, dim=-1):
                drawn = None
                if config.dsa.strategies:
                    size, side = rows.shape[-1], images.shape[-1]
                    drawn = draw(size, side, config.dsa, *generators, one_strategy=True)
                self.execution.begin_step()
                self.optimizer.zero_grad(set_to_none=True)
                self._loss(images[rows], labels[rows], drawn).backward()
                self.optimizer.step()
            self.epoch += 1
            yield self.epoch

    def state(self) -> dict[str, Tensor]:
        """All that the passes to come depend on."""
        momenta = [self.optimizer.state[p].get("momentum_buffer") for p in self._parameters()]
        state = {f"network {name}": value for name, value in self.network.state_dict().items()}
        state |= {f"momentum {i}": m for i, m in enumerate(momenta) if m is not None}
        state |= {f"random {i}": g.get_state() for i, g in enumerate(self._streams())}
        return {**state, "epoch": torch.tensor(self.epoch)}

    def _go_on(self, state: dict[str, Tensor]) -> None:
        network = self.network.state_dict()
        with torch.no_grad():
            for name, value in network.items():
                value.copy_(state[f"network {name}"])
        for i, parameter in enumerate(self._parameters()):
            if f"momentum {i}" in state:
                momentum = state[f"momentum {i}"].to(parameter.device)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        for i, generator in enumerate(self._streams()):
            generator.set_state(state[f"random {i}"])
        self.epoch = int(state["epoch"])

    def _parameters(self) -> list[Tensor]:
        return self.optimizer.param_groups[0]["params"]

    def _streams(self) -> list[torch.Generator]:
        """All that chance comes from: of each network, and of each Dropout in it."""
        device = self.generators[0].device
        drops = [m for m in self.network.modules() if isinstance(m, Dropout)]
        return [*self.generators, *(drop.stream(device) for drop in drops)]

    def _reset(self) -> None:
        (generator,) = self.generators
        reset_parameters(self.network, generator)

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

    def accuracies(self, images: Float[Tensor, "n c s s"], labels: Int[Tensor, "n"]) -> list[float]:
        """Percent of ``images`` given their label, network by network: here of the one."""
        right = self._right(images, labels).flatten().tolist()
        return [100 * count / len(labels) for count in right]

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

    def _reset(self) -> None:
        self.network.reset_parameters(self.generators)

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
