"""The distillation loop of every method: start, iterations, checkpoints, resumption after a kill.

What an iteration does is the method's own (atomlib.methods); here it is one call.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData
from atomlib.distilled_set import DistilledSet, by_class, summarise
from atomlib.errors import DivergedError, SettingError, check_kind, shown
from atomlib.methods import Learner, Method, find
from atomlib.runtime.bookmark import Bookmark, check_resume
from atomlib.runtime.device import free_memory, pick_device
from atomlib.runtime.progress import Bar
from atomlib.runtime.provenance import given, versions
from atomlib.runtime.torch_state import under_torch_defaults


def distill(
    data: ImageData,
    method: Method,
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
    resume: str | Path | Bookmark | None = None,
) -> DistilledSet:
    """Make a distilled set of ``data`` by a method, such as ``ATOM(ipc=1)``.

    With ``resume``, a file, a run that was killed resumes from its bookmark; see
    ``runtime.bookmark``. The same arguments give the same bytes on one machine's CPU. ``device``
    None is the GPU where there is one; there, gradients are summed in no fixed order. Raises
    SettingError, before any work, for settings that the data cannot serve, and DivergedError at the
    first loss that is not finite, or learned rate that is not positive.
    """
    *_, made = trajectory(data, method, device=device, progress=progress, resume=resume)
    return made


@under_torch_defaults
def trajectory(
    data: ImageData,
    method: Method,
    at: Sequence[int] = (),
    *,
    device: str | torch.device | None = None,
    progress: bool = True,
    resume: str | Path | Bookmark | None = None,
) -> Iterator[DistilledSet]:
    """The distilled set after each number of iterations in ``at``, then after all of them.

    One run makes them all. What is there after k of them is the set that ``iterations=k`` makes, so
    a checkpoint is a DistilledSet with those settings (its variant ends in "it<k>"). A bookmark
    ``resume`` that is past an iteration in ``at`` is ignored. Raises as ``distill`` does, and
    SettingError for an iteration that the run does not reach.
    """
    check_kind("data", data, ImageData, "what load_dataset returns")
    check_kind("method", method, Method, "an object of atomlib.methods, such as ATOM(ipc=1)")
    find(type(method))  # which refuses one without a name of its own
    method = method.resolve(data)
    if unset := method.unset():  # which no file could hold
        raise SettingError(
            f"{unset[0]} of method {method.name!r} is None, and its resolve leaves it so; allowed: "
            f"a value, or {unset[0]!r} in the class's may_stay_none"
        )
    check_iterations(at, method)
    check_resume(resume)
    device = pick_device(device)
    free_memory(device)
    method.check_room(data, device)
    return _run(data, method, {*at} - {method.length}, device, progress, resume)


def check_iterations(at: object, method: Method) -> None:
    """Raise SettingError unless ``at`` are iterations of the run of a resolved method."""
    check_kind("at", at, list | tuple | set | range, "a list of iterations")
    for iteration in at:
        if type(iteration) is not int or not 0 <= iteration <= method.length:
            raise SettingError(
                f"at has {shown(iteration)}; allowed: 0 to {method.length}, the iterations of the "
                "run"
            )


@under_torch_defaults
def _run(
    data: ImageData,
    method: Method,
    at: set[int],
    device: torch.device,
    progress: bool,
    resume: str | Path | Bookmark | None,
) -> Iterator[DistilledSet]:
    learner = method.learner(data, device, progress=progress)
    if learner is None:
        yield _set(method.start(data, device, progress=progress), [], {}, data, method, device)
        return
    about = method.name, method.model_dump_json(), data.fingerprint, method.revision
    run = f"{about} {learner.execution}"
    kept = Bookmark.of(resume, run, str(learner.execution))
    losses = _go_on(kept, learner, at)

    def made(iteration: int) -> DistilledSet:
        settings = method.at(iteration)
        kept.how = str(learner.execution)
        return _set(learner.images(), losses, learner.extras(), data, settings, device)

    if 0 in at:
        yield made(0)
    recent: list[Tensor] = []
    # Reading a loss makes the CPU wait for a GPU, so there it is done now and then.
    every = 1 if device.type == "cpu" else 50
    name = f"{method.name} {data.name} ipc {method.ipc}"
    steps = range(len(losses) + 1, method.length + 1)
    with Bar(total=method.length, initial=len(losses), desc=name, unit="it", shown=progress) as bar:
        for iteration in steps:
            recent.append(learner.iterate())
            due = kept.due()  # a network's life can take as long as many iterations
            if due or iteration % every == 0 or iteration in {*at, method.length}:
                losses += torch.stack(recent).tolist()
                _check_finite(losses, len(recent), method)
                recent.clear()
                bar.set_postfix(loss=f"{losses[-1]:.4g}", refresh=False)
            bar.update()
            if iteration in at:
                yield made(iteration)
            if due:
                kept.write(_state(learner, losses), iteration, method.length)
    yield made(method.length)
    kept.end()  # after the set is taken, and kept by whoever took it


def _state(learner: Learner, losses: list[float]) -> dict[str, Tensor]:
    return {**learner.state(), "losses": torch.tensor(losses, dtype=torch.float64)}


def _go_on(kept: Bookmark, learner: Learner, at: set[int]) -> list[float]:
    """Restore the state of a bookmark; returns the losses until then, none for a new run."""
    state = kept.read(like=learner.state())
    if not state or any(iteration <= len(state["losses"]) for iteration in at):
        kept.before = 0.0
        return []
    losses = state.pop("losses").tolist()
    learner.restore(state)
    return losses


def checkpoints(length: int, wanted: int | Sequence[int], *, start: bool = False) -> list[int]:
    """Iterations of a run whose sets are evaluated, in order, the last included.

    ``wanted`` is how many, evenly spaced, or which; those that the run does not reach are left out.
    With ``start``, those evenly spaced have the start, iteration 0, before them.
    Raises SettingError for fewer than one, and for negative iterations.
    """
    if isinstance(wanted, list | tuple):
        if any(type(iteration) is not int or iteration < 0 for iteration in wanted):
            raise SettingError(f"checkpoints is {shown(wanted)}; allowed: 0 or more each")
        return sorted({length, *(iteration for iteration in wanted if iteration < length)})
    if type(wanted) is not int or wanted < 1:
        raise SettingError(f"checkpoints is {shown(wanted)}; allowed: 1 or more, or a list")
    return sorted({round(length * part / wanted) for part in range(0 if start else 1, wanted + 1)})


def _set(
    images: Float[Tensor, "k ipc c s s"],
    losses: list[float],
    extras: dict[str, float],
    data: ImageData,
    method: Method,
    device: torch.device,
) -> DistilledSet:
    trained = images.detach().flatten(0, 1)
    if not trained.isfinite().all():
        raise DivergedError(f"images are not finite after step {method.length}; {method.advice()}")
    pixels = preprocess.fitted(data, method.zca, device).inverse(trained).clamp(0, 1)
    return DistilledSet(
        images=pixels.cpu(),
        trained=trained.cpu().clone(),  # the loop goes on in the same memory
        labels=by_class(data.num_classes, method.ipc),
        method=method,
        data_name=data.name,
        data_fingerprint=data.fingerprint,
        class_names=data.class_names,
        versions=versions(),
        revision=method.revision,
        given=given(method),
        history=summarise(losses),
        extras=extras,
    )


def _check_finite(losses: list[float], new: int, method: Method) -> None:
    for iteration in range(max(0, len(losses) - new), len(losses)):
        if not math.isfinite(losses[iteration]):
            raise DivergedError(
                f"loss is {losses[iteration]} at iteration {iteration + 1}; {method.advice()}"
            )
