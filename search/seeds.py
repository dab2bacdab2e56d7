"""Configurations worth trying before a sampler has seen anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from spade_keras.search.curves import (
    Curve,
    iterations_curve,
    knapsack_curve,
    ranks_curve,
    sensitivity_curve,
    uniform_curve,
)
from spade_keras.search.knapsack import Cost
from spade_keras.search.objective import kept_shares
from spade_keras.search.predicted_cost import predicted_cost
from spade_keras.search.space import Configuration, SearchSpace

Excess = Callable[[Configuration], float]
"""Measures by how much a configuration misses the budget: met at 0 and below."""

_RUNGS = 256
_CLOSE = 0.02


@dataclass
class Proposer:
    """What families of seeds are made from.

    Attributes:
        network: The full network.
        space: What may be chosen.
        quality: Quality of a configuration as pruned, higher is better; asked once per group by
            the sensitivity family alone.
        importance: Criterion by which channels are kept.
        cost: Predicts the cost of a configuration.
        priced_by: What the prediction is made of.
    """

    network: keras.Model
    space: SearchSpace
    quality: Callable[[Configuration], float] | None
    importance: str
    cost: Cost
    priced_by: str

    def uniform(self) -> Curve:
        """Every group by one ratio."""
        return uniform_curve(self.space)

    def sensitivity(self) -> Curve:
        """Every group until each loses equally much quality.

        Raises:
            ValueError: If there is no quality.
        """
        if self.quality is None:
            raise ValueError(
                "`quality` must be given for the seeds 'sensitivity', which prune one group at a "
                "time and look at the loss. Received: quality=None. Leave them out of `seeds`."
            )
        return sensitivity_curve(self.space, sensitivities(self.space, self.quality))

    def knapsack(self) -> Curve:
        """Most importance kept within the predicted cost."""
        shares = kept_shares(self.network, self.importance)
        return knapsack_curve(self.space, shares, self.cost)


SEEDS: dict[str, Callable[[Proposer], Curve]] = {
    "uniform": Proposer.uniform,
    "sensitivity": Proposer.sensitivity,
    "knapsack": Proposer.knapsack,
}
"""Families of seeds by name."""


def propose(
    names: Sequence[str],
    network: keras.Model,
    space: SearchSpace,
    *,
    excess: Excess,
    quality: Callable[[Configuration], float] | None = None,
    table: Any = None,
    importance: str = "group_l1",
    inputs: Any = None,
) -> list[tuple[str, Configuration]]:
    """Brings families of configurations to the budget, by measuring.

    Args:
        names: Keys of `SEEDS`. Where iterations or ranks are searched, fewer iterations and lower
            ranks at full widths are proposed as well.
        network: The full network.
        space: What may be chosen.
        excess: Measures a configuration; asked about five times per family.
        quality: See `Proposer`.
        table: A `LayerTable`; see `predicted_cost`.
        importance: Criterion by which channels are kept.
        inputs: What to count multiply-accumulates for, where there is no table: arrays, or for
            models that are no networks with `priors` shapes.

    Returns:
        Origin and configuration, each configuration once; families that meet the budget nowhere
        are left out. The last is the narrowest configuration, the fastest there is: a budget that
        it misses is out of reach.

    Raises:
        ValueError: If a name is unknown, or "sensitivity" is asked for without a quality.
    """
    unknown = [name for name in names if name not in SEEDS]
    if unknown:
        raise ValueError(f"`seeds` must be among {sorted(SEEDS)}. Received: seeds={list(names)}")
    found: list[tuple[str, Configuration]] = []
    if space.variables and names:
        priced_by, cost = predicted_cost(network, table=table, inputs=inputs)
        proposer = Proposer(network, space, quality, importance, cost, priced_by)
        for name in names:
            met = to_budget(SEEDS[name](proposer), excess, predicted=cost)
            origin = f"{name} (by {priced_by})" if name == "knapsack" else name
            found += [] if met is None else [(origin, met)]
    if space.iterations and names:
        met = to_budget(iterations_curve(space), excess)
        found += [] if met is None else [("fewer iterations", met)]
    if space.ranks and names:
        met = to_budget(ranks_curve(space), excess)
        found += [] if met is None else [("lower ranks", met)]
    found.append(("narrowest", _fastest(space)))
    last = found[-1][1].key()
    kept = {c.key(): (origin, c) for origin, c in reversed(found[:-1]) if c.key() != last}
    return [*reversed(kept.values()), found[-1]]


def to_budget(
    curve: Curve, excess: Excess, *, steps: int = 5, predicted: Cost | None = None
) -> Configuration | None:
    """Finds the largest configuration of a family that is measured to meet the budget.

    The amount is bracketed between one that misses the budget and one that meets it. Each step
    measures where the excess, as a linear function of the predicted cost, falls just below 0, and
    halves the bracket where that function fails to shrink it.

    Args:
        curve: The family; see `curves`.
        excess: Measures a configuration. The full one is always asked, for the scale.
        steps: How many others may be asked; fewer are if one is met within 2 %.
        predicted: Predicts the cost of a configuration in any unit; None: the amount itself is
            taken for what the cost falls with.

    Returns:
        The configuration, or None if none of those asked met the budget.

    Example:
        >>> space = SearchSpace.from_edges({"a": range(1, 101)})
        >>> found = to_budget(uniform_curve(space), lambda c: c.widths["a"] / 70 - 1)
        >>> 68 <= found.widths["a"] <= 70
        True
    """
    if isinstance(steps, bool) or steps < 1:
        raise ValueError(f"`steps` must be an integer of at least 1. Received: steps={steps}")
    bracket = _Bracket(curve, excess, predicted)
    if bracket.ask(0) <= 0:
        return curve(0.0)
    while bracket.asked <= steps and bracket.high - bracket.low > 1:
        rung = _RUNGS if bracket.asked == steps and bracket.met is None else bracket.guess()
        reached = bracket.ask(rung)
        if -_CLOSE <= reached <= 0:
            break
    return None if bracket.met is None else bracket.configuration(bracket.met)


@dataclass
class _Bracket:
    """The part of a curve in which the excess changes its sign, in rungs from 0 to `_RUNGS`."""

    curve: Curve
    excess: Excess
    predicted: Cost | None
    low: int = 0
    high: int = _RUNGS
    met: int | None = None
    measured: dict[tuple[Any, ...], float] = field(default_factory=dict)
    _points: list[tuple[float, float]] = field(default_factory=list)
    _costs: dict[int, float] = field(default_factory=dict)
    _widths: list[int] = field(default_factory=lambda: [_RUNGS])

    @property
    def asked(self) -> int:
        return len(self.measured)

    def configuration(self, rung: int) -> Configuration:
        return self.curve(rung / _RUNGS)

    def cost(self, rung: int) -> float:
        if self.predicted is None:
            return float(_RUNGS - rung)
        if rung not in self._costs:
            self._costs[rung] = self.predicted(self.configuration(rung))
        return self._costs[rung]

    def ask(self, rung: int) -> float:
        configuration = self.configuration(rung)
        key = configuration.key()
        if key not in self.measured:
            self.measured[key] = self.excess(configuration)
            self._points.append((self.cost(rung), self.measured[key]))
        reached = self.measured[key]
        if reached <= 0:
            self.high = self.met = min(self.high, rung)
        else:
            self.low = max(self.low, rung)
        self._widths.append(self.high - self.low)
        return reached

    def guess(self) -> int:
        """The first rung whose cost lies under the one at which the excess should be just met."""
        wanted = self._wanted_cost()
        stuck = len(self._widths) > 3 and self._widths[-1] > self._widths[-3] / 2
        if wanted is None or stuck:
            return (self.low + self.high) // 2
        rungs = range(self.low + 1, self.high)
        low, high = 0, len(rungs) - 1
        while low < high:
            middle = (low + high) // 2
            if self.cost(rungs[middle]) <= wanted:
                high = middle
            else:
                low = middle + 1
        return rungs[low]

    def _wanted_cost(self) -> float | None:
        aim = -_CLOSE / 2
        (cost, excess), *others = sorted(self._points, key=lambda point: abs(point[1] - aim))
        for other_cost, other_excess in others:
            if (other_cost - cost) * (other_excess - excess) > 0:
                slope = (other_excess - excess) / (other_cost - cost)
                return cost + (aim - excess) / slope
        return None if self.predicted is None else cost * (1 + aim) / (1 + excess)


def sensitivities(
    space: SearchSpace, quality: Callable[[Configuration], float], *, ratio: float = 0.5
) -> dict[str, float]:
    """Measures what each group's pruning costs in quality, that group alone pruned.

    Args:
        space: The widths allowed.
        quality: Quality of a configuration, higher is better.
        ratio: Share of a group's channels to remove. Where no allowed width is near, the nearest
            narrower one is taken and its loss scaled by the square of the ratios.

    Returns:
        Group -> loss of quality; infinite where the quality is NaN.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"`ratio` must be above 0 and below 1. Received: ratio={ratio}")
    whole = quality(space.full)
    found = {}
    for variable in space.variables:
        *narrower, width = variable.edges
        if not narrower:
            found[variable.group] = 0.0
            continue
        edge = min(narrower, key=lambda edge: abs(edge - width * (1 - ratio)))
        loss = whole - quality(space.snap({**space.full.widths, variable.group: edge}))
        scaled = loss * (ratio / (1 - edge / width)) ** 2
        found[variable.group] = float("inf") if np.isnan(scaled) else float(scaled)
    return found


def _fastest(space: SearchSpace) -> Configuration:
    """The narrowest widths, the fewest iterations and none of the blocks that may go."""
    fewest = space.iterations[0] if space.iterations else None
    return replace(space.narrowest, iterations=fewest, dropped=space.blocks)
