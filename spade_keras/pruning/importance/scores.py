"""From members' scores to one score per channel: the only place that reduces and scales."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from spade_keras.pruning.groups import Group
from spade_keras.pruning.weights import WeightTable

ImportanceFunction = Callable[[Group, WeightTable], np.ndarray]


def group_scores(
    importance: ImportanceFunction, group: Group, weights: WeightTable
) -> np.ndarray | None:
    """Scores the channels of a group: members averaged, then divided by the channels' mean.

    Args:
        importance: An `Importance`, or a function of `(group, weights)`. Its answer has shape
            `(members, width)`, or `(width,)` for one member.
        group: The coupled channels.
        weights: The weights of the model.

    Returns:
        Scores of shape `(width,)`, or None where the importance has nothing to say. They are
        not divided if `importance.normalize` is false, nor where all of them are zero.

    Raises:
        ValueError: If the scores have another shape or are not finite.
    """
    members = np.atleast_2d(np.asarray(importance(group, weights), np.float64))
    if members.ndim != 2 or members.shape[1] != group.width:
        raise ValueError(
            f"`importance` must return scores of shape (members, {group.width}) for group "
            f"{group.name!r}. Received: shape={members.shape}."
        )
    if len(members) == 0:
        return None
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
