"""Neural architecture search (NAS): 720 ConvNets ranked by training on a small proxy set."""

from atomlib.nas.ranking import rank_table
from atomlib.nas.search import Proxy, evaluate_candidates
from atomlib.nas.space import Candidate, sample, search_space

__all__ = [
    "Candidate",
    "Proxy",
    "evaluate_candidates",
    "rank_table",
    "sample",
    "search_space",
]
