"""Group l1: the absolute weights of a channel, everywhere in its group."""

from __future__ import annotations

import numpy as np

from spade_keras.pruning.groups import Group
from spade_keras.pruning.importance.importance import Importance, magnitude_slots, stack_members
from spade_keras.pruning.weights import WeightTable


class GroupL1(Importance):
    """`s_c = mean over members m of sum |W_m[c]|`, divided by its mean over the channels.

    Members are the output slices of producers, the input slices of consumers and the scales
    of norms; biases are ignored.

    Reference:
        Park et al., Structured Pruning for Model-Based Deep Learning, arXiv 2311.02003.
    """

    def __call__(self, group: Group, weights: WeightTable) -> np.ndarray:
        """Sums the absolute values of each member's slices."""
        slots = magnitude_slots(group)
        return stack_members(group, (weights.sums(slot, "abs", np.abs) for slot in slots))
