"""The search packed onto a device: which candidates train together, and which come first."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from atomlib.config import EvalConfig
from atomlib.datasets import ImageData
from atomlib.execution import given_out, memory, operations
from atomlib.search_space import Candidate

FILLS = 1e12
"""Operations of a step that keep a GPU busy for longer than it takes to ask for them: about 3 ms
of either on a large one. A guess from its data sheet; a smaller step is one of several networks."""


@dataclass(frozen=True)
class Group:
    """Candidates that train together: one, or several of one depth, width and pooling."""

    candidates: tuple[Candidate, ...]

    @property
    def name(self) -> str:
        """The candidate's, or such as "d3-w128-average, 15 networks"."""
        first, *more = self.candidates
        if not more:
            return first.name
        return f"d{first.depth}-w{first.width}-{first.pooling}, {1 + len(more)} networks"


def pack(
    costs: Mapping[Candidate, float],
    config: EvalConfig,
    data: ImageData,
    device: torch.device,
    *,
    images: int,
    share: float = 1.0,
) -> list[Group]:
    """All candidates of ``costs`` in groups, the expensive groups first.

    So that no expensive one is left running alone at the end. ``config.together`` is how many
    train together at most. None is 1 on a CPU, where stacked convolutions are slow; on a GPU,
    as many as it takes to keep it busy and as a quarter of its memory holds, or of the
    ``share`` of it that is ours. ``images`` are those of a step.
    """
    shapes: dict[tuple, list[Candidate]] = defaultdict(list)
    for candidate in costs:
        shapes[candidate.depth, candidate.width, candidate.pooling].append(candidate)
    groups = []
    for alike in shapes.values():
        alike.sort(key=lambda candidate: (candidate.norm, candidate.activation))
        most = config.together or _most(alike[0], config, data, device, images, share)
        groups += [Group(tuple(alike[i : i + most])) for i in range(0, len(alike), most)]
    return sorted(groups, key=lambda group: cost(group, costs), reverse=True)


def cost(group: Group, costs: Mapping[Candidate, float]) -> float:
    """Of all its candidates, in the unit of ``costs``."""
    return sum(costs[candidate] for candidate in group.candidates)


def _most(
    candidate: Candidate,
    config: EvalConfig,
    data: ImageData,
    device: torch.device,
    images: int,
    share: float,
) -> int:
    if device.type == "cpu":
        return 1
    config = config.but(**asdict(candidate))
    busy = FILLS / (3 * images * operations(config, data))
    # What the layers give out is kept for the gradient, in float32 at most, and its gradient with
    # it; tests take more images, of which nothing is kept.
    held = 2 * 4 * images * given_out(config, data)
    return max(1, int(min(busy, share * memory(device) / 4 / held)))
