"""What a method of dataset distillation is: settings, a start, and a learner.

A method is a class whose fields are its settings and whose methods are its mathematics. To add one,
see docs/adding-a-method.md; ``check_method`` is the contract that every method passes.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.errors import SettingError, shown
from atomlib.models.build import NetworkConfig
from atomlib.models.convnet import default_depth
from atomlib.randomness import stream
from atomlib.recipes import Change
from atomlib.runtime.device import Execution
from atomlib.settings import VARIANT, Positive, VariantName

NAME = r"[a-z0-9_]{1,40}"
"""Of a method: it is part of a file's name."""

CHECKPOINT = re.compile(r"(^|\.)it\d+$")
"""The end of the name of a checkpoint's variant, which ``Method.at`` gives it."""


class Method(NetworkConfig):
    """The settings that every method has, and what every method can be asked for.

    A method without a ``learner`` chooses real images, which are its ``start``.
    """

    name: ClassVar[str]
    """Short, as in file names and profiles: "atom"."""
    label: ClassVar[str]
    """As a table shows it: "ATOM"."""
    source: ClassVar[str]
    """Authors, venue, year, arXiv number."""
    revision: ClassVar[int]
    """Of the numbers that it gives: raised when, and only when, they change."""
    may_stay_none: ClassVar[tuple[str, ...]] = ()
    """Settings for which None is a value of its own after ``resolve``."""
    colour: ClassVar[str] = "0.3"
    """In every figure, as matplotlib names colours."""
    follows_recipe: ClassVar[bool] = False
    """Whether a recipe (atomlib.recipes) fills in settings: those of another paper stay its own."""
    disagreements: ClassVar[Mapping[str, Change]] = {}
    """What sources of this method alone differ in: changes by name, as in atomlib.recipes."""

    ipc: Positive = Field(default=1, description="synthetic images per class")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="of all that is drawn"
    )
    variant: VariantName = Field(
        default="", description="a name, for tables and files, of settings other than the method's"
    )
    zca: preprocess.ZCA | None = Field(
        default=None,
        description="ZCA whitening, true fitted on normalised images, 'unit' on images in [0, 1]; "
        "None is true for CIFAR only",
    )

    @property
    def length(self) -> int:
        """Iterations of a whole run; 0 for a method that chooses real images."""
        return 0

    def work(self, data: ImageData) -> int:
        """Floating point operations of a whole run of a resolved method, as far as they can be
        counted before it; 0 where nothing is trained or learned."""
        return 0

    def resolve(self, data: ImageData) -> Self:
        """The same method with every None filled in for ``data`` and checked against it.

        Raises SettingError where the data cannot serve: IPC above the smallest class, say.
        """
        if self.model != "convnet":
            raise SettingError(
                f"model is {self.model!r}; allowed for distillation: 'convnet'; other networks "
                "serve evaluation"
            )
        smallest, name = smallest_class(data)
        if self.ipc > smallest:
            raise SettingError(
                f"ipc is {self.ipc}; allowed: 1 to {smallest}, the images of the smallest class "
                f"({name!r}) of {data.name}"
            )
        return self.but(
            depth=default_depth(data.image_size) if self.depth is None else self.depth,
            zca=data.zca if self.zca is None else self.zca,
        )

    def rows(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> Int[Tensor, "k ipc"]:
        """Training rows of each class that the images start from: drawn without replacement.

        The draw depends on the seed only, so methods compared at one seed start alike.
        """
        rows, present = rows_by_class(data)
        score = torch.rand(rows.shape, generator=stream(self.seed, "init"))
        score = score.masked_fill(~present, -1.0)
        return rows.gather(1, score.topk(self.ipc, dim=1).indices)

    def start(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> Float[Tensor, "k ipc c s s"]:
        """Network inputs that a resolved method starts from: those of its ``rows``."""
        chosen = self.rows(data, device, progress=progress)
        _check_rows(chosen, self, data)
        # Transformed by themselves, so that a random baseline needs no transform of the full data.
        pixels = data.train_images[chosen.flatten()].to(device)
        images = preprocess.fitted(data, self.zca, device)(pixels)
        return images.unflatten(0, (data.num_classes, self.ipc))

    def check_room(self, data: ImageData, device: torch.device) -> None:
        """Raise SettingError, before any work, for a run that ``device`` has no memory for."""

    def learner(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> "Learner | None":
        """The distillation of a resolved method, at its start; None where the start is the set."""
        return None

    def at(self, iteration: int) -> Self:
        """The settings of the set that is there after so many iterations of this run."""
        if iteration == self.length:
            return self
        variant = ".".join(filter(None, (self.variant, f"it{iteration}")))
        return self.but(iterations=iteration, variant=variant)

    def recorded(self) -> dict[str, Any]:
        """The settings as a file keeps them, which ``from_json`` reads."""
        return self.model_dump(mode="json")

    def unset(self) -> list[str]:
        """Settings that ``resolve`` would still fill in."""
        return [key for key, value in self if value is None and key not in self.may_stay_none]

    def advice(self) -> str:
        """What to lower where the loss, or the images, are no longer numbers."""
        return "try a smaller learning rate"


class Learner:
    """A distillation under way: the tensors that are learned, and their optimiser (SGD).

    An *iteration* is one network's life, however many image steps it has: ``life`` says them. What
    the learned tensors stand for as images is ``images``.
    """

    def __init__(
        self,
        learned: Mapping[str, Tensor],
        execution: Execution,
        *,
        rates: Mapping[str, float],
        momentum: float,
        weight_decay: float = 0.0,
    ):
        self.learned = {name: tensor.requires_grad_() for name, tensor in learned.items()}
        self.execution = execution
        groups = [{"params": [tensor], "lr": rates[name]} for name, tensor in self.learned.items()]
        self.optimizer = torch.optim.SGD(
            groups, lr=next(iter(rates.values())), momentum=momentum, weight_decay=weight_decay
        )

    def life(self) -> Iterator[Float[Tensor, ""]]:
        """One fresh network: yields the loss of each image step.

        At each yield the gradient of every learned tensor is in its ``grad``; when the generator
        goes on, they have made their step.
        """
        raise NotImplementedError

    def generators(self) -> dict[str, torch.Generator]:
        """Every random generator that later iterations draw from, by name."""
        raise NotImplementedError

    def images(self) -> Float[Tensor, "k ipc c s s"]:
        """Network inputs that the learned tensors stand for, without gradient."""
        return self.learned["images"].detach()

    def extras(self) -> dict[str, float]:
        """Numbers that go with the finished set, such as a learned rate."""
        return {}

    def iterate(self) -> Float[Tensor, ""]:
        """One iteration; its loss, the mean over its image steps."""
        losses = []
        with self.execution.step():
            for loss in self.life():
                self.optimizer.step()
                losses.append(loss)
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def state(self) -> dict[str, Tensor]:
        """All that the iterations to come depend on, between two of them."""
        state: dict[str, Tensor] = dict(self.learned)
        for name, tensor in self.learned.items():
            momentum = self.optimizer.state[tensor].get("momentum_buffer")
            if momentum is not None:
                state[f"momentum {name}"] = momentum
        return state | {f"random {name}": g.get_state() for name, g in self.generators().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` gave."""
        for name, tensor in self.learned.items():
            with torch.no_grad():
                tensor.copy_(state[name])
            if f"momentum {name}" in state:
                momentum = state[f"momentum {name}"].to(tensor.device)
                self.optimizer.state[tensor]["momentum_buffer"] = momentum
        for name, generator in self.generators().items():
            generator.set_state(state[f"random {name}"])


@dataclass(frozen=True)
class UnknownMethod:
    """What a file says of a method that is not known here: its settings as they stand.

    Nothing is imported by a name found in a file; who wants such a set made again passes the class.
    """

    name: str
    settings: dict[str, Any]

    def __post_init__(self):
        types = {"ipc": int, "seed": int, "variant": str, "zca": bool}
        if self.settings.get("zca") in ("unit", "computed"):  # its other forms (preprocess.ZCA)
            del types["zca"]
        wrong = [key for key, kind in types.items() if type(self.settings.get(key)) is not kind]
        if (
            wrong
            or self.settings["ipc"] < 1
            or not re.fullmatch(NAME, self.name)
            or not re.fullmatch(VARIANT, self.settings["variant"])  # part of a file's name
            or len(self.settings["variant"]) > 100
        ):
            raise ValueError(f"its method is {shown(self.name)} with {shown(self.settings)}")

    @property
    def label(self) -> str:
        return self.name

    @property
    def ipc(self) -> int:
        return self.settings["ipc"]

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def variant(self) -> str:
        return self.settings["variant"]

    @property
    def zca(self) -> preprocess.ZCA:
        return self.settings["zca"]

    @property
    def recipe(self) -> str:
        return self.settings.get("recipe", "text")

    @property
    def length(self) -> int:
        return self.settings.get("iterations", 0)

    def recorded(self) -> dict[str, Any]:
        """As ``Method.recorded``."""
        return self.settings

    def unset(self) -> list[str]:
        """As ``Method.unset``: nobody here knows which may stay None."""
        return []


def _check_rows(rows: object, method: Method, data: ImageData) -> None:
    """Raise SettingError unless ``rows`` are as ``Method.rows`` has them: an image's place is its
    label in the set."""
    shape = data.num_classes, method.ipc
    if not isinstance(rows, Tensor):
        gave = shown(rows)
    elif rows.dtype != torch.long or tuple(rows.shape) != shape:
        gave = f"{rows.dtype} {tuple(rows.shape)}"
    elif int(rows.min()) < 0 or int(rows.max()) >= len(data.train_labels):
        gave = f"rows from {int(rows.min())} to {int(rows.max())}"
    elif not torch.equal(data.train_labels[rows], torch.arange(shape[0])[:, None].expand(shape)):
        gave = "images of other classes"
    else:
        return
    raise SettingError(
        f"rows of {type(method).__name__} gave {gave}; allowed: torch.int64 {shape}, for each "
        f"class ipc of its training rows, which are 0 to {len(data.train_labels) - 1}"
    )


def smallest_class(data: ImageData) -> tuple[int, str]:
    """Number of training images of the smallest class, and its name."""
    return min((count, name) for name, count in data.class_counts.items())
