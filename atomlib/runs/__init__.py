"""Running experiments: the grid of cells, where they run, and the store of their results."""

from atomlib.runs.grid import cells, full_data_cells
from atomlib.runs.parameters import check
from atomlib.runs.store import Store
from atomlib.runs.sweep import made_so_far, sweep

__all__ = ["Store", "cells", "check", "full_data_cells", "made_so_far", "sweep"]
