"""MTT: a student trained on the synthetic images ends where an expert does, trained on the real.

theta_e are the weights of an expert after e epochs on the full data. Draw an expert and a start
t < T+. The student starts from theta_t and takes N steps on batches X_i of the synthetic images,

    w_0 = theta_t,    w_{i+1} = w_i - a grad_w CE(A_i(X_i); w_i),    i = 0 ... N-1

where A_i is DSA. The images and the rate a descend

    L = |w_N - theta_{t+M}|^2 / |theta_t - theta_{t+M}|^2

The gradient is exact, in the memory of one step whatever N is (the adjoint of the recursion):
p = dL/dw_N, and then, for i = N-1 ... 0, with h_i(w, X) = <grad_w CE(A_i(X); w), p>,

    dL/da -= h_i,    dL/dX_i -= a dh_i/dX,    p -= a dh_i/dw    at (w_i, X_i)
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from atomlib import preprocess
from atomlib.augmentation import Draw, augment_each, draw
from atomlib.datasets.image_data import ImageData
from atomlib.errors import DivergedError, SettingError
from atomlib.methods.experts import TRAINING, Experts
from atomlib.methods.learned_images import LearnedImages
from atomlib.methods.method import Learner
from atomlib.models.build import NetworkConfig, check_room, network_for, operations
from atomlib.randomness import stream
from atomlib.recipes import Change
from atomlib.runtime.device import Execution
from atomlib.settings import MOST, Positive, Rate
from atomlib.training import EvalConfig

PUBLISHED: dict[int, dict[str, Any]] = {
    1: {"student_steps": 50, "latest_start": 2, "image_lr": 1e2, "rate_lr": 1e-7, "rate": 1e-2},
    10: {"student_steps": 30, "latest_start": 20, "image_lr": 1e2, "rate_lr": 1e-5, "rate": 1e-3},
    50: {"student_steps": 30, "latest_start": 40, "image_lr": 1e3, "rate_lr": 1e-5, "rate": 1e-3},
}
"""The author's settings for CIFAR-10, by IPC (docs/facts.md, "MTT")."""

WHITENED = (1, 10)
"""The IPCs of that table whose images are whitened."""

NEAREST = "None is the author's for CIFAR-10 at IPC 1, 10 or 50, the nearest below"


class MTT(LearnedImages):
    """Match the weights of training trajectories; defaults are the author's."""

    name: ClassVar[str] = "mtt"
    label: ClassVar[str] = "MTT"
    source: ClassVar[str] = "Cazenavette et al., CVPR 2022, arXiv 2203.11932"
    revision: ClassVar[int] = 2
    colour: ClassVar[str] = "#c9b000"

    # Below IPC 50 the author whitens; another's table has lower figures for MTT (docs/methods.md).
    disagreements: ClassVar[Mapping[str, Change]] = {
        "zca": {"settings": {"zca": False}},
        "zca_from": {"settings": {"zca": True}},
    }

    real_batch: ClassVar[int] = 0  # an iteration sees no real image

    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        default=5000, description="students, one step on the images each"
    )
    student_steps: Positive | None = Field(
        default=None, description=f"N, steps of a student; {NEAREST}"
    )
    expert_epochs: Positive = Field(
        default=2, description="M, epochs of an expert that the student's steps stand for"
    )
    latest_start: Positive | None = Field(
        default=None,
        description="T+: a student starts after 0 to latest_start - 1 epochs of an expert; "
        + NEAREST,
    )
    experts: Positive = Field(
        default=100,
        description="networks trained on the full data, latest_start + expert_epochs - 1 epochs "
        "each, which are all that is read",
    )
    image_lr: Rate | None = Field(default=None, description=f"SGD on images; {NEAREST}")
    rate: Rate | None = Field(
        default=None, description=f"a, the student's learning rate at first; {NEAREST}"
    )
    rate_lr: Rate | None = Field(default=None, description=f"SGD on the student's rate; {NEAREST}")
    batch: Positive | None = Field(
        default=None, description="synthetic images per step of a student; None is all of them"
    )
    zca: preprocess.ZCA | None = Field(
        default=None,
        description="ZCA whitening, 'unit' fitted on images in [0, 1], true on normalised ones; "
        "None is 'unit' for CIFAR below IPC 50, as published, and off elsewhere",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="float32",
        description="of convolutions; auto is bfloat16 where the processor has it",
    )

    def resolve(self, data: ImageData) -> Self:
        if self.norm == "batch":
            raise SettingError(
                "norm is 'batch'; allowed for mtt: 'none', 'layer', 'instance' or 'group', since "
                "of an expert only weights are kept, and no running statistics"
            )
        if data.num_classes < 2:
            raise SettingError(
                f"{data.name} has one class; allowed for mtt: two or more, since with one an "
                "expert learns nothing"
            )
        tabled = max(ipc for ipc in PUBLISHED if ipc <= self.ipc)
        unset = {key: v for key, v in PUBLISHED[tabled].items() if getattr(self, key) is None}
        if self.zca is None:
            unset["zca"] = "unit" if data.zca and tabled in WHITENED else False
        images = self.ipc * data.num_classes
        unset["batch"] = min(self.batch or images, images)
        return super(MTT, self.but(**unset)).resolve(data)

    def check_room(self, data: ImageData, device: torch.device) -> None:
        if not self.iterations:
            return  # no network is built
        check_room(self, data, device, max(self.batch, self.expert_batch(data)), networks=1)

    @staticmethod
    def expert_batch(data: ImageData) -> int:
        """Real images per step of an expert."""
        return min(TRAINING["batch_size"], len(data.train_labels))

    def learner(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> "TrajectoryMatcher | None":
        if not self.iterations:
            return None
        experts = Experts(
            data,
            self.expert_training(),
            self.zca,
            device,
            count=self.experts,
            epochs=self.read_epochs,
        )
        experts.train(progress=progress)
        start = self.start(data, device, progress=progress)
        return TrajectoryMatcher(self, data, device, start, experts)

    def expert_training(self) -> EvalConfig:
        """How an expert is trained."""
        network = {key: getattr(self, key) for key in NetworkConfig.model_fields if key != "recipe"}
        return EvalConfig(networks=1, seed=self.seed, dsa=self.dsa, **TRAINING, **network)

    def operations(self, data: ImageData) -> int:
        """Floating point operations of one student's life, counted without computing them."""
        from torch.utils.flop_counter import FlopCounterMode  # slow to import

        with torch.device("meta"):
            network = network_for(self, data)
            weights = list(network.parameters())
            image = torch.empty(1, data.channels, data.image_size, data.image_size)
            label = torch.zeros(1, dtype=torch.long)

            def gradients(image: Tensor, **how: bool) -> tuple[Tensor, ...]:
                return torch.autograd.grad(F.cross_entropy(network(image), label), weights, **how)

            with FlopCounterMode(display=False) as counter:
                gradients(image)  # a step of the student
                image = image.requires_grad_() * 1  # the counter's hooks bear no leaf
                slopes = gradients(image, create_graph=True)
                along = [torch.zeros_like(slope) for slope in slopes]
                # and of the adjoint
                torch.autograd.grad(slopes, [*weights, image], along)
        return counter.get_total_flops() * self.student_steps * self.batch

    def work(self, data: ImageData) -> int:
        expert = 3 * operations(self, data) * len(data.train_labels) * self.read_epochs
        return super().work(data) + self.experts * expert

    @property
    def read_epochs(self) -> int:
        """Epochs of an expert that are read, so that no more are trained."""
        return self.latest_start + self.expert_epochs - 1

    def advice(self) -> str:
        return (
            f"try a smaller rate_lr (now {self.rate_lr:g}), image_lr (now {self.image_lr:g}) or "
            f"latest_start (now {self.latest_start})"
        )


def trajectory_loss(
    student: Float[Tensor, "p"], start: Float[Tensor, "p"], target: Float[Tensor, "p"]
) -> Float[Tensor, ""]:
    """L: squared distance of a student's weights to the target, in units of the way to it.

    1 where the student stays at the start, 0 where it reaches the target, and not finite where
    start and target are one. Raises SettingError unless the shapes are alike.
    """
    if not student.shape == start.shape == target.shape:
        shapes = ", ".join(str(tuple(vector.shape)) for vector in (student, start, target))
        raise SettingError(
            f"student, start and target have the shapes {shapes}; allowed: one shape for all"
        )
    return (student - target).square().sum() / (start - target).square().sum()


class Student:
    """A network as a function of all its weights in one vector."""

    def __init__(self, network: nn.Module, execution: Execution):
        self.network, self.execution = network.requires_grad_(False), execution
        self.shapes = {name: weight.shape for name, weight in network.named_parameters()}
        self.gradient = execution.compiled(self._gradient)
        self._along = execution.compiled(self._gradient_along)

    def adjoint(
        self,
        weights: Float[Tensor, "p"],
        inputs: Float[Tensor, "b c s s"],
        labels: Int[Tensor, "b"],
        pull: Float[Tensor, "p"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "p"], Float[Tensor, "b c s s"]]:
        """h of the module's equation, and its gradients by the weights and by the inputs."""
        weights, inputs = (t.detach().requires_grad_() for t in (weights, inputs))
        h = self._along(weights, inputs, labels, pull)
        return h.detach(), *torch.autograd.grad(h, (weights, inputs))

    def _gradient(self, weights: Tensor, inputs: Tensor, labels: Tensor) -> Float[Tensor, "p"]:
        """Of the mean cross entropy by the weights. A transform, so that it can be compiled; and
        channels last, so that its convolutions go back without a transposition."""
        inputs = inputs.contiguous(memory_format=torch.channels_last)

        def loss(weights: Tensor) -> Tensor:
            parts = weights.split([shape.numel() for shape in self.shapes.values()])
            named = {
                name: part.view(shape)
                for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)
            }
            scores = torch.func.functional_call(self.network, named, (inputs,))
            return F.cross_entropy(scores if scores.dtype.itemsize >= 4 else scores.float(), labels)

        with self.execution.autocast():
            return torch.func.grad(loss)(weights)

    def _gradient_along(
        self, weights: Tensor, inputs: Tensor, labels: Tensor, pull: Tensor
    ) -> Float[Tensor, ""]:
        return (self._gradient(weights, inputs, labels) * pull).sum()


Step = tuple[Int[Tensor, "b"], Draw | None]
"""Of a student: rows of the synthetic images, and their augmentation."""


class TrajectoryMatcher(Learner):
    """The distillation of MTT: images, and the rate of the student."""

    def __init__(
        self,
        method: MTT,
        data: ImageData,
        device: torch.device,
        start: Float[Tensor, "k ipc c s s"],
        experts: Experts,
    ):
        super().__init__(
            {"images": start, "rate": torch.tensor(method.rate, device=device)},
            Execution(method, device, method.operations(data) * method.iterations),
            rates={"images": method.image_lr, "rate": method.rate_lr},
            momentum=method.image_momentum,
        )
        self.optimizer.param_groups[0]["weight_decay"] = method.image_weight_decay
        self.method, self.experts = method, experts
        network = network_for(method, data, stream(method.seed, "network")).to(device)
        self.student = Student(network, self.execution)
        self.labels = torch.arange(data.num_classes, device=device).repeat_interleave(method.ipc)
        self.starts = stream(method.seed, "starts")
        self.order = stream(method.seed, "order", device=device)
        self.draws = stream(method.seed, "dsa", device=device)
        self.lives = torch.zeros((), dtype=torch.long)

    def life(self) -> Iterator[Float[Tensor, ""]]:
        start, target = (weights.to(self.execution.device) for weights in self.way())
        yield self.matched(start, target, self.steps())
        self.lives += 1
        rate = float(self.learned["rate"].detach())
        if not rate > 0:
            raise DivergedError(
                f"the learned rate is {rate:.3g} after step {int(self.lives)}; allowed: above 0; "
                f"{self.method.advice()}"
            )

    def way(self) -> tuple[Float[Tensor, "p"], Float[Tensor, "p"]]:
        """From which weights to which, of the next expert: in shuffled order, each once before
        they are shuffled again."""
        method = self.method
        past, place = divmod(int(self.lives), method.experts)
        generator = stream(method.seed, "experts", past)
        index = int(torch.randperm(method.experts, generator=generator)[place])
        start = int(torch.randint(method.latest_start, (), generator=self.starts))
        weights = self.experts.weights(index)
        return weights[start], weights[start + method.expert_epochs]

    def steps(self) -> list[Step]:
        """Batches of shuffled images, reshuffled when used up; in each, one strategy of DSA, with
        parameters drawn per image."""
        method, (n, side) = self.method, (len(self.labels), self.learned["images"].shape[-1])
        batches: list[Tensor] = []
        while len(batches) < method.student_steps:
            order = torch.randperm(n, generator=self.order, device=self.labels.device)
            batches += order.split(method.batch)
        batches = batches[: method.student_steps]
        if not method.dsa.on:
            return [(rows, None) for rows in batches]
        return [
            (rows, draw(len(rows), side, method.dsa, self.draws, one_strategy=True))
            for rows in batches
        ]

    def matched(
        self, start: Float[Tensor, "p"], target: Float[Tensor, "p"], steps: Sequence[Step]
    ) -> Float[Tensor, ""]:
        """L of a student; its gradient is in the ``grad`` of images and rate afterwards."""
        images, rate = (self.learned[name].detach() for name in ("images", "rate"))
        images = images.flatten(0, 1).requires_grad_()
        path = [start]
        for rows, drawn in steps:
            with self.execution.step():
                inputs = augment_each(images.detach()[rows], drawn, self.method.dsa)
                slope = self.student.gradient(path[-1], inputs, self.labels[rows])
                path.append(path[-1] - rate * slope)
        end = path.pop().requires_grad_()
        loss = trajectory_loss(end, start, target)
        (pull,) = torch.autograd.grad(loss, end)
        images.grad, by_rate = torch.zeros_like(images), torch.zeros_like(rate)
        for rows, drawn in reversed(steps):
            with self.execution.step():
                inputs = augment_each(images[rows], drawn, self.method.dsa)
                about = path.pop(), inputs, self.labels[rows], pull
                h, by_weights, by_inputs = self.student.adjoint(*about)
                by_rate = by_rate - h
                pull = pull - rate * by_weights
                # Outside of the transform, through which the resampling of DSA has no derivative.
                inputs.backward(-rate * by_inputs)
        self.learned["images"].grad = images.grad.view_as(self.learned["images"])
        self.learned["rate"].grad = by_rate
        return loss.detach()

    def generators(self) -> dict[str, torch.Generator]:
        return {"starts": self.starts, "order": self.order, "dsa": self.draws}

    def extras(self) -> dict[str, float]:
        """The rate that networks are to be trained at on these images, as learned."""
        return {"lr": float(self.learned["rate"].detach())}

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "lives": self.lives}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self.lives.copy_(state["lives"])
