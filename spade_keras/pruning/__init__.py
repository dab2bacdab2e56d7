"""Structured pruning of Keras models: groups, importance, plan, rebuild."""

from __future__ import annotations

from spade_keras.pruning.cost import MacReport, count_macs, count_parameters
from spade_keras.pruning.groups import Group, Slot
from spade_keras.pruning.importance import IMPORTANCES, Importance, register_importance
from spade_keras.pruning.plan import GroupPlan, PruningPlan
from spade_keras.pruning.planning import make_plan

__all__ = [
    "IMPORTANCES",
    "Group",
    "GroupPlan",
    "Importance",
    "MacReport",
    "PruningPlan",
    "Slot",
    "count_macs",
    "count_parameters",
    "make_plan",
    "register_importance",
]
