"""Structured pruning of Keras models: groups, importance, plan, rebuild."""

from __future__ import annotations

from spade_keras.pruning.blocks import ResidualBlock, drop_blocks, find_residual_blocks
from spade_keras.pruning.cost import MacReport, count_macs, count_parameters
from spade_keras.pruning.groups import Group, Slot, find_groups
from spade_keras.pruning.importance import IMPORTANCES, Importance, register_importance
from spade_keras.pruning.plan import GroupPlan, PruningPlan
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.rebuild import (
    PlanMismatchError,
    RebuildError,
    copy_model,
    rebuild,
)
from spade_keras.pruning.rules import ChannelRule, register_channel_rule
from spade_keras.pruning.schedule import GradualPruning, prune_gradually
from spade_keras.pruning.sparse import GroupSparsity
from spade_keras.pruning.trace import TraceError
from spade_keras.pruning.verify import VerificationError, VerificationReport, verify_plan

__all__ = [
    "IMPORTANCES",
    "ChannelRule",
    "GradualPruning",
    "Group",
    "GroupPlan",
    "GroupSparsity",
    "Importance",
    "MacReport",
    "PlanMismatchError",
    "PruningPlan",
    "RebuildError",
    "ResidualBlock",
    "Slot",
    "TraceError",
    "VerificationError",
    "VerificationReport",
    "copy_model",
    "count_macs",
    "count_parameters",
    "drop_blocks",
    "find_groups",
    "find_residual_blocks",
    "make_plan",
    "prune_gradually",
    "rebuild",
    "register_channel_rule",
    "register_importance",
    "verify_plan",
]
