"""Experiments: which cells there are, where they run, and what is kept of them."""

from atomlib.runs.grid import cells, whole_cells
from atomlib.runs.profiles import check
from atomlib.runs.store import Store
from atomlib.runs.sweep import sweep

__all__ = ["Store", "cells", "check", "sweep", "whole_cells"]
