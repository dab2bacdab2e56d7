"""Basis scaling: layers as weighted sums of basis vectors, pruned by their weights."""

from __future__ import annotations

from spade_keras.errors import NotDecomposedError
from spade_keras.pruning.basis.basis_pruning import BasisPruning, PruningRound, prune_components
from spade_keras.pruning.basis.decomposition import decompose
from spade_keras.pruning.basis.importance import BasisImportance
from spade_keras.pruning.basis.merging import merge, rank_plan
from spade_keras.pruning.basis.rank_groups import RankGroup, find_rank_groups, plan_ranks
from spade_keras.pruning.basis.scaling import BasisScaling, Pair, find_pairs
from spade_keras.registry import COMPONENT_IMPORTANCES

__all__ = [
    "COMPONENT_IMPORTANCES",
    "BasisImportance",
    "BasisPruning",
    "BasisScaling",
    "NotDecomposedError",
    "Pair",
    "PruningRound",
    "RankGroup",
    "decompose",
    "find_pairs",
    "find_rank_groups",
    "merge",
    "plan_ranks",
    "prune_components",
    "rank_plan",
]
