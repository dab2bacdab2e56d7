"""Group l2: the Euclidean norm of a channel's weights, everywhere in its group."""

from __future__ import annotations

import numpy as np

from spade_keras.pruning.groups import Group
from spade_keras.pruning.importance.importance import Importance, magnitude_slots, stack_members
from spade_keras.pruning.weights import WeightTable


class GroupL2(Importance):
    """`s_c = mean over members m of ||W_m[c]||_2`, divided by its mean over the channels.

    Reference:
        Fang et al., DepGraph: Towards Any Structural Pruning, arXiv 2301.12900.
    """

    def __call__(self, group: Group, weights: WeightTable) -> np.ndarray:
        """Takes the root of the summed squares of each member's slices."""
        slots = magnitude_slots(group)
        return stack_members(
            group, (np.sqrt(weights.sums(slot, "square", np.square)) for slot in slots)
        )
