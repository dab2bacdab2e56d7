"""What an importance is: scores of a group's channels, one row per member."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

import numpy as np

from spade_keras.pruning.groups import Group, Slot
from spade_keras.pruning.weights import WeightTable

_SCALES = ("gamma", "scale")


class Importance(ABC):
    """Says how much each channel of a group matters; the least important go first.

    A subclass answers per member of the group and leaves averaging over members and scaling
    to `group_scores`, so that every importance is reduced the same way. A plain function of
    `(group, weights)` that returns such an array may be used in its place.
    """

    normalize: bool = True
    """Whether scores are divided by their mean over the group's channels, which makes them
    comparable across groups."""

    @abstractmethod
    def __call__(self, group: Group, weights: WeightTable) -> np.ndarray:
        """Scores the channels of one group.

        Args:
            group: The coupled channels.
            weights: The model's weights, `weights.sums(slot, ...)` and `weights.rows(slot)`
                give the slices that belong to each channel.

        Returns:
            Array of shape `(members, width)`. No rows: the importance has nothing to say
            about this group, which then keeps all its channels.
        """


def magnitude_slots(group: Group) -> list[Slot]:
    """Slots whose size speaks for a channel: kernels and the scales of norms, no biases."""
    return [slot for slot in group.slots if _is_magnitude(slot)]


def producer_slots(group: Group) -> list[Slot]:
    """Slots of the weights that make the channels."""
    return [slot for slot in group.slots if slot.role == "producer" and _is_magnitude(slot)]


def _is_magnitude(slot: Slot) -> bool:
    return slot.role != "parameter" or slot.weight in _SCALES or slot.weight.endswith("kernel")


def stack_members(group: Group, rows: Iterable[np.ndarray]) -> np.ndarray:
    """Members' scores as one array `(members, width)`, with no rows if there is none."""
    members = list(rows)
    return np.stack(members) if members else np.zeros((0, group.width))
