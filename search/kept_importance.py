"""How much of a network's importance a choice of widths keeps."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from spade_keras.pruning import Group, find_groups
from spade_keras.pruning import importance as importances
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.selection import removal_order


@dataclass(frozen=True)
class KeptShare:
    """What a group keeps of its importance.

    Attributes:
        weight: Number of kernels that write or read the group's channels.
        shares: Share kept by the best n channels, at index n: from 0 to 1.
    """

    weight: int
    shares: np.ndarray


def kept_shares(network: keras.Model, importance: str = "group_l1") -> dict[str, KeptShare]:
    """Scores every group that may change.

    Args:
        network: A Keras model, or a network with `priors`.
        importance: Criterion by which channels are kept, as `pruning.make_plan` takes it.

    Returns:
        Group -> what it keeps at each width. A group on which the importance has nothing to say,
        or whose scores are all zero, loses equally much with every channel.
    """
    criterion = (
        importances.IMPORTANCES.make(importance) if isinstance(importance, str) else importance
    )
    weights = WeightTable(network)
    found = {}
    for group in find_groups(network):
        if group.fixed:
            continue
        scores = importances.group_scores(criterion, group, weights)
        if scores is None or not np.any(scores > 0):
            scores = np.ones(group.width)
        found[group.name] = KeptShare(_kernels(group), _shares(group, scores))
    return found


def _shares(group: Group, scores: np.ndarray) -> np.ndarray:
    positive = scores - min(0.0, float(scores.min()))
    kept_first = positive[removal_order(group, scores)[::-1]]
    total = np.concatenate([[0.0], np.cumsum(kept_first)])
    return total / total[-1]


def _kernels(group: Group) -> int:
    slots = importances.magnitude_slots(group)
    kernels = {(s.layer, s.weight_index) for s in slots if s.role != "parameter"}
    return max(1, len(kernels))
