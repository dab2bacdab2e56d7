"""Scale of the norm: what network slimming trains towards zero."""

from __future__ import annotations

import numpy as np

from spade_keras.pruning.groups import Group
from spade_keras.pruning.importance.importance import Importance, stack_members
from spade_keras.pruning.weights import WeightTable


class BatchNormScale(Importance):
    """`s_c = mean over the group's norms of |gamma_c|`.

    The scales themselves are compared across groups, undivided: a layer whose scales were all
    trained to zero may lose most of its channels. Groups without a norm keep theirs.

    Reference:
        Liu et al., Learning Efficient Convolutional Networks through Network Slimming,
        arXiv 1708.06519.
    """

    normalize = False

    def __call__(self, group: Group, weights: WeightTable) -> np.ndarray:
        """Reads the absolute scales of the group's norms."""
        slots = [slot for slot in group.slots if slot.weight in ("gamma", "scale")]
        return stack_members(group, (weights.sums(slot, "abs", np.abs) for slot in slots))
