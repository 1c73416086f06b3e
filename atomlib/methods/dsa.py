"""DSA: DC on augmented images, real and synthetic ones of a class by the same draw.

L = sum_k D(g_k(A_k(real_k)), g_k(A_k(synthetic_k))), with D and the steps of
``gradient_matching``, and A_k one draw per class and image step (``augmentation``). The epochs
between image steps augment too.
"""

from typing import ClassVar

from pydantic import Field

from atomlib.methods.gradient_matching import GradientMatching
from atomlib.methods.learned_images import Start


class DSA(GradientMatching):
    """Match weight gradients per class under Siamese augmentation."""

    name: ClassVar[str] = "dsa"
    label: ClassVar[str] = "DSA"
    source: ClassVar[str] = "Zhao & Bilen, ICML 2021, arXiv 2102.08259"
    revision: ClassVar[int] = 2
    colour: ClassVar[str] = "#d55e00"

    init: Start = Field(default="real", description="what the images start from")
