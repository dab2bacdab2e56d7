"""Structured pruning of Keras models: groups, importance, plan, rebuild."""

from __future__ import annotations

from spade_keras.errors import PlanMismatchError, RebuildError, TraceError, VerificationError
from spade_keras.pruning.basis import (
    BasisPruning,
    BasisScaling,
    decompose,
    find_rank_groups,
    merge,
    plan_ranks,
    rank_plan,
)
from spade_keras.pruning.blocks import ResidualBlock, drop_blocks, find_residual_blocks
from spade_keras.pruning.compensation import Calibration, calibrate
from spade_keras.pruning.cost import MacReport, count_macs, count_parameters
from spade_keras.pruning.groups import Group, Slot, find_groups
from spade_keras.pruning.importance import IMPORTANCES, Importance
from spade_keras.pruning.interpolative import Interpolation, prune_interpolative
from spade_keras.pruning.plan import (
    BlockStep,
    ChannelStep,
    GroupPlan,
    LayerRank,
    PruningPlan,
    RankStep,
)
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.rebuild import rebuild
from spade_keras.pruning.replay import copy_model
from spade_keras.pruning.rules import ChannelRule, register_channel_rule
from spade_keras.pruning.training import GradualPruning, GroupSparsity, prune_gradually
from spade_keras.pruning.verify import VerificationReport, verify_plan

__all__ = [
    "IMPORTANCES",
    "BasisPruning",
    "BasisScaling",
    "BlockStep",
    "Calibration",
    "ChannelRule",
    "ChannelStep",
    "GradualPruning",
    "Group",
    "GroupPlan",
    "GroupSparsity",
    "Importance",
    "Interpolation",
    "LayerRank",
    "MacReport",
    "PlanMismatchError",
    "PruningPlan",
    "RankStep",
    "RebuildError",
    "ResidualBlock",
    "Slot",
    "TraceError",
    "VerificationError",
    "VerificationReport",
    "calibrate",
    "copy_model",
    "count_macs",
    "count_parameters",
    "decompose",
    "drop_blocks",
    "find_groups",
    "find_rank_groups",
    "find_residual_blocks",
    "make_plan",
    "merge",
    "plan_ranks",
    "prune_gradually",
    "prune_interpolative",
    "rank_plan",
    "rebuild",
    "register_channel_rule",
    "verify_plan",
]
