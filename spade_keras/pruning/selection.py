"""From scores to kept channels: allowed widths, name patterns, and the choice itself."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from spade_keras.pruning.groups import Group

Value = TypeVar("Value")
_WILDCARDS = frozenset("*?[")


def width_step(group: Group) -> int:
    """The number that every narrower width of a group must be a multiple of."""
    return math.lcm(group.divisor, 1 if group.blocks is None else len(np.unique(group.blocks)))


def allowed_widths(group: Group, round_to: int = 1, minimum_width: int = 1) -> tuple[int, ...]:
    """Widths a group may have, its own width included, ascending.

    Args:
        group: The group.
        round_to: Narrower widths are multiples of it.
        minimum_width: No narrower than this.

    Returns:
        The widths; only the group's own if nothing narrower is allowed.
    """
    step = math.lcm(width_step(group), round_to)
    lowest = step * math.ceil(minimum_width / step)
    return (*range(lowest, group.width, step), group.width)


def nearest_width(widths: Sequence[int], ratio: float) -> int:
    """The allowed width nearest to what stays after removing `ratio` of the channels.

    The widths end with the full one. What stays is rounded down to whole channels first;
    of two equally near widths the wider is taken.
    """
    wanted = math.floor(widths[-1] * (1 - ratio) + 1e-9)
    return min(widths, key=lambda width: (abs(width - wanted), -width))


def kept_channels(group: Group, scores: np.ndarray, width: int) -> tuple[int, ...]:
    """The `width` channels with the highest scores, equally many from every block.

    Args:
        group: The group.
        scores: One score per channel; of equal scores the earlier channel stays.
        width: How many stay; an allowed width.

    Returns:
        Their indices, ascending.
    """
    return tuple(sorted(removal_order(group, scores)[group.width - width :]))


def removal_order(group: Group, scores: np.ndarray) -> list[int]:
    """Channels in the order in which they go, the blocks taking turns.

    Each turn takes the least important remaining channel of every block, so that any prefix
    of whole turns leaves the blocks equal.
    """
    channels = np.arange(group.width)
    blocks = np.zeros(group.width, int) if group.blocks is None else group.blocks
    order = np.lexsort((-channels, scores))
    queues = [order[blocks[order] == block] for block in np.unique(blocks)]
    return [int(channel) for channel in np.stack(queues, axis=1).ravel()]


def own_layers(group: Group) -> tuple[str, ...]:
    """Layers whose own channels are the group's: producers and what follows per channel."""
    paths = [slot.layer for slot in group.slots if slot.role != "consumer"]
    return tuple(dict.fromkeys([group.name, *paths]))


def match_groups(
    wanted: Mapping[str, Value] | Iterable[str], groups: Sequence[Group], argument: str
) -> dict[str, tuple[str, Any]]:
    """Resolves names and wildcards of groups or of their layers.

    Args:
        wanted: Values by name or wildcard; or just the names. An exact name beats a wildcard,
            of several wildcards the last one counts.
        groups: The groups to choose from.
        argument: Name of the argument, for the error.

    Returns:
        For each matched group the name or wildcard that matched it, and the value.

    Raises:
        ValueError: If a name matches no group, or two names give one group different values.
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
            raise ValueError(_unknown_name(pattern, owners, argument))
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
    """Whether a pattern can match more than the name it spells."""
    return not _WILDCARDS.isdisjoint(pattern)


def _unknown_name(pattern: str, known: Iterable[str], argument: str) -> str:
    names = list(known)
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.5)
    hint = f"Did you mean {near}?" if near else f"Known names begin with {sorted(names)[:8]}."
    return (
        f"`{argument}` must name groups or their layers, wildcards allowed. "
        f"Received: {pattern!r}, which matches none. {hint}"
    )


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
