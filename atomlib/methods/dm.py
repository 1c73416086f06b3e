"""DM, distribution matching: mean outputs of random feature extractors.

One iteration descends

    L = s * sum_k ||mean f_out(real_k) - mean f_out(syn_k)||^2
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from atomlib.methods.feature_matching import FeatureMatching
from atomlib.recipes import Change


class DM(FeatureMatching):
    """Match the mean output per class.

    The defaults are ATOM's protocol (8000 iterations, 128 real images, ZCA on CIFAR), so that the
    two differ in the loss only; the variant "own" has those of its own paper.
    """

    name: ClassVar[str] = "dm"
    label: ClassVar[str] = "DM"
    source: ClassVar[str] = "Zhao & Bilen, WACV 2023, arXiv 2110.04181"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "#0173b2"
    disagreements: ClassVar[Mapping[str, Change]] = {
        "own": {"settings": {"iterations": 20_000, "real_batch": 256, "zca": False}}
    }

    def terms(self, maps: list[Tensor], output: Tensor) -> list[tuple[float, Tensor]]:
        return [(1.0, output)]
