"""CAFE: aligned features of every block, and a network's own classes told apart by the synthetic.

With M(f) = sum_k ||mean f(real_k) - mean f(synthetic_k)||^2, the outputs R_i of all real images,
their classes y_i, and s_k the mean output of the synthetic images of class k,

    L = sum_{l<N} 0.1 M(f_l) + 1 M(f_N) + 2 M(output) + 0.01 L_disc
    L_disc = sum_i CE((<R_i, s_1>, ..., <R_i, s_K>), y_i)

over the maps f_l of blocks 1 to N. One iteration, a network's life: draw a fresh network; then
repeat: one image step, and epochs on the synthetic images. Accuracy on training images decides when
to stop: with the last ten accuracies after image steps within 0.04 of each other the life ends,
with the last ten after epochs more than 0.03 apart the next image step comes.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from atomlib.augmentation import Draw, DSAConfig
from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError, shown
from atomlib.methods.feature_matching import (
    ClassMeans,
    FeatureMatcher,
    FeatureMatching,
    class_means,
    matching_loss,
)
from atomlib.methods.inner_training import InnerTraining, TrainsWithin
from atomlib.methods.learned_images import Start, class_chunks, part_of
from atomlib.methods.method import smallest_class
from atomlib.models.build import operations, reset_parameters
from atomlib.recipes import NOT_AUGMENTED, Change
from atomlib.settings import MOST, Fraction, Positive, Rate, Weight

HALVED_AFTER = (0.6, 0.8, 0.9)
"""Of the lives: 1200, 1600 and 1800 of the official code's 2000."""


class FeatureAlignment(TrainsWithin, FeatureMatching):
    """The settings of CAFE, with augmentation or without; defaults are the official code's.

    That code has settings for CIFAR-10 at IPC 10 only: at every other they are these as well.
    """

    follows_recipe: ClassVar[bool] = False
    # When a life ends: the paper's rule is read either way, and the official code adds a leak.
    disagreements: ClassVar[Mapping[str, Change]] = {
        "leak": {"settings": {"leak": True}},
        "settled": {"settings": {"inner_rule": "settled"}},
    }

    iterations: Annotated[int, Field(ge=0, le=MOST)] = Field(
        default=2000, description="random networks, some ten steps on the images each"
    )
    real_batch: Positive = Field(
        default=256,
        description="real images per class and image step; capped at the smallest class",
    )
    init: Start = Field(default="noise", description="what the images start from")
    image_lr: Rate = Field(default=0.1, description="SGD on images, at first")
    zca: bool = Field(default=False, description="ZCA whitening")
    loss_scale: ClassVar[float] = 1.0

    layer_weights: tuple[Weight, ...] | None = Field(
        default=None,
        strict=False,
        description="of each block's maps; None is 0.1 for all but the last, 1 for the last",
    )
    output_weight: Weight = Field(
        default=2.0, description="of the output, which the published loss has twice"
    )
    discrimination: Weight = Field(default=0.01, description="weight of L_disc")
    halve_after: tuple[Annotated[int, Field(ge=0, le=MOST)], ...] | None = Field(
        default=None,
        strict=False,
        description="iterations after which the rate of SGD on images is halved; None is 60, 80 "
        "and 90 % of all",
    )
    query: Positive = Field(
        default=128,
        description="training images per class whose accuracy decides when to stop; capped at the "
        "smallest class",
    )
    window: Annotated[int, Field(ge=2, le=MOST)] = Field(
        default=10, description="accuracies that a stopping rule looks at"
    )
    outer_spread: Fraction = Field(
        default=0.04, description="of those after image steps, below which a life ends"
    )
    inner_spread: Fraction = Field(
        default=0.03, description="of those after epochs, above which the next image step comes"
    )
    inner_rule: Literal["moving", "settled"] = Field(
        default="moving",
        description="epochs end while accuracy still moves, as in the official code, or once it "
        "has settled",
    )
    leak: bool = Field(
        default=False,
        description="add the accuracy before, divided by the number of classes, to each, as the "
        "official code does",
    )
    most_steps: Positive = Field(default=60, description="image steps of a life, at most")
    most_epochs: Positive = Field(default=100, description="epochs between image steps, at most")

    def resolve(self, data: ImageData) -> Self:
        made = super().resolve(data)
        weights = self.layer_weights
        if weights is None:
            weights = (*(0.1 for _ in range(made.depth - 1)), 1.0)
        if len(weights) != made.depth:
            raise SettingError(
                f"layer_weights is {shown(weights)}; allowed: {made.depth} weights, one per block"
            )
        halve_after = self.halve_after
        if halve_after is None:
            halve_after = tuple(round(part * self.iterations) for part in HALVED_AFTER)
        query = min(self.query, smallest_class(data)[0])
        return made.but(layer_weights=weights, halve_after=halve_after, query=query)

    def terms(self, maps: list[Tensor], output: Tensor) -> list[tuple[float, Tensor]]:
        weighted = zip(self.layer_weights, maps, strict=True)
        return [*((w, rows.flatten(1)) for w, rows in weighted), (self.output_weight, output)]

    def learner(
        self, data: ImageData, device: torch.device, *, progress: bool = True
    ) -> "FeatureAligner | None":
        if not self.iterations:
            return None
        return FeatureAligner(self, data, device, self.start(data, device, progress=progress))

    def operations(self, data: ImageData) -> int:
        """Floating point operations of a life with the fewest image steps and epochs that the
        stopping rules allow; how many there are is found while running."""
        forward = operations(self, data)
        steps = min(self.window, self.most_steps)
        epochs = (steps - 1) * min(self.window, self.most_epochs)
        # A gradient-free forward of the synthetic images, then a forward and a backward to them.
        images = steps * (self.real_batch + 3 * self.ipc) + epochs * 3 * self.ipc
        queries = (steps + epochs) * self.query
        return forward * data.num_classes * (images + queries)


class CAFE(FeatureAlignment):
    """Match the maps of every block, and tell real images' classes by the synthetic."""

    name: ClassVar[str] = "cafe"
    label: ClassVar[str] = "CAFE"
    source: ClassVar[str] = "Wang et al., CVPR 2022, arXiv 2203.01531"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#f277b5"

    # CAFE without augmentation is evaluated without, too.
    disagreements: ClassVar[Mapping[str, Change]] = {
        **FeatureAlignment.disagreements,
        "plain": NOT_AUGMENTED,
    }

    dsa: ClassVar[DSAConfig] = DSAConfig(strategies=())


class CAFEDSA(FeatureAlignment):
    """CAFE under Siamese augmentation, which the paper lists beside it."""

    name: ClassVar[str] = "cafe_dsa"
    label: ClassVar[str] = "CAFE+DSA"
    source: ClassVar[str] = "Wang et al., CVPR 2022, arXiv 2203.01531"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#a23582"


def discrimination(
    real: Float[Tensor, "n f"], labels: Int[Tensor, "n"], class_means: Float[Tensor, "k f"]
) -> Float[Tensor, ""]:
    """L_disc: cross entropy, summed, of real outputs classified by synthetic class means.

    Raises SettingError unless there is one label per row, each a row of ``class_means``.
    """
    if real.shape != (len(labels), class_means.shape[-1]):
        raise SettingError(
            f"real has the shape {tuple(real.shape)}; allowed: one row for each of "
            f"{len(labels)} labels, as long as class_means' {class_means.shape[-1]}"
        )
    return F.cross_entropy(real @ class_means.T, labels, reduction="sum")


class StoppingRule:
    """The spread of the last ``window`` accuracies, with the official code's leak or without."""

    def __init__(self, window: int, classes: int, leak: bool):
        self.last: deque[float] = deque(maxlen=window)
        self.share = 1 / classes if leak else 0.0

    def spread(self, accuracy: float) -> float | None:
        """After one more; None while there are not enough."""
        before = self.last[-1] if self.last else 0.0
        self.last.append(accuracy + self.share * before)
        full = len(self.last) == self.last.maxlen
        return max(self.last) - min(self.last) if full else None


COUNTED = ("lives", "image steps", "lives cut", "epochs", "epochs cut")
"""What is counted: how often there was a life, a step and an epoch, and how often a cap cut a life
or the epochs after a step short."""


class FeatureAligner(FeatureMatcher):
    """The distillation of CAFE.

    L_disc couples the classes through s, yet its gradient by s needs s and R only. So one forward
    without gradient gives s, and each chunk of classes then adds <s_chunk, dL_disc/ds_chunk> to its
    loss: the same gradient, in pieces.
    """

    def __init__(
        self,
        method: FeatureAlignment,
        data: ImageData,
        device: torch.device,
        start: Float[Tensor, "k ipc c s s"],
    ):
        super().__init__(method, data, device, start)
        classes = torch.arange(data.num_classes, device=device)
        self.labels = classes.repeat_interleave(method.real_batch)
        self.asked = classes.repeat_interleave(method.query)
        self.inner = InnerTraining(method, self.network, data.num_classes, self.execution)
        self.query_chunks = class_chunks(data, method, device, method.query)
        self.counts = torch.zeros(len(COUNTED), dtype=torch.long)
        self._centres = self.execution.compiled(self._class_means)
        self._scores = self.execution.compiled(self._class_scores)

    def life(self) -> Iterator[Float[Tensor, ""]]:
        method, images = self.method, self.learned["images"]
        self._set_rate()
        self._count("lives")
        reset_parameters(self.network, self.networks)
        rule = self._rule()
        for step in range(method.most_steps):
            with self.execution.step():
                loss = self.matched(images)
            yield loss
            self._count("image steps")
            spread = rule.spread(self.query())
            if spread is not None and spread < method.outer_spread:
                return
            if step + 1 < method.most_steps:
                self._train(images)
        self._count("lives cut")

    def _train(self, images: Tensor) -> None:
        """Epochs until accuracy moves, or has settled."""
        method, rule = self.method, self._rule()
        for _ in range(method.most_epochs):
            self.inner.epoch(images)
            self._count("epochs")
            spread = rule.spread(self.query())
            if spread is None:
                continue
            moves = spread > method.inner_spread
            if moves if method.inner_rule == "moving" else not moves:
                return
        self._count("epochs cut")

    def matched(self, images: Float[Tensor, "k ipc c s s"]) -> Float[Tensor, ""]:
        drawn = self.drawn()
        *real, outputs = self.real_side(drawn)
        with torch.no_grad():
            pieces = [self._centres(images[c], part_of(drawn, c)) for c in self.synthetic_chunks]
        centres = self._joined(pieces).requires_grad_()
        coupled = self.method.discrimination * discrimination(outputs, self.labels, centres)
        (pull,) = torch.autograd.grad(coupled, centres)
        loss = self.in_chunks(
            images,
            lambda part, chunk: self._loss(
                part, part_of(drawn, chunk), [term[chunk] for term in real], pull[chunk]
            ),
        )
        return loss + coupled.detach()

    @torch.no_grad()
    def query(self) -> float:
        """Share right of training images drawn anew, not augmented."""
        indices = self.sampler.draw(self.method.query)
        self.network.eval()
        with self.execution.step():
            found = [
                self._scores(self.sampler.images[indices[chunk]]).argmax(dim=1)
                for chunk in self.query_chunks
            ]
        self.network.train()
        return (torch.cat(found) == self.asked).double().mean().item()

    def generators(self) -> dict[str, torch.Generator]:
        return {**super().generators(), "inner": self.inner.generator}

    def extras(self) -> dict[str, float]:
        """How long lives were, and which share of them, and of the trainings, a cap cut short."""
        lives, steps, lives_cut, epochs, epochs_cut = self.counts.tolist()
        trainings = max(1, steps - lives)  # none after the last step of a life
        return {
            "image steps per life": steps / max(1, lives),
            "epochs per image step": epochs / trainings,
            "lives cut": lives_cut / max(1, lives),
            "epochs cut": epochs_cut / trainings,
        }

    def state(self) -> dict[str, Tensor]:
        return {**super().state(), "counts": self.counts}

    def restore(self, state: dict[str, Tensor]) -> None:
        super().restore(state)
        self.counts.copy_(state["counts"])

    def _rule(self) -> StoppingRule:
        return StoppingRule(self.method.window, self.data.num_classes, self.method.leak)

    def _count(self, what: str) -> None:
        self.counts[COUNTED.index(what)] += 1

    def _set_rate(self) -> None:
        done = int(self.counts[COUNTED.index("lives")])
        halvings = sum(done >= after for after in self.method.halve_after)
        self.optimizer.param_groups[0]["lr"] = self.method.image_lr * 0.5**halvings

    def _real_means(self, images: Tensor, drawn: Draw | Tensor | None) -> ClassMeans:
        """Class means of every term, and the outputs themselves, which are the last term."""
        images = self._augmented(self.sampler.as_inputs(images), drawn)
        with self.execution.autocast():
            maps, output = self.network.features(images.flatten(0, 1))
            _, means = class_means(self.method, maps, output, len(images))
        return [*means, output.float() if output.dtype.itemsize < 4 else output]

    def _class_means(self, images: Tensor, drawn: Draw | Tensor | None) -> Float[Tensor, "k f"]:
        return self._means(images, drawn)[1][-1]

    def _distance(
        self,
        images: Tensor,
        drawn: Draw | Tensor | None,
        real: ClassMeans,
        pull: Float[Tensor, "k f"],
    ) -> Tensor:
        weights, synthetic = self._means(images, drawn)
        coupled = (synthetic[-1] * pull).sum()
        # The coupled term's value is known; here it gives its gradient only.
        matched = matching_loss(weights, real, synthetic, self.method.loss_scale)
        return matched + (coupled - coupled.detach())

    def _class_scores(self, images: Tensor) -> Float[Tensor, "n k"]:
        with self.execution.autocast():
            return self.network(self.sampler.as_inputs(images).flatten(0, 1))
