"""ATOM: spatial and channel attention of every block but the last, and the output.

One iteration descends

    L = s * sum_k [ sum_{l<L} ||mean a_s(real_k)_l - mean a_s(syn_k)_l||^2      spatial (DataDAM's)
                            + ||mean a_c(real_k)_l - mean a_c(syn_k)_l||^2      channel (ATOM adds)
                    + lambda * ||mean f_out(real_k) - mean f_out(syn_k)||^2 ]   output  (DM's)
"""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from atomlib.attention import channel_attention, spatial_attention
from atomlib.errors import SettingError
from atomlib.methods.datadam import DataDAM, Power


class ATOM(DataDAM):
    """Match mean spatial and channel attention maps and the mean output per class.

    An ablation switches terms off; the output keeps the weight that it has in ATOM.
    """

    name: ClassVar[str] = "atom"
    label: ClassVar[str] = "ATOM"
    source: ClassVar[str] = "Khaki, Sajedi et al., CVPR Workshops 2024, arXiv 2405.01373"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#029e73"

    channel_power: Power = Field(default=4.0, description="p_c")
    spatial: bool = Field(default=True, description="spatial attention, which is DataDAM's")
    channel: bool = Field(default=True, description="channel attention, which ATOM adds")
    output: bool = Field(default=True, description="output term, which is DM's")

    def check_layers(self) -> None:
        if not (self.spatial or self.channel or self.output):
            raise SettingError(
                "spatial, channel and output are all off; allowed: at least one loss term on"
            )
        if self.spatial or self.channel:
            super().check_layers()

    def terms(self, maps: list[Tensor], output: Tensor) -> list[tuple[float, Tensor]]:
        normalize, terms = self.attention_norm == "l2", []
        attends = self.spatial or self.channel
        for features in self.attended(maps) if attends else []:
            if self.spatial:
                attention = spatial_attention(features, self.spatial_power, normalize=normalize)
                terms.append((1.0, attention))
            if self.channel:
                attention = channel_attention(features, self.channel_power, normalize=normalize)
                terms.append((1.0, attention))
        if self.output:
            terms.append((self.task_balance, output))
        return terms
