"""The distillation loop: learns the synthetic images of ATOM, DataDAM and DM.

One iteration: draw a fresh random network; draw B real images per class; draw one DSA strategy per
class; signatures of the real images (no gradient) and of the synthetic ones; a step of SGD on the
synthetic pixels along the gradient of the matching loss.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from tqdm import tqdm

from atomlib import preprocess
from atomlib.augmentation import Draw, augment, draw
from atomlib.config import BY_FEATURES, DistillConfig
from atomlib.coresets import choose
from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.distilled_set import DistilledSet, by_class, summarise
from atomlib.errors import SettingError, check_kind
from atomlib.identity import code, kind_of
from atomlib.losses import Signature, matching_loss, signature
from atomlib.models.build import check_room, network_for, operations, reset_parameters
from atomlib.randomness import stream
from atomlib.runtime.bookmark import Bookmark
from atomlib.runtime.device import Execution, pick_device
from atomlib.runtime.provenance import versions


class DivergedError(SettingError):
    """The loss, or the images, are no longer numbers."""


def distill(
    data: ImageData,
    config: DistillConfig | None = None,
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
    resume: str | Path | Bookmark | None = None,
) -> DistilledSet:
    """Make a distilled set of ``data``.

    With ``resume``, a file, a run that was killed resumes from its bookmark; see
    ``runtime.bookmark``. The same arguments give the same bytes on one machine's CPU. ``device``
    None is the GPU where there is one; there, gradients are summed in no fixed order. Raises
    SettingError, before any work, for settings that the data cannot serve, and DivergedError at the
    first loss that is not finite.
    """
    *_, made = trajectory(data, config, device=device, progress=progress, resume=resume)
    return made


def trajectory(
    data: ImageData,
    config: DistillConfig | None = None,
    at: Sequence[int] = (),
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
    resume: str | Path | Bookmark | None = None,
) -> Iterator[DistilledSet]:
    """The distilled set after each number of iterations in ``at``, then after all of them.

    One run makes them all. What is there after k of them is the set that ``iterations=k`` makes, so
    a checkpoint is a DistilledSet with that config (its variant ends in "it<k>"). A bookmark
    ``resume`` that is past an iteration in ``at`` is ignored. Raises as ``distill`` does, and
    SettingError for an iteration that the run does not reach.
    """
    check_kind("data", data, ImageData, "what load_dataset returns")
    config = DistillConfig() if config is None else config
    check_kind("config", config, DistillConfig, "a DistillConfig, or None for the defaults")
    config = config.resolve(data)
    for iteration in at:
        if not 0 <= iteration <= config.iterations:
            raise SettingError(
                f"at has {iteration}; allowed: 0 to {config.iterations}, the iterations of the run"
            )
    device = pick_device(device)
    if config.iterations:
        # The most images that go through the network at once, and then back.
        chunk = class_chunks(data, config, device, config.ipc)[0]
        check_room(config, data, device, (chunk.stop - chunk.start) * config.ipc)
    return _run(data, config, {*at} - {config.iterations}, device, progress, resume)


def _run(
    data: ImageData,
    config: DistillConfig,
    at: set[int],
    device: torch.device,
    progress: bool,
    resume: str | Path | Bookmark | None,
) -> Iterator[DistilledSet]:
    images = initial_images(data, config, device)
    if not config.iterations:
        yield _set(images, [], data, config, device)
        return
    step = Step(data, config, device)
    optimizer = torch.optim.SGD(
        [images.requires_grad_()],
        lr=config.image_lr,
        momentum=config.image_momentum,
        weight_decay=config.image_weight_decay,
    )
    run = f"{config.model_dump_json()} {data.fingerprint} {step.execution}"
    kept = Bookmark.of(resume, run)
    losses = _go_on(kept, images, optimizer, step, at)
    if 0 in at:
        yield _set(images, losses, data, as_checkpoint(config, 0), device)
    recent: list[Tensor] = []
    # Reading a loss makes the CPU wait for a GPU, so there it is done now and then.
    every = 1 if device.type == "cpu" else 50
    name = f"{config.method} {data.name} ipc {config.ipc}"
    quiet = {} if progress else {"disable": True}  # else TQDM_DISABLE decides
    steps = range(len(losses) + 1, config.iterations + 1)
    with tqdm(total=config.iterations, initial=len(losses), desc=name, unit="it", **quiet) as bar:
        for iteration in steps:
            recent.append(step(images))
            optimizer.step()
            if iteration % every == 0 or iteration in {*at, config.iterations}:
                losses += torch.stack(recent).tolist()
                recent.clear()
                _check_finite(losses, every, config)
                bar.set_postfix(loss=f"{losses[-1]:.4g}", refresh=False)
            bar.update()
            if iteration in at:
                yield _set(images, losses, data, as_checkpoint(config, iteration), device)
            if not recent and kept.due():
                state = _state(images, losses, optimizer, step)
                kept.write(state, iteration, config.iterations)
    yield _set(images, losses, data, config, device)
    kept.end()  # after the set is taken, and kept by whoever took it


def _state(
    images: Tensor, losses: list[float], optimizer: torch.optim.SGD, step: "Step"
) -> dict[str, Tensor]:
    """The state that the remaining iterations depend on."""
    state = {"images": images, "losses": torch.tensor(losses, dtype=torch.float64)}
    momentum = optimizer.state[images].get("momentum_buffer")
    if momentum is not None:
        state["momentum"] = momentum
    return state | {f"random {name}": g.get_state() for name, g in step.generators().items()}


def _go_on(
    kept: Bookmark,
    images: Tensor,
    optimizer: torch.optim.SGD,
    step: "Step",
    at: set[int],
) -> list[float]:
    """Restore the state of a bookmark; returns the losses until then, none for a new run."""
    begun = _state(images, [], optimizer, step)
    begun.pop("losses")  # grows
    state = kept.read(like=begun)
    if not state or any(iteration <= len(state["losses"]) for iteration in at):
        kept.before = 0.0
        return []
    with torch.no_grad():
        images.copy_(state["images"])
    if "momentum" in state:
        optimizer.state[images]["momentum_buffer"] = state["momentum"].to(images.device)
    for name, generator in step.generators().items():
        generator.set_state(state[f"random {name}"])
    return state["losses"].tolist()


def evenly(iterations: int, count: int) -> list[int]:
    """The iterations of ``count`` checkpoints, evenly spaced, the last iteration included."""
    if count < 1:
        raise SettingError(f"checkpoints is {count}; allowed: 1 or more")
    return sorted({round(iterations * part / count) for part in range(1, count + 1)})


def as_checkpoint(config: DistillConfig, iteration: int) -> DistillConfig:
    """The config of what is there after ``iteration`` of a config's iterations."""
    if iteration == config.iterations:
        return config
    return config.but(
        iterations=iteration, variant=".".join(filter(None, (config.variant, f"it{iteration}")))
    )


def _set(
    images: Tensor,
    losses: list[float],
    data: ImageData,
    config: DistillConfig,
    device: torch.device,
) -> DistilledSet:
    trained = images.detach().flatten(0, 1)
    if not trained.isfinite().all():
        raise DivergedError(
            f"images are not finite after step {config.iterations}; {_advice(config)}"
        )
    pixels = preprocess.fitted(data, config.zca, device).inverse(trained).clamp(0, 1)
    return DistilledSet(
        images=pixels.cpu(),
        trained=trained.cpu().clone(),  # the loop goes on in the same memory
        labels=by_class(data.num_classes, config.ipc),
        config=config,
        data_name=data.name,
        data_fingerprint=data.fingerprint,
        class_names=data.class_names,
        versions=versions(),
        code=code(kind_of(config.method)),
        history=summarise(losses),
    )


class Step:
    """One iteration's loss and its gradient by the synthetic images; draws afresh at each call.

    Classes go through the network in chunks, real and synthetic ones alike, so that memory
    grows with a chunk and not with the number of classes. The loss is a sum over classes, and
    so is its gradient.
    """

    def __init__(self, data: ImageData, config: DistillConfig, device: torch.device):
        self.config, self.data = config, data
        self.matching = config.matching()
        self.network = network_for(config, data, stream(config.seed, "network")).to(device)
        self.network.requires_grad_(False).train()
        self.networks = stream(config.seed, "networks", device=device)
        self.draws = stream(config.seed, "dsa", device=device)
        self.sampler = RealSampler(data, config, device)
        self.execution = Execution(
            config, device, step_operations(config, data) * config.iterations
        )
        self.real_chunks = class_chunks(data, config, device, config.real_batch)
        self.synthetic_chunks = class_chunks(data, config, device, config.ipc)
        self._real = self.execution.compiled(self._real_signature)
        self._loss = self.execution.compiled(self._distance)

    def __call__(self, images: Float[Tensor, "k ipc c s s"]) -> Float[Tensor, ""]:
        """The loss; where ``images`` ask for a gradient, it is in their ``grad`` afterwards."""
        self.execution.begin_step()
        reset_parameters(self.network, self.networks)
        strategies = self.config.dsa.strategies
        drawn = None
        if strategies:
            drawn = draw(self.data.num_classes, self.data.image_size, self.config.dsa, self.draws)
        indices = self.sampler.draw()
        with torch.no_grad():
            pieces = [
                self._real(self.sampler.images[indices[chunk]], _part(drawn, chunk))
                for chunk in self.real_chunks
            ]
            real = [torch.cat(term) for term in zip(*pieces, strict=True)]
        losses, gradients = [], []
        for chunk in self.synthetic_chunks:
            part = images[chunk].detach().requires_grad_(images.requires_grad)
            loss = self._loss(part, _part(drawn, chunk), [term[chunk] for term in real])
            losses.append(loss.detach())
            if images.requires_grad:
                loss.backward()
                gradients.append(part.grad)
        if gradients:
            images.grad = torch.cat(gradients)
        return torch.stack(losses).sum()

    def generators(self) -> dict[str, torch.Generator]:
        """Its random generators: for networks, DSA and real images."""
        return {"networks": self.networks, "dsa": self.draws, "real": self.sampler.generator}

    def _real_signature(self, images: Tensor, drawn: Draw | None) -> Signature:
        return self._signature(self.sampler.as_inputs(images), drawn)

    def _signature(self, images: Float[Tensor, "k m c s s"], drawn: Draw | None) -> Signature:
        if drawn is not None:
            images = augment(images, drawn, self.config.dsa)
        with self.execution.autocast():
            return signature(self.network.features, images, self.matching)

    def _distance(self, images: Tensor, drawn: Draw | None, real: Signature) -> Tensor:
        return matching_loss(real, self._signature(images, drawn), self.matching)


def step_operations(config: DistillConfig, data: ImageData) -> int:
    """Floating point operations of one iteration: a forward of all images, and a backward, as much
    again, of the synthetic ones only. (Weights, which are not trained, get no gradient.)"""
    return operations(config, data) * data.num_classes * (config.real_batch + 2 * config.ipc)


class RealSampler:
    """The training images on the device, and which of them each iteration sees.

    Without ZCA they are kept as uint8, a quarter of float32; with it, as network inputs, because
    whitening costs a fifth of the network's own arithmetic.
    """

    def __init__(self, data: ImageData, config: DistillConfig, device: torch.device):
        self.transform = None if config.zca else preprocess.fitted(data, False, device)
        if config.zca:
            self.images = preprocess.training_images(data, True, device)
        else:
            self.images = data.train_images.to(device)
        self.rows, self.present = (t.to(device) for t in rows_by_class(data))
        self.batch = config.real_batch
        self.generator = stream(config.seed, "real", device=device)

    def draw(self) -> Int[Tensor, "k b"]:
        """B rows per class, drawn without replacement: those of the largest random numbers."""
        score = torch.rand(self.rows.shape, generator=self.generator, device=self.rows.device)
        score = score.masked_fill(~self.present, -1.0)
        return self.rows.gather(1, score.topk(self.batch, dim=1).indices)

    def as_inputs(self, images: Num[Tensor, "*shape c s s"]) -> Float[Tensor, "*shape c s s"]:
        """Some of ``images`` as network inputs."""
        return images if self.transform is None else self.transform(images)


def initial_images(
    data: ImageData, config: DistillConfig, device: torch.device
) -> Float[Tensor, "k ipc c s s"]:
    """Where the synthetic images start: real ones, or noise.

    Methods "herding" and "kcenter" choose them (atomlib.coresets); for all others they are drawn
    without replacement. The draw depends on the seed only, so methods compared at one seed start
    alike, and method "random" is the start itself.
    """
    generator = stream(config.seed, "init")
    if config.method in BY_FEATURES:
        chosen = choose(data, config, device)
    elif config.init == "noise":
        side = data.image_size
        shape = (data.num_classes, config.ipc, data.channels, side, side)
        return torch.randn(shape, generator=generator).to(device)
    else:
        rows, present = rows_by_class(data)
        score = torch.rand(rows.shape, generator=generator).masked_fill(~present, -1.0)
        chosen = rows.gather(1, score.topk(config.ipc, dim=1).indices)
    # Only these are transformed, so that Random needs no transform of the full data.
    pixels = data.train_images[chosen.flatten()].to(device)
    images = preprocess.fitted(data, config.zca, device)(pixels)
    return images.unflatten(0, (data.num_classes, config.ipc))


def class_chunks(
    data: ImageData, config: DistillConfig, device: torch.device, images_a_class: int
) -> list[slice]:
    """The classes as slices, one for each forward pass of ``images_per_class`` images per class.

    On a CPU a chunk's activations stay in its caches (256 images of 32 x 32); on a GPU it only
    bounds memory. Chunks are equal, so that one compiled shape serves. Exact for norms within an
    image; BatchNorm's statistics are those of all images in a forward, so it gets all classes at
    once, whatever memory that takes.
    """
    pixels = images_a_class * data.image_size**2
    room = (1 << 18) if device.type == "cpu" else (1 << 23)
    most = max(1, room // pixels)
    if config.norm == "batch":
        most = data.num_classes
    size = max(n for n in range(1, data.num_classes + 1) if data.num_classes % n == 0 and n <= most)
    return [slice(k, k + size) for k in range(0, data.num_classes, size)]


def _part(drawn: Draw | None, chunk: slice) -> Draw | None:
    return None if drawn is None else Draw(*(value[chunk] for value in drawn))


def _check_finite(losses: list[float], new: int, config: DistillConfig) -> None:
    for iteration in range(max(0, len(losses) - new), len(losses)):
        if not math.isfinite(losses[iteration]):
            raise DivergedError(
                f"loss is {losses[iteration]} at iteration {iteration + 1}; {_advice(config)}"
            )


def _advice(config: DistillConfig) -> str:
    return (
        f"try a smaller image_lr (now {config.image_lr:g}) or loss_scale "
        f"(now {config.loss_scale:g})"
    )
