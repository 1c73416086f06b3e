"""The contract of a method, as one call: what distill, tables and a killed run rely on."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from atomlib import preprocess
from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError
from atomlib.methods.method import Method
from atomlib.runtime.bookmark import Bookmark

QUICK = {
    "ipc": 2,
    "width": 8,
    "iterations": 4,
    "real_batch": 4,
    "feature_epochs": 1,
    "init_epochs": 1,
    "outer": 2,
    "inner": 1,
    "window": 2,
    "most_steps": 3,
    "most_epochs": 2,
    "student_steps": 2,
    "expert_epochs": 1,
    "latest_start": 2,
    "experts": 2,
    "rate_lr": 1e-7,
    "decoder_width": 8,
    "decoder_epochs": 1,
    "fit_steps": 2,
    "precision": "float32",
    "compile": "off",
}
"""What a class is tried with, as far as it has these settings."""

CPU = torch.device("cpu")


def check_method(method: type[Method] | Method, data: ImageData | None = None) -> None:
    """Raise AssertionError, in one sentence, where a method breaks the contract.

    ``method`` is a class, tried with few iterations and a small network, or an object, tried as
    it is; on ``data``, or 16 images of noise in three classes. Checked on the CPU: name, label,
    source and revision; settings that a file gives back; a run that distill makes without a
    complaint; one seed, one result, whatever PyTorch's own generator; the start is Random's where
    ``init`` is "real", and a chosen set is real images of each class; a Learner's state is all of
    it; killed anywhere, a run ends with the same bytes.
    """
    kind = method if isinstance(method, type) else type(method)
    _check_words(kind)
    data = _noise() if data is None else data
    if isinstance(method, type):
        method = kind(**{key: value for key, value in QUICK.items() if key in kind.model_fields})
    _check_settings(method, data)
    method = method.resolve(data)
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        try:
            whole = _bytes(data, method, Path(folder), seed=1)
        except SettingError as error:
            raise AssertionError(f"{kind.__name__} cannot be run: {error}") from None
        if _bytes(data, method, Path(folder), seed=2) != whole:
            raise AssertionError(
                f"{kind.__name__} gives two results at one seed; draw from randomness.stream only"
            )
        _check_start(data, method)
        if method.learner(data, CPU, progress=False) is not None:
            _check_state(data, method)
            _check_kills(data, method, Path(folder), whole)


def _check_words(kind: type[Method]) -> None:
    from atomlib.methods import METHODS, find  # which import this module

    try:
        find(kind)
    except SettingError as error:
        raise AssertionError(str(error)) from None
    for part in ("label", "source"):
        text = getattr(kind, part)
        if not isinstance(text, str) or not text.strip():
            raise AssertionError(f"{kind.__name__}'s {part} is {text!r}; allowed: some words")
    others = [other.label for other in METHODS.values() if other is not kind]
    if kind.label in others:
        raise AssertionError(f"{kind.__name__}'s label {kind.label!r} is another method's")
    if type(kind.revision) is not int or kind.revision < 1:
        raise AssertionError(
            f"{kind.__name__}'s revision is {kind.revision!r}; allowed: an integer from 1"
        )


def _check_settings(method: Method, data: ImageData) -> None:
    kind, resolved = type(method), method.resolve(data)
    if resolved.unset():
        raise AssertionError(f"{kind.__name__}.resolve leaves {resolved.unset()[0]} None")
    if resolved.resolve(data) != resolved:
        raise AssertionError(f"{kind.__name__}.resolve changes settings that it has resolved")
    for one in (method, resolved):
        try:
            same = kind.from_json(json.dumps(one.recorded())) == one
        except (SettingError, TypeError, ValueError) as error:
            raise AssertionError(
                f"{kind.__name__}'s settings cannot be read from a file: {error}"
            ) from None
        if not same:
            raise AssertionError(f"{kind.__name__}'s settings are others when read from a file")


def _check_start(data: ImageData, method: Method) -> None:
    from atomlib.methods import RandomImages

    kind = type(method).__name__
    if getattr(method, "init", None) == "real":
        random = RandomImages(ipc=method.ipc, seed=method.seed).resolve(data)
        rows = random.rows(data, CPU, progress=False)
        pixels = data.train_images[rows.flatten()]
        expected = preprocess.fitted(data, method.zca, CPU)(pixels).unflatten(0, rows.shape)
        if not torch.equal(method.start(data, CPU, progress=False), expected):
            raise AssertionError(f"{kind} starts from other images than Random's at its seed")
    elif method.learner(data, CPU, progress=False) is None:
        rows = method.rows(data, CPU, progress=False)
        if len(rows.unique()) < rows.numel():
            raise AssertionError(f"{kind}.rows take an image twice")


def _check_state(data: ImageData, method: Method) -> None:
    kind = type(method).__name__
    first, second = (method.learner(data, CPU, progress=False) for _ in range(2))
    for _ in range(2):
        first.iterate()
    kept = _copy(first.state())
    second.restore(_copy(kept))
    if not _same(second.state(), kept):
        raise AssertionError(f"{kind}'s learner has another state than it was given by restore")
    losses = [learner.iterate() for learner in (first, second)]
    if not torch.equal(*losses) or not _same(first.state(), second.state()):
        raise AssertionError(
            f"{kind}'s learner, restored, goes on in another way: state lacks some"
        )


def _check_kills(data: ImageData, method: Method, folder: Path, whole: bytes) -> None:
    from atomlib.distill import trajectory

    kind = type(method).__name__
    for iteration in range(2, method.length):
        run = trajectory(
            data, method, (iteration,), device=CPU, progress=False, resume=_Often(folder / "cut")
        )
        next(run)
        run.close()  # before the bookmark of this iteration is written
        kept = _Often(folder / "cut")
        if _bytes(data, method, folder, seed=iteration, resume=kept) != whole:
            raise AssertionError(
                f"{kind} ends otherwise where it was killed in iteration {iteration}"
            )
        if not kept.found:
            raise AssertionError(
                f"{kind} starts anew after a kill in iteration {iteration}: its state has changed "
                "in shape or type"
            )


class _Often(Bookmark):
    """Written after each iteration."""

    found = False

    def due(self) -> bool:
        return True

    def read(self, like: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        state = super().read(like)
        self.found = bool(state)
        return state


def _bytes(
    data: ImageData, method: Method, folder: Path, *, seed: int, resume: Bookmark | None = None
) -> bytes:
    """The file of a set, made while PyTorch's own generator stands at ``seed``."""
    from atomlib.distill import distill

    torch.manual_seed(seed)
    made = distill(data, method, device=CPU, progress=False, resume=resume)
    return made.save(folder / "set.safetensors").read_bytes()


def _copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def _noise() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(torch.tensor([6, 5, 5]))
    shape = (len(labels), 3, 8, 8)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return ImageData("noise", images, labels, images[::3], labels[::3], ("one", "two", "three"))
