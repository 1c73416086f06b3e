"""DataDAM: spatial attention of every block but the last, and the output.

One iteration descends

    L = s * sum_k [ sum_{l<L} ||mean a_s(real_k)_l - mean a_s(syn_k)_l||^2
                    + lambda * ||mean f_out(real_k) - mean f_out(syn_k)||^2 ]
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field
from torch import Tensor

from atomlib.attention import spatial_attention
from atomlib.datasets.image_data import ImageData
from atomlib.errors import SettingError, shown
from atomlib.methods.feature_matching import FeatureMatching
from atomlib.settings import Positive, Weight

Power = Annotated[float, Field(ge=1, le=16)]


class DataDAM(FeatureMatching):
    """Match mean spatial attention maps and the mean output per class."""

    name: ClassVar[str] = "datadam"
    label: ClassVar[str] = "DataDAM"
    source: ClassVar[str] = "Sajedi, Khaki et al., ICCV 2023, arXiv 2310.00093"
    revision: ClassVar[int] = 1
    may_stay_none: ClassVar[tuple[str, ...]] = ("layers",)
    colour: ClassVar[str] = "#de8f05"

    spatial_power: Power = Field(default=4.0, description="p_s")
    attention_norm: Literal["l2", "none"] = Field(default="l2", description="of each attention map")
    layers: tuple[Positive, ...] | None = Field(
        default=None,
        strict=False,
        description="1-based blocks with attention; None is all but the last",
    )
    task_balance: Weight | None = Field(
        default=None, description="lambda; None is 0.01 up to 32 pixels, 0.02 above"
    )

    def resolve(self, data: ImageData) -> Self:
        """Only ``layers`` may stay None: the same blocks at every depth, all but the last."""
        made = super().resolve(data)
        made.check_layers()
        balance = 0.01 if data.image_size <= 32 else 0.02
        return made.but(task_balance=balance if self.task_balance is None else self.task_balance)

    def check_layers(self) -> None:
        """Raise SettingError for a block that the network does not have, or none at all."""
        if self.layers is None:
            if self.depth == 1:
                raise SettingError(
                    "depth is 1, which leaves attention no layer before the last; allowed: 2 or "
                    "more, or layers=(1,)"
                )
            return
        if not self.layers:
            raise SettingError("layers is empty; allowed with attention on: at least one block")
        for layer in self.layers:
            if layer > self.depth or self.layers.count(layer) > 1:
                raise SettingError(
                    f"layers has {layer} in {shown(self.layers)}; allowed: 1 to {self.depth}, once "
                    "each"
                )

    def attended(self, maps: list[Tensor]) -> list[Tensor]:
        """The maps whose attention is matched."""
        return maps[:-1] if self.layers is None else [maps[layer - 1] for layer in self.layers]

    def terms(self, maps: list[Tensor], output: Tensor) -> list[tuple[float, Tensor]]:
        normalize = self.attention_norm == "l2"
        terms = [
            (1.0, spatial_attention(features, self.spatial_power, normalize=normalize))
            for features in self.attended(maps)
        ]
        return [*terms, (self.task_balance, output)]
