"""Families of configurations from the full network, at 0, to the narrowest widths, at 1."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from spade_keras.search.knapsack import Cost, Knapsack
from spade_keras.search.objective import KeptShare
from spade_keras.search.space import Configuration, SearchSpace

Curve = Callable[[float], Configuration]
"""From an amount between 0 and 1 to a configuration; the cost falls as the amount rises."""

_LEAST_SENSITIVITY = 1e-3


def uniform_curve(space: SearchSpace) -> Curve:
    """All groups pruned by one ratio, each to the allowed width nearest to it.

    Args:
        space: The widths allowed.
    """
    most = max((1 - v.edges[0] / v.edges[-1] for v in space.variables), default=0.0)

    def curve(amount: float) -> Configuration:
        return space.uniform(_checked(amount) * most)

    return curve


def sensitivity_curve(space: SearchSpace, sensitivities: Mapping[str, float]) -> Curve:
    """Every group pruned until each loses equally much quality, were it pruned alone.

    The loss s_g at a ratio of one half, as `seeds.sensitivities` measures it, is taken to grow with
    the square of the ratio: a loss of L allows group g the ratio (1/2) sqrt(L / s_g), up to its
    narrowest width. The amount is the share of all removable width that is removed.

    Args:
        space: The widths allowed.
        sensitivities: Group -> s_g. Losses below a thousandth of the largest, gains included, count
            as that; an infinite one keeps its group as long as another can be narrowed.

    Raises:
        ValueError: If a group has no sensitivity.
    """
    missing = [v.group for v in space.variables if v.group not in sensitivities]
    if missing:
        raise ValueError(
            f"`sensitivities` must have every group of the space. Received: none for {missing}"
        )
    losses = np.array([float(sensitivities[v.group]) for v in space.variables])
    losses[np.isnan(losses)] = np.inf
    finite = losses[np.isfinite(losses)]
    largest = float(finite.max(initial=0.0)) or 1.0
    losses = np.clip(losses, _LEAST_SENSITIVITY * largest, largest / _LEAST_SENSITIVITY)
    rates = 1 / np.sqrt(losses)
    caps = np.array([1 - v.edges[0] / v.edges[-1] for v in space.variables])
    widths = np.array([v.edges[-1] for v in space.variables], float)
    # What is removed rises piecewise linearly with the level of loss, and bends where a group
    # has reached its narrowest width.
    levels = np.unique(np.concatenate([[0.0], caps / rates]))
    removed = np.array([(np.minimum(caps, level * rates) * widths).sum() for level in levels])

    def curve(amount: float) -> Configuration:
        level = np.interp(_checked(amount) * removed[-1], removed, levels)
        kept = widths * (1 - np.minimum(caps, level * rates))
        groups = [v.group for v in space.variables]
        return space.snap(dict(zip(groups, kept.tolist(), strict=True)))

    return curve


def knapsack_curve(space: SearchSpace, importances: Mapping[str, KeptShare], cost: Cost) -> Curve:
    """The widths that keep most importance within a predicted cost; see `Knapsack`.

    Maximized is sum_g k_g log(share of its importance that group g keeps), with k_g the number of
    kernels that the group's channels pass through. The logarithm keeps the solution from strangling
    one group to spare the others, which a plain sum does. The amount is the share of the removable
    cost that is removed at least: the cost follows it to within a step of the widths.

    Args:
        space: The widths allowed.
        importances: Of `kept_importance.kept_shares`.
        cost: Predicts the cost of a configuration, such as `LayerTable.predict_ms`.

    Raises:
        ValueError: If a group of the space has no importance.
    """
    knapsack = Knapsack(space, knapsack_values(space, importances), cost)

    @functools.cache
    def curve(amount: float) -> Configuration:
        if _checked(amount) == 0:
            return space.full
        removable = knapsack.full_cost - knapsack.narrowest_cost
        return knapsack.solve(knapsack.full_cost - amount * removable)

    return curve


def knapsack_values(
    space: SearchSpace, importances: Mapping[str, KeptShare]
) -> dict[str, list[float]]:
    """Returns group -> value of each of its edges, 0 at the full width."""
    missing = [v.group for v in space.variables if v.group not in importances]
    if missing:
        raise ValueError(
            f"`importances` must have every group of the space. Received: none for {missing}"
        )
    return {
        v.group: [_value(importances[v.group], edge) for edge in v.edges] for v in space.variables
    }


def ranks_curve(space: SearchSpace) -> Curve:
    """All layers that may become pairs by one ratio of their ranks, at full widths.

    Args:
        space: The ranks allowed.
    """

    def curve(amount: float) -> Configuration:
        _checked(amount)
        ranks = {}
        for variable in space.ranks:
            wanted = np.interp(amount, [0, 1], [variable.edges[-1], variable.edges[0]])
            rank = min(variable.edges, key=lambda edge: abs(edge - wanted))
            if rank < variable.edges[-1]:
                ranks[variable.layer] = rank
        return replace(space.full, ranks=ranks)

    return curve


def iterations_curve(space: SearchSpace) -> Curve:
    """Fewer iterations at full widths.

    Args:
        space: With at least one iteration count.
    """
    counts = space.iterations[::-1]

    def curve(amount: float) -> Configuration:
        place = round(_checked(amount) * (len(counts) - 1))
        return replace(space.full, iterations=counts[place])

    return curve


def _value(kept: KeptShare, width: int) -> float:
    return kept.weight * float(np.log(max(kept.shares[width], 1e-12)))


def _checked(amount: float) -> float:
    if not 0 <= amount <= 1:
        raise ValueError(f"`amount` must be from 0 to 1. Received: amount={amount}")
    return amount
