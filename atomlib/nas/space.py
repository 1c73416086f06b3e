"""The 720 ConvNets of the architecture search, and samples of them (supplement, 1.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product

import torch

from atomlib.errors import SettingError, check_choice
from atomlib.models.build import build_model
from atomlib.randomness import stream

AXES: dict[str, tuple] = {
    "depth": (1, 2, 3, 4),
    "width": (32, 64, 128, 256),
    "activation": ("sigmoid", "relu", "leakyrelu"),
    "norm": ("none", "batch", "layer", "instance", "group"),
    "pooling": ("none", "max", "average"),
}
"""The grid of the supplement's section 1.4."""


@dataclass(frozen=True)
class Candidate:
    """One ConvNet of the search space; its fields are settings of the ConvNet."""

    depth: int
    width: int
    activation: str
    norm: str
    pooling: str

    @property
    def name(self) -> str:
        """Such as "d3-w128-relu-instance-average"."""
        return f"d{self.depth}-w{self.width}-{self.activation}-{self.norm}-{self.pooling}"


@cache
def search_space() -> tuple[Candidate, ...]:
    """The 720 candidates, every combination of ``AXES``: depth varies slowest, pooling fastest."""
    return tuple(Candidate(*values) for values in product(*AXES.values()))


def sample(
    space: Sequence[Candidate],
    *,
    image_size: int,
    count: int | None = None,
    seed: int = 0,
    restrict: Mapping[str, Sequence] | None = None,
) -> tuple[Candidate, ...]:
    """The candidates that images of ``image_size`` pixels allow, or ``count`` of them.

    ``restrict`` keeps only the given values, ``{"width": [32, 64]}``. The draw depends on the seed
    and on what there is to draw from; a larger count adds to a smaller one's candidates. They come
    in the order of ``space``. Raises SettingError for an unknown name or value in ``restrict``, and
    where fewer than ``count`` are there.
    """
    if not isinstance(restrict or {}, Mapping):
        raise SettingError(f"restrict is {restrict!r}; allowed: lists of values by name")
    for name, values in (restrict or {}).items():
        check_choice("name in restrict", name, AXES)
        if not isinstance(values, list | tuple) or not values:
            raise SettingError(f"{name} in restrict is {values!r}; allowed: a list of at least one")
        for value in values:
            if value not in AXES[name]:
                allowed = ", ".join(map(str, AXES[name]))
                raise SettingError(f"{name} in restrict has {value!r}; allowed: {allowed}")
    found = [
        candidate
        for candidate in space
        if fits(candidate.depth, candidate.pooling, image_size)
        and all(getattr(candidate, name) in values for name, values in (restrict or {}).items())
    ]
    if not found:
        raise SettingError(
            f"restrict is {restrict!r}; allowed: what leaves a candidate that images of "
            f"{image_size} pixels are large enough for"
        )
    if count is None:
        return tuple(found)
    if not isinstance(count, int) or not 1 <= count <= len(found):
        raise SettingError(
            f"count is {count!r}; allowed: 1 to {len(found)}, the candidates that images of "
            f"{image_size} pixels and restrict leave"
        )
    drawn = torch.randperm(len(found), generator=stream(seed, "nas", "sample"))[:count]
    return tuple(found[row] for row in sorted(drawn.tolist()))


@cache
def fits(depth: int, pooling: str, image_size: int) -> bool:
    """Whether images are large enough for such networks; no other axis has a say in it."""
    shape = {"in_channels": 3, "image_size": image_size, "num_classes": 10}
    with torch.device("meta"):
        try:
            build_model("convnet", **shape, depth=depth, pooling=pooling)
        except SettingError:
            return False
    return True
