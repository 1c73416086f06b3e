"""Labels as others store them: hard ones of any type, probabilities, or logits."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atomlib.errors import SettingError, check_choice
from atomlib.runtime.files import DamagedError

Kind = Literal["hard", "probabilities", "logits"]

KINDS: tuple[Kind, ...] = get_args(Kind)


def in_order(count: int, classes: int | None, ipc: int | None, name: str) -> Int[Tensor, "n"]:
    """Labels of images that come without: the same number of each class, class by class."""
    if classes is None and ipc and count % ipc == 0:
        classes = count // ipc
    if classes is None or count % classes or (ipc is not None and count != classes * ipc):
        of = "an unknown number of" if classes is None else classes
        raise SettingError(
            f"{name} has {count} images and no labels; allowed: labels beside it, or the same "
            f"number of images of each class, in order (here of {of} classes)"
        )
    return torch.arange(classes).repeat_interleave(count // classes)


def read(
    labels: Tensor, count: int, kind: Kind | None, name: str
) -> tuple[Int[Tensor, "n"] | Float[Tensor, "n k"], str]:
    """Hard labels, or probabilities by class, and in words what they were taken for.

    ``kind`` says what they are; None tells it from their rows. Raises DamagedError for what is
    neither, SettingError where ``kind`` does not fit.
    """
    if kind is not None:
        check_choice("labels", kind, KINDS)
    shape = tuple(labels.shape)
    if labels.is_complex() or labels.ndim not in (1, 2) or shape[0] != count or 0 in shape:
        raise DamagedError(
            f"labels of {name} are {labels.dtype} of shape {shape}; allowed: one number, or one "
            f"for each class, for each of {count} images"
        )
    values = labels.double()
    if not values.isfinite().all():
        raise DamagedError(f"labels of {name} are not finite; allowed: numbers")
    if labels.ndim == 2 and shape[1] > 1:
        return _soft(values, kind, name)
    if kind not in (None, "hard"):
        raise SettingError(
            f"labels is {kind!r}, but {name} has one number for each image; allowed: 'hard'"
        )
    hard = values.flatten().round()
    if not torch.equal(hard, values.flatten()) or hard.min() < 0 or hard.max() >= 1e6:
        raise DamagedError(
            f"labels of {name} go from {values.min():.6g} to {values.max():.6g}; allowed: whole "
            "numbers from 0"
        )
    return hard.long(), f"hard labels, stored as {str(labels.dtype).removeprefix('torch.')}"


def _soft(
    values: Float[Tensor, "n k"], kind: Kind | None, name: str
) -> tuple[Int[Tensor, "n"] | Float[Tensor, "n k"], str]:
    sums = values.sum(1)
    shares = bool((values >= -1e-6).all() and ((sums - 1).abs() < 1e-2).all())
    told = "" if kind else ", told from the rows"
    one_hot = shares and bool((values.amax(1) > 1 - 1e-6).all())
    if kind == "hard" or (kind is None and one_hot):
        return values.argmax(1), "hard labels, the largest of each row"
    if kind == "probabilities" and not shares:
        raise SettingError(
            "labels is 'probabilities', but rows do not have parts of 1; allowed: 'logits', 'hard'"
        )
    if kind is None and not shares and bool(((values >= 0) & (values <= 1)).all()):
        raise SettingError(
            f"labels of {name} are from 0 to 1 and rows sum to {sums.min():.3g} to "
            f"{sums.max():.3g}; allowed: rows that sum to 1, or labels 'logits' or 'hard' to say "
            "what they are"
        )
    if kind == "probabilities" or (kind is None and shares):
        soft = values.clamp_min(0)
        return (soft / soft.sum(1, keepdim=True)).float(), f"probabilities{told}"
    if kind is None and _of_two_values(values):
        return values.argmax(1), "hard labels, one-hot but for a factor and a constant"
    soft = values.softmax(1).float()
    return soft, f"logits{told}; the largest probability is {soft.amax(1).mean():.2f} on average"


def _of_two_values(values: Float[Tensor, "n k"]) -> bool:
    """Whether one entry of each row has one value, and all others another.

    KIP and FRePo store one-hot less 1/k so, FRePo divided by the root of k/10. Learned labels have
    many values.
    """
    low, high = values.min(), values.max()
    near = 1e-4 * (high - low)
    of_class, of_others = (values - high).abs() <= near, (values - low).abs() <= near
    rows = (of_class ^ of_others).all(1) & (of_class.sum(1) == 1)
    return bool(rows.all()) and values.numel() > 2  # a single row of two entries tells nothing


def check_classes(labels: Tensor, classes: int, name: str, data_name: str) -> None:
    """Raise SettingError where labels are not of ``classes`` classes, each of them there."""
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise SettingError(
                f"labels of {name} have {labels.shape[1]} columns, {data_name} has {classes} "
                "classes; allowed: one for each class"
            )
        return
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) > classes:
        raise SettingError(
            f"labels of {name} go to {len(counts) - 1}, {data_name} has {classes} classes; "
            f"allowed: 0 to {classes - 1}"
        )
    if not counts.all():
        absent = int((counts == 0).nonzero()[0])
        raise SettingError(
            f"{name} has no image of class {absent}, {data_name} has {classes} classes; allowed: "
            "one image or more of each"
        )
