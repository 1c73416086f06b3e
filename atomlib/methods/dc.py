"""DC, dataset condensation: the network gradients of real and synthetic images, matched by rows.

L = sum_k D(g_k(real_k), g_k(synthetic_k)), with D and the steps of ``gradient_matching``; nothing
is augmented.
"""

from collections.abc import Mapping
from typing import ClassVar

from atomlib.augmentation import DSAConfig
from atomlib.methods.gradient_matching import GradientMatching
from atomlib.recipes import NOT_AUGMENTED, Change


class DC(GradientMatching):
    """Match weight gradients per class, in networks trained on the synthetic images."""

    name: ClassVar[str] = "dc"
    label: ClassVar[str] = "DC"
    source: ClassVar[str] = "Zhao, Mopuri & Bilen, ICLR 2021, arXiv 2006.05929"
    revision: ClassVar[int] = 2
    colour: ClassVar[str] = "#56b4e9"

    # Its own paper trains without augmentation (docs/facts.md); the one evaluation here is DSA's.
    disagreements: ClassVar[Mapping[str, Change]] = {"plain": NOT_AUGMENTED}

    dsa: ClassVar[DSAConfig] = DSAConfig(strategies=())
