"""Training and testing a network: the evaluation protocol of the DC family.

SGD with momentum and weight decay, cross entropy, E + 1 shuffled passes, the last partial batch
kept, DSA with one strategy per batch and parameters drawn per image, no augmentation at test, and
the accuracy of the final weights on all test images (docs/facts.md, 'Evaluation protocol').
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from atomlib.augmentation import DSA, Draw, DSAConfig, as_draw, augment_each, indices, uniforms
from atomlib.datasets.image_data import ImageData
from atomlib.errors import DivergedError
from atomlib.models.architectures import Dropout
from atomlib.models.build import NetworkConfig, at_once, network_for, reset_parameters
from atomlib.models.convnet import default_depth
from atomlib.models.ensemble import can_stack
from atomlib.runtime.device import Execution, memory
from atomlib.settings import Positive, Rate, VariantName, Weight

Labels = Int[Tensor, "*n"] | Float[Tensor, "*n k"]
"""The class of each image; or probabilities by class, of which cross entropy takes the mean."""


REVISION = 1
"""Of what training gives: raised when, and only when, its numbers change (tests/golden/)."""


class EvalConfig(NetworkConfig):
    """How to train networks on a distilled set and test them (docs/facts.md, 'Evaluation
    protocol')."""

    variant: VariantName = Field(
        default="", description="a name, for tables and files, of one evaluation among others"
    )
    networks: Positive = Field(
        default=5, description="networks trained from scratch, one seed each"
    )
    together: Positive | None = Field(
        default=None,
        description="networks trained side by side; None is as many as keep a GPU busy and fit "
        "its memory, one after another on a CPU",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="of everything drawn"
    )
    rescale: bool = Field(
        default=False,
        description="train on the images scaled to the standard deviation of real ones, from which "
        "a distillation with BatchNorm lets them grow away",
    )
    epochs: Positive = Field(default=1000, description="E; E + 1 passes are made over the set")
    batch_size: Positive = Field(default=256, description="synthetic images per step")
    lr: Rate = Field(default=0.01, description="SGD on weights")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="SGD on weights")
    weight_decay: Weight = Field(default=5e-4, description="SGD on weights")
    schedule: Literal["halfway", "step", "constant"] = Field(
        default="halfway", description="x0.1 once, halfway (DC family), or StepLR (Table 1)"
    )
    step_size: Positive = Field(default=15, description="epochs between decays of schedule 'step'")
    step_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="factor of schedule 'step'"
    )
    dsa: DSA = DSAConfig()

    def resolve(self, data: ImageData | int) -> Self:
        """The same config with every None filled in for ``data``, or for images of that side.

        Only ``together`` may stay None: like ``precision`` and ``compile`` it says how arithmetic
        runs, which is left to the machine that it runs on.
        """
        side, suited = (
            (data, None) if isinstance(data, int) else (data.image_size, data.augmentations)
        )
        return self.but(
            depth=default_depth(side) if self.depth is None else self.depth,
            dsa=self.dsa.resolve(suited),
        )


TEST_BATCH = 500


class Trainer:
    """Trains one network after another, in place, so that each compiled step is made once."""

    def __init__(self, network: nn.Module, config: EvalConfig, execution: Execution):
        self.network, self.config, self.execution = network, config, execution
        self.strategies = indices(config.dsa, execution.device)
        self._loss = execution.compiled(self._training_loss)
        self._scores = execution.compiled(self._test_scores)

    def train(self, images: Tensor, labels: Tensor, generators: Sequence[torch.Generator]) -> None:
        """E + 1 passes over the set, from a network drawn afresh, as are order and DSA."""
        for _ in self.passes(images, labels, generators):
            pass

    def passes(
        self,
        images: Float[Tensor, "n c s s"],
        labels: Labels,
        generators: Sequence[torch.Generator],
        state: dict[str, Tensor] | None = None,
    ) -> Iterator[int]:
        """The same with a stop after each pass, which gives how many are done.

        ``state`` is what ``state()`` gave at such a stop of the same training: it resumes from
        there. One generator per network, for its initialisation, order and DSA.
        """
        config = self.config
        self.generators, self.epoch = generators, 0
        self._reset()
        self.optimizer = self._optimizer()
        if state:
            self._go_on(state)
        while self.epoch <= config.epochs:
            self.network.train()  # after a test
            if self._decay(self.epoch, self.optimizer):
                # The DC family rebuilds its optimiser here, and with it loses the momentum.
                self.optimizer.state.clear()
            for rows in self._order(images, generators).split(config.batch_size, dim=-1):
                drawn = None
                if config.dsa.on:
                    drawn = uniforms(rows.shape[-1], *generators)
                    if not self.execution.compile:  # else it is part of what is compiled
                        drawn = self._draw(drawn, images.shape[-1])
                with self.execution.step():
                    self.optimizer.zero_grad(set_to_none=True)
                    self._loss(images[rows], labels[rows], drawn).backward()
                    self.optimizer.step()
            self.epoch += 1
            yield self.epoch

    def state(self) -> dict[str, Tensor]:
        """The state that the remaining passes depend on."""
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
        """All random generators: one per network, and one per Dropout in it."""
        # The device with its number, as Dropout asks for it: a generator's may have none.
        device = self._parameters()[0].device
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
        self, images: Float[Tensor, "b c s s"], labels: Labels, drawn: Draw | Tensor | None
    ) -> Float[Tensor, ""]:
        images = self._augmented(images, drawn)  # outside of autocast: its grid is a product
        with self.execution.autocast():
            scores = self.network(images)
        return F.cross_entropy(scores.float(), labels)

    def _draw(self, drawn: Tensor, side: int) -> Draw:
        return as_draw(drawn, self.strategies, side, self.config.dsa, one_strategy=True)

    def _augmented(self, images: Float[Tensor, "g c s s"], drawn: Draw | Tensor | None) -> Tensor:
        """Each image by its own draw."""
        if isinstance(drawn, Tensor):
            drawn = self._draw(drawn, images.shape[-1])
        return augment_each(images, drawn, self.config.dsa)

    def _test_scores(self, images: Tensor) -> Tensor:
        with self.execution.autocast():
            return self.network(images)

    def accuracies(
        self,
        images: Float[Tensor, "n c s s"],
        labels: Int[Tensor, "n"],
        first: int | None = None,
    ) -> list[float]:
        """Percent of ``images`` given their label, network by network: here of the one.

        ``first`` is the number of the first network: DivergedError, naming the network, for one
        whose scores are not finite. None: such a one has the accuracy that argmax gives it.
        """
        right, finite = self._tested(images, labels)
        diverged = (~finite.flatten()).nonzero().flatten().tolist()
        if first is not None and diverged:
            raise DivergedError(
                f"network {first + diverged[0]} diverged, its scores of test images are not "
                f"finite; try a smaller lr (now {self.config.lr:g})"
            )
        return [100 * count / len(labels) for count in right.sum(dim=-1).flatten().tolist()]

    def right(
        self, images: Float[Tensor, "n c s s"], labels: Int[Tensor, "n"]
    ) -> Bool[Tensor, "*networks n"]:
        """Which images are given their label, unaugmented; training can go on afterwards."""
        return self._tested(images, labels)[0]

    @torch.no_grad()
    def _tested(
        self, images: Float[Tensor, "n c s s"], labels: Int[Tensor, "n"]
    ) -> tuple[Bool[Tensor, "*networks n"], Bool[Tensor, "*networks"]]:
        """Which images are given their label, and whether all scores of a network are finite."""
        self.network.eval()
        for weight in self.network.parameters():
            weight.grad = None  # of no more use, and of the memory of a step's graph
        right, finite = [], []
        for x, y in zip(images.split(TEST_BATCH), labels.split(TEST_BATCH), strict=True):
            with self.execution.step():
                scores = self._scores(x)
                right.append(scores.argmax(dim=-1) == y)
                finite.append(scores.isfinite().flatten(-2).all(dim=-1))
        return torch.cat(right, dim=-1), torch.stack(finite).all(dim=0)


class EnsembleTrainer(Trainer):
    """Trains the networks of an Ensemble side by side, each as Trainer would."""

    def _reset(self) -> None:
        self.network.reset_parameters(self.generators)

    def _order(
        self, images: Tensor, generators: Sequence[torch.Generator]
    ) -> Int[Tensor, "networks n"]:
        return torch.stack([Trainer._order(self, images, [one]) for one in generators])

    def _training_loss(
        self,
        images: Float[Tensor, "networks b c s s"],
        labels: Labels,
        drawn: Draw | Tensor | None,
    ) -> Float[Tensor, ""]:
        """The sum of the networks' losses, whose gradient in each one's weights is its own."""
        flat = self._augmented(images.flatten(0, 1), drawn)
        with self.execution.autocast():
            scores = self.network(flat.view_as(images))
        total = F.cross_entropy(scores.flatten(0, 1).float(), labels.flatten(0, 1), reduction="sum")
        return total / labels.shape[1]


def side_by_side(config: EvalConfig, data: ImageData, device: torch.device, images: int) -> int:
    """How many networks train together, which changes how long they take and nothing else.

    ``images`` are those of a step of one of them. Networks that cannot be stacked (see
    ensemble.can_stack) train one after another whatever ``together`` says.
    """
    with torch.device("meta"):
        stacked = can_stack(network_for(config, data))
    if not stacked:
        return 1
    if config.together or device.type == "cpu":
        return config.together or 1
    quarter = memory(device) / 4
    return min(config.networks, at_once(config, data, images, TEST_BATCH, quarter))


@contextmanager
def short_of_memory(alone: bool) -> Iterator[None]:
    """Leave the block where the GPU's memory is short, unless only one network was trained."""
    try:
        yield
    except torch.OutOfMemoryError:
        if alone:
            raise


def say_smaller(networks: int, size: int, device: torch.device) -> None:
    """Say on stderr that networks do not fit together, and how many do next."""
    print(
        f"{networks} networks side by side do not fit the memory of {device}; they train again, "
        f"{size} at a time",
        file=sys.stderr,
    )
