"""The normalisations that every network takes its own from."""

from torch import nn

NORMS = ("none", "batch", "layer", "instance", "group")

GROUPS = 4
"""Groups of norm "group" (facts: the NAS space of the DC family)."""


def make_norm(name: str, channels: int, side: int | None = None) -> nn.Module:
    """One of NORMS for maps of so many channels; "layer" alone needs to know their side."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.LayerNorm([channels, side, side])
    if name == "instance":
        # As the DC family has it: one group a channel, with a learned scale and shift.
        return nn.GroupNorm(channels, channels)
    if name == "group":
        return nn.GroupNorm(GROUPS, channels)
    return nn.Identity()
