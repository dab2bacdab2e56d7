"""Global ranking: channels of all groups compete until the model is small enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np

from spade_keras.pruning.groups import Group
from spade_keras.pruning.selection import removal_order


def rank_globally(
    groups: Sequence[Group],
    scores: Mapping[str, np.ndarray],
    allowed: Mapping[str, tuple[int, ...]],
    remaining: Callable[[Mapping[str, int]], float],
    limit: float,
) -> dict[str, int]:
    """Narrows groups one allowed width at a time, the least important channels first.

    The step from one allowed width to the next costs the mean score of the channels it takes.
    Steps are ordered by that cost over all groups, and the fewest of them are taken.

    Args:
        groups: The groups that may change.
        scores: Scores per group, comparable across groups.
        allowed: Allowed widths per group, ascending, the full width last.
        remaining: What is left of the model at given widths, such as its parameters.
        limit: How much may be left.

    Returns:
        Width per group.

    Raises:
        ValueError: If even the smallest allowed widths leave more than `limit`.
    """
    steps: list[tuple[float, int, int]] = []
    for number, group in enumerate(groups):
        order = removal_order(group, scores[group.name])
        cost = scores[group.name][order]
        widths = allowed[group.name][::-1]
        mean = -math.inf
        for before, after in pairwise(widths):
            # Means do not fall within a group, but for rounding: its steps stay in order.
            mean = max(mean, float(cost[group.width - before : group.width - after].mean()))
            steps.append((mean, number, after))
    steps.sort(key=lambda step: (step[0], step[1], -step[2]))

    def widths_after(count: int) -> dict[str, int]:
        widths = {group.name: group.width for group in groups}
        for _, number, after in steps[:count]:
            widths[groups[number].name] = after
        return widths

    smallest = remaining(widths_after(len(steps)))
    if smallest > limit:
        raise ValueError(
            f"`target` must be at least {smallest:,.10g}, what is left with every group at its "
            f"smallest allowed width. Received: a target of {limit:,.10g}. "
            "Lower `minimum_width` or `round_to`, or protect fewer layers."
        )
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if remaining(widths_after(middle)) <= limit:
            high = middle
        else:
            low = middle + 1
    return widths_after(low)
