"""The matching loss of DM, DataDAM and ATOM: one function, three switches.

With class means over B real and IPC synthetic images,

    L_attention = sum_k sum_{l < L} ||mean a_s(real) - mean a_s(syn)||^2   (spatial)
                                  + ||mean a_c(real) - mean a_c(syn)||^2   (channel)
    L_output    = sum_k             ||mean f_out(real) - mean f_out(syn)||^2
    L           = scale * (L_attention + lambda * L_output)

DM is the output term only, DataDAM spatial + output, ATOM all three. Both sides are reduced to
*signatures* first (class means), so that the real side, which needs no gradient, can be computed in
any number of pieces and thrown away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from atomlib.attention import channel_attention, spatial_attention


@dataclass(frozen=True)
class Matching:
    """What is matched and with what weight; the loss settings of a DistillConfig."""

    spatial: bool = True
    channel: bool = True
    output: bool = True
    spatial_power: float = 4.0
    channel_power: float = 4.0
    task_balance: float = 0.01
    scale: float = 1.0
    normalize: bool = True
    layers: tuple[int, ...] | None = None
    """1-based blocks whose attention is matched; None is all but the last (docs/design.md, 'The
    method')."""

    def attention_layers(self, depth: int) -> tuple[int, ...]:
        """The 1-based blocks whose attention is matched in a network of ``depth`` blocks."""
        if not (self.spatial or self.channel):
            return ()
        return tuple(range(1, depth)) if self.layers is None else self.layers


# A signature is a list of class-mean matrices [K, ...], in the order of `terms`.
Signature = list[Float[Tensor, "k _"]]

Network = Callable[[Tensor], tuple[list[Tensor], Tensor]]
"""Images to (post-activation maps of each block, flattened output features)."""


def signature(
    network: Network, images: Float[Tensor, "k m c h w"], matching: Matching
) -> Signature:
    """Class means of everything that is matched, in float32.

    ``images`` holds M images of each of K classes. All K*M go through the network in one
    forward; the mean is taken over M.
    """
    classes, per_class = images.shape[:2]
    maps, output = network(images.flatten(0, 1))
    terms = []
    for layer in matching.attention_layers(len(maps)):
        features = maps[layer - 1]
        if matching.spatial:
            terms.append(
                spatial_attention(features, matching.spatial_power, normalize=matching.normalize)
            )
        if matching.channel:
            terms.append(
                channel_attention(features, matching.channel_power, normalize=matching.normalize)
            )
    if matching.output:
        terms.append(output if output.dtype.itemsize >= 4 else output.float())
    return [term.unflatten(0, (classes, per_class)).mean(dim=1) for term in terms]


def matching_loss(
    real: Sequence[Tensor], synthetic: Sequence[Tensor], matching: Matching
) -> Float[Tensor, ""]:
    """The loss between two signatures of the same network and the same DSA draw.

    Each term is the squared L2 distance of class means, summed over classes; the output
    term is the last one and weighs ``task_balance``.
    """
    distances = [(r - s).square().sum() for r, s in zip(real, synthetic, strict=True)]
    if matching.output:
        distances[-1] = matching.task_balance * distances[-1]
    return matching.scale * torch.stack(distances).sum()
