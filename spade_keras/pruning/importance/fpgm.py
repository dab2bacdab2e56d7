"""FPGM: filters near the geometric median of their layer can be spared."""

from __future__ import annotations

import numpy as np

from spade_keras.pruning.groups import Group
from spade_keras.pruning.importance.importance import Importance, producer_slots, stack_members
from spade_keras.pruning.weights import WeightTable


class FPGM(Importance):
    """`s_c = sum over d of ||W[c] - W[d]||_2` over the filters of one producer.

    A filter close to all the others is nearest to their geometric median: what it does, the
    rest can do.

    Reference:
        He et al., Filter Pruning via Geometric Median, arXiv 1811.00250.
    """

    def __call__(self, group: Group, weights: WeightTable) -> np.ndarray:
        """Sums each filter's distances to the other filters of its layer."""
        slots = producer_slots(group)
        return stack_members(group, (_distance_sums(weights.rows(slot)) for slot in slots))


def _distance_sums(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = squares[:, None] + squares[None, :] - 2 * rows @ rows.T
    np.fill_diagonal(distances, 0)
    return np.sqrt(np.maximum(distances, 0)).sum(axis=1)
