"""LAMP: a layer-adaptive magnitude that one global threshold can cut."""

from __future__ import annotations

import numpy as np

from spade_keras.pruning.groups import Group
from spade_keras.pruning.importance.importance import Importance, producer_slots, stack_members
from spade_keras.pruning.weights import WeightTable


class Lamp(Importance):
    """`s_c = ||W[c]||^2 / sum over d with ||W[d]|| >= ||W[c]|| of ||W[d]||^2` per producer.

    The strongest channel of every layer scores 1, so a global ranking never empties a layer.

    Reference:
        Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, arXiv 2010.07611.
    """

    normalize = False

    def __call__(self, group: Group, weights: WeightTable) -> np.ndarray:
        """Divides each filter's squared norm by those of the filters that outlive it."""
        slots = producer_slots(group)
        return stack_members(
            group, (_survivor_shares(weights.sums(slot, "square", np.square)) for slot in slots)
        )


def _survivor_shares(squares: np.ndarray) -> np.ndarray:
    order = np.argsort(squares, kind="stable")
    survivors = np.cumsum(squares[order][::-1])[::-1]
    shares = np.zeros_like(squares)
    shares[order] = np.divide(
        squares[order], survivors, out=np.zeros_like(squares), where=survivors > 0
    )
    return shares
