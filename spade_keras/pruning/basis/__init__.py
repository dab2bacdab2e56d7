"""Basis scaling: layers as weighted sums of basis vectors, pruned by their weights."""

from __future__ import annotations

from spade_keras.errors import NotDecomposedError
from spade_keras.pruning.basis.basis_plan import BasisPlan
from spade_keras.pruning.basis.basis_pruning import BasisPruning, PruningRound, prune_components
from spade_keras.pruning.basis.decomposition import decompose
from spade_keras.pruning.basis.importance import (
    BASIS_IMPORTANCES,
    BasisImportance,
    get,
    register_basis_importance,
)
from spade_keras.pruning.basis.merging import make_rank_plan, merge
from spade_keras.pruning.basis.pairs import Pair, find_pairs
from spade_keras.pruning.basis.rank_groups import RankGroup, find_rank_groups
from spade_keras.pruning.basis.rank_plan import LayerRank, RankPlan
from spade_keras.pruning.basis.rebuilding import RankBuilder, rebuild_basis, rebuild_ranks
from spade_keras.pruning.basis.scaling import BasisScalingConv, BasisScalingDense
from spade_keras.pruning.basis.verification import verify_basis_plan

__all__ = [
    "BASIS_IMPORTANCES",
    "BasisImportance",
    "BasisPlan",
    "BasisPruning",
    "BasisScalingConv",
    "BasisScalingDense",
    "LayerRank",
    "NotDecomposedError",
    "Pair",
    "PruningRound",
    "RankBuilder",
    "RankGroup",
    "RankPlan",
    "decompose",
    "find_pairs",
    "find_rank_groups",
    "get",
    "make_rank_plan",
    "merge",
    "prune_components",
    "rebuild_basis",
    "rebuild_ranks",
    "register_basis_importance",
    "verify_basis_plan",
]
