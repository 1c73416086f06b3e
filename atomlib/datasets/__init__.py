"""Data sets by name: ``load_dataset`` returns both splits as one ``ImageData``."""

from atomlib.datasets.image_data import ImageData, rows_by_class
from atomlib.datasets.load import load_dataset

__all__ = ["ImageData", "load_dataset", "rows_by_class"]
