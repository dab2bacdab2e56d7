"""The base of importances: scores of a group's channels, one row per member."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group, Slot
from spade_keras.registry import IMPORTANCES

SCALES = ("gamma", "scale")

MemberScores = np.ndarray | Sequence[np.ndarray]
ImportanceFunction = Callable[[Group, WeightTable], MemberScores]


class Importance(ABC):
    """Scores the channels of a group, one row per member; the least important go first.

    `group_scores` averages over the members and scales, so every importance is reduced the same
    way. A plain function of `(group, weights)` that returns such an array also works.
    """

    normalize: bool = True
    """Whether scores are divided by their mean, which makes them comparable across groups."""

    @abstractmethod
    def __call__(self, group: Group, weights: WeightTable) -> MemberScores:
        """Returns scores of shape `(members, width)` for one group.

        No rows: the importance cannot score this group, which then keeps all its channels.
        `weights.sums(slot, ...)` and `weights.rows(slot)` give the slices of each channel.
        """


def magnitude_slots(group: Group) -> list[Slot]:
    """Slots whose size counts for a channel: kernels and the scales of norms, no biases."""
    return [
        slot
        for slot in group.slots
        if slot.role != "parameter" or slot.weight in SCALES or slot.weight.endswith("kernel")
    ]


def producer_slots(group: Group) -> list[Slot]:
    """Slots of the kernels that make the channels."""
    return [slot for slot in group.slots if slot.role == "producer"]


def group_scores(
    importance: ImportanceFunction, group: Group, weights: WeightTable
) -> np.ndarray | None:
    """Scores the channels of a group: members averaged, then divided by the channels' mean.

    Returns:
        Scores of shape `(width,)`, or None where the importance cannot score the group. They
        are not divided if `importance.normalize` is false, nor where all of them are zero.
    """
    rows = importance(group, weights)
    if len(rows) == 0:
        return None
    members = np.atleast_2d(np.asarray(rows, np.float64))
    if members.ndim != 2 or members.shape[1] != group.width:
        raise ValueError(
            f"`importance` must return scores of shape (members, {group.width}) for group "
            f"{group.name!r}. Received: shape={members.shape}."
        )
    if not np.isfinite(members).all():
        channel = int(np.argwhere(~np.isfinite(members))[0, 1])
        raise ValueError(
            f"Scores of group {group.name!r} must be finite. Received: a NaN or infinite score for "
            f"channel {channel}. Look for NaN or infinite weights in {list(group.members)}."
        )
    scores = members.mean(axis=0)
    mean = scores.mean()
    if getattr(importance, "normalize", True) and mean > 0:
        scores = scores / mean
    return scores


def find_importance(
    importance: str | ImportanceFunction, calibration: Any = None
) -> ImportanceFunction:
    """Returns an importance by its name in `IMPORTANCES`, or the one given; "obs" is calibrated."""
    if not isinstance(importance, str):
        return importance
    if importance != "obs":
        return IMPORTANCES.make(importance)
    if calibration is None:
        raise ValueError(
            "`importance='obs'` ranks channels by what their readers see: pass "
            "`calibration=calibrate(model, inputs)`, on the command line `prune --data` or "
            "`search --compensate`. Received: calibration=None"
        )
    return IMPORTANCES.make("obs", calibration)
