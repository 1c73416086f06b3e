"""Random: real images drawn per class without replacement, the start of every learned method."""

from typing import ClassVar

from atomlib.methods.method import Method


class RandomImages(Method):
    """IPC real images of each class, drawn by the seed."""

    name: ClassVar[str] = "random"
    label: ClassVar[str] = "Random"
    source: ClassVar[str] = "the usual lower bound"
    revision: ClassVar[int] = 1
    colour: ClassVar[str] = "0.55"
    follows_recipe: ClassVar[bool] = True
