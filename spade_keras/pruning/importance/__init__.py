"""Importances: criteria that rank the channels of a group.

`IMPORTANCES.make(name)` makes one, `IMPORTANCES.register(name, class_or_function)` adds one.
"""

from __future__ import annotations

from spade_keras.pruning.importance.importance import (
    Importance,
    ImportanceFunction,
    find_importance,
    group_scores,
    magnitude_slots,
    producer_slots,
)
from spade_keras.pruning.importance.magnitude import (
    FPGM,
    BatchNormScale,
    GroupL1,
    GroupL2,
    Lamp,
    Random,
)
from spade_keras.pruning.importance.taylor import Taylor
from spade_keras.registry import IMPORTANCES

__all__ = [
    "FPGM",
    "IMPORTANCES",
    "BatchNormScale",
    "GroupL1",
    "GroupL2",
    "Importance",
    "ImportanceFunction",
    "Lamp",
    "Random",
    "Taylor",
    "find_importance",
    "group_scores",
    "magnitude_slots",
    "producer_slots",
]
