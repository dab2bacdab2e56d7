"""From scores to kept channels: allowed widths, name patterns, and the choice itself."""

from __future__ import annotations

import difflib
import fnmatch
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from spade_keras.pruning.groups import Group

Value = TypeVar("Value")


def check_count(name: str, value: Any) -> None:
    """Raises a ValueError unless a value is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be an integer of at least 1. Received: {name}={value!r}.")


def width_step(group: Group) -> int:
    """The number that every narrower width of a group must be a multiple of."""
    return math.lcm(group.divisor, 1 if group.blocks is None else len(np.unique(group.blocks)))


def allowed_widths(group: Group, round_to: int = 1, minimum_width: int = 1) -> tuple[int, ...]:
    """Widths a group may have, ascending: multiples of `round_to`, then the group's own."""
    step = math.lcm(width_step(group), round_to)
    lowest = step * math.ceil(minimum_width / step)
    return (*range(lowest, group.width, step), group.width)


def nearest_width(widths: Sequence[int], ratio: float) -> int:
    """The allowed width nearest to what stays after removing a ratio of the last, full one."""
    # Whole channels stay: rounded down, with room for the rounding of the product.
    return nearest(widths, math.floor(widths[-1] * (1 - ratio) + 1e-9))


def nearest(widths: Iterable[int], wanted: float) -> int:
    """The nearest of some widths; of two equally near ones the wider."""
    return min(widths, key=lambda width: (abs(width - wanted), -width))


def kept_channels(group: Group, scores: np.ndarray, width: int) -> tuple[int, ...]:
    """Indices of the channels with the highest scores, equally many per block."""
    return tuple(sorted(removal_order(group, scores)[group.width - width :]))


def removal_order(group: Group, scores: np.ndarray) -> list[int]:
    """Channels from the least important on; each round takes one of every block."""
    blocks = np.zeros(group.width, int) if group.blocks is None else group.blocks
    # Of equal scores the later channel goes first.
    order = np.lexsort((-np.arange(group.width), scores))
    queues = [order[blocks[order] == block] for block in np.unique(blocks)]
    return [int(channel) for channel in np.stack(queues, axis=1).ravel()]


def own_layers(group: Group) -> tuple[str, ...]:
    """Layers that make the group's channels or hold something per channel."""
    paths = [slot.layer for slot in group.slots if slot.role != "consumer"]
    return tuple(dict.fromkeys([group.name, *paths]))


def match_groups(
    wanted: Mapping[str, Value] | Iterable[str], groups: Sequence[Group], argument: str
) -> dict[str, tuple[str, Any]]:
    """Resolves names and wildcards of groups or of their layers.

    An exact name beats a wildcard, of several wildcards the last one counts.

    Returns:
        For each matched group the name or wildcard that matched it, and the value.
    """
    values = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted)
    owners: dict[str, list[Group]] = {}
    for group in groups:
        for path in own_layers(group):
            owners.setdefault(path, []).append(group)
    matched: dict[str, tuple[str, Any]] = {}
    for pattern in sorted(values, key=lambda name: name in owners):
        exact = pattern in owners
        found = [pattern] if exact else fnmatch.filter(owners, pattern)
        if not found:
            near = difflib.get_close_matches(pattern, owners, n=3, cutoff=0.5)
            hint = f"Did you mean {near}?" if near else f"Known ones begin: {sorted(owners)[:8]}."
            raise ValueError(
                f"`{argument}` must name groups or their layers, wildcards allowed. "
                f"Received: {pattern!r}, which matches none. {hint}"
            )
        for group in (group for path in found for group in owners[path]):
            earlier = matched.get(group.name)
            if exact and earlier and earlier[0] in owners and earlier[1] != values[pattern]:
                raise ValueError(
                    f"`{argument}` must give one value per group. Received: {earlier[0]!r} and "
                    f"{pattern!r}, which change together as group {group.name!r}, with "
                    f"{earlier[1]!r} and {values[pattern]!r}."
                )
            matched[group.name] = (pattern, values[pattern])
    return matched


def is_wildcard(pattern: str) -> bool:
    """Whether a pattern has wildcards."""
    return any(mark in pattern for mark in "*?[")


def rank_globally(
    groups: Sequence[Group],
    scores: Mapping[str, np.ndarray],
    allowed: Mapping[str, tuple[int, ...]],
    remaining: Callable[[Mapping[str, int]], Any],
    limit: float,
) -> dict[str, int]:
    """Narrows groups one allowed width at a time, the least important channels first.

    The step from one allowed width to the next costs the mean score of the channels it removes.
    Steps are sorted by that cost over all groups, and as few are taken as bring `remaining`, the
    size of the model at given widths, to the limit.
    """
    steps: list[tuple[float, int, int]] = []
    for number, group in enumerate(groups):
        order = removal_order(group, scores[group.name])
        cost = scores[group.name][order]
        widths = allowed[group.name][::-1]
        mean = -math.inf
        for before, after in pairwise(widths):
            # Means rise within a group; the maximum keeps its steps in order despite rounding.
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
    fewest = bisect_left(
        range(len(steps)), True, key=lambda count: remaining(widths_after(count)) <= limit
    )
    return widths_after(fewest)
