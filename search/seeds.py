"""Configurations worth trying before a sampler has seen anything."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from spade_keras.errors import require
from spade_keras.pruning.importance import ImportanceFunction
from spade_keras.registry import SEEDS
from spade_keras.search.knapsack import (
    Cost,
    kept_values,
    knapsack_curve,
    output_values,
    predicted_cost,
)
from spade_keras.search.objective import kept_shares
from spade_keras.search.space import Configuration, Curve, SearchSpace, checked_amount

Excess = Callable[[Configuration], float]
"""Measures by how much a configuration misses the budget: met at 0 and below."""

_RUNGS = 256
_STEPS = 5
_CLOSE = 0.02
_LEAST_SENSITIVITY = 1e-3


@dataclass
class Proposer:
    """The inputs of a family of seeds; functions in `SEEDS` take it and return a `Curve`.

    `quality` judges a configuration as pruned, higher is better; the sensitivity family alone asks
    it, once per group. `cost` predicts the cost of a configuration, in the unit `priced_by`.
    `fidelity` is minus the relative error of a configuration's outputs; see `output_values`.

    Example:
        >>> @SEEDS.register("half")
        ... def half(proposer):
        ...     return lambda amount: proposer.space.uniform(amount / 2)
        >>> SEEDS.unregister("half")
    """

    network: keras.Model
    space: SearchSpace
    quality: Callable[[Configuration], float] | None
    importance: str | ImportanceFunction
    cost: Cost
    priced_by: str
    fidelity: Callable[[Configuration], float] | None = None


def uniform(proposer: Proposer) -> Curve:
    """Every group by one ratio."""
    return uniform_curve(proposer.space)


def sensitivity(proposer: Proposer) -> Curve:
    """Every group until each loses the same quality."""
    if proposer.quality is None:
        raise ValueError(
            "`quality` must be given for the seeds 'sensitivity', which prune one group at a "
            "time and look at the loss. Received: quality=None. Leave them out of `seeds`."
        )
    return sensitivity_curve(proposer.space, sensitivities(proposer.space, proposer.quality))


def knapsack(proposer: Proposer) -> Curve:
    """Least error at the outputs within the predicted cost, or else most importance kept."""
    if proposer.fidelity is None:
        shares = kept_shares(proposer.network, proposer.importance)
        values = kept_values(proposer.space, shares)
    else:
        values = output_values(proposer.space, proposer.fidelity)
    return knapsack_curve(proposer.space, values, proposer.cost)


def propose(  # noqa: PLR0913 - what each family asks is a keyword of its own
    names: Sequence[str],
    network: keras.Model,
    space: SearchSpace,
    *,
    excess: Excess,
    quality: Callable[[Configuration], float] | None = None,
    table: Any = None,
    importance: str | ImportanceFunction = "group_l1",
    inputs: Any = None,
    fidelity: Callable[[Configuration], float] | None = None,
) -> list[tuple[str, Configuration]]:
    """Brings families of configurations to the budget, by measuring.

    The names are keys of `SEEDS`; where iterations or ranks are searched, fewer iterations and
    lower ranks at full widths are proposed as well. `excess` is asked about five times per family;
    see `Proposer` for `quality` and `fidelity`. The cost of configurations is predicted by a
    `LayerTable`, or else by counting multiply-accumulates for the inputs, which may be arrays or
    shapes.

    Returns:
        Origin and configuration, each configuration once; families that never meet the budget are
        left out. The last is the narrowest configuration, the fastest there is: a budget that it
        misses is out of reach.
    """
    families = [SEEDS[name] for name in names]
    curves: list[tuple[str, Curve, Cost | None]] = []
    if space.variables and names:
        priced_by, cost = predicted_cost(network, table=table, inputs=inputs)
        proposer = Proposer(network, space, quality, importance, cost, priced_by, fidelity)
        for name, family in zip(names, families, strict=True):
            origin = f"{name} (by {priced_by})" if family is knapsack else name
            curves.append((origin, family(proposer), cost))
    if space.iterations and names:
        curves.append(("fewer iterations", iterations_curve(space), None))
    if space.ranks and names:
        curves.append(("lower ranks", ranks_curve(space), None))
    fewest = space.iterations[0] if space.iterations else None
    narrowest = replace(space.narrowest, iterations=fewest, dropped=space.blocks)
    found = {narrowest.key(): ("narrowest", narrowest)}
    for origin, curve, predicted in curves:
        met = to_budget(curve, excess, predicted=predicted)
        if met is not None:
            found.setdefault(met.key(), (origin, met))
    first, *others = found.values()
    return [*others, first]


def to_budget(
    curve: Curve, excess: Excess, *, predicted: Cost | None = None
) -> Configuration | None:
    """Finds the largest configuration of a family that is measured to meet the budget, or None.

    The amount is bracketed between one that misses the budget and one that meets it. Each step
    measures where the excess, as a linear function of the predicted cost, falls just below 0, and
    halves the bracket where that function fails to shrink it. At most five are measured besides
    the full configuration, fewer if the budget is met within 2 %. Without a prediction the cost is
    assumed to fall linearly with the amount.
    """
    bracket = _Bracket(curve, excess, predicted)
    if bracket.ask(0) <= 0:
        return curve(0.0)
    while bracket.asked <= _STEPS and bracket.high - bracket.low > 1:
        rung = _RUNGS if bracket.asked == _STEPS and bracket.met is None else bracket.guess()
        if -_CLOSE <= bracket.ask(rung) <= 0:
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
    _measured: dict[tuple[Any, ...], tuple[float, float]] = field(default_factory=dict)
    _widths: list[int] = field(default_factory=lambda: [_RUNGS])

    @property
    def asked(self) -> int:
        return len(self._measured)

    def configuration(self, rung: int) -> Configuration:
        return self.curve(rung / _RUNGS)

    def cost(self, rung: int) -> float:
        if self.predicted is None:
            return float(_RUNGS - rung)
        return self.predicted(self.configuration(rung))

    def ask(self, rung: int) -> float:
        configuration = self.configuration(rung)
        key = configuration.key()
        if key not in self._measured:
            self._measured[key] = self.cost(rung), self.excess(configuration)
        _, reached = self._measured[key]
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
        rungs = range(self.low + 1, self.high - 1)
        first = bisect.bisect_left(rungs, True, key=lambda rung: self.cost(rung) <= wanted)
        return self.low + 1 + first

    def _wanted_cost(self) -> float | None:
        aim = -_CLOSE / 2
        points = sorted(self._measured.values(), key=lambda point: abs(point[1] - aim))
        (cost, excess), *others = points
        for other_cost, other_excess in others:
            if (other_cost - cost) * (other_excess - excess) > 0:
                slope = (other_excess - excess) / (other_cost - cost)
                return cost + (aim - excess) / slope
        return None if self.predicted is None else cost * (1 + aim) / (1 + excess)


def sensitivities(
    space: SearchSpace, quality: Callable[[Configuration], float]
) -> dict[str, float]:
    """Measures the loss of quality when each group alone is halved; infinite for NaN.

    Where no allowed width is near one half, the nearest narrower one is taken and its loss scaled
    by the square of the ratios.
    """
    whole = quality(space.full)
    found = {}
    for variable in space.variables:
        *narrower, width = variable.edges
        if not narrower:
            found[variable.name] = 0.0
            continue
        edge = min(narrower, key=lambda edge: abs(edge - width / 2))
        loss = whole - quality(space.snap({**space.full.widths, variable.name: edge}))
        scaled = loss * (0.5 / (1 - edge / width)) ** 2
        found[variable.name] = float("inf") if np.isnan(scaled) else float(scaled)
    return found


def uniform_curve(space: SearchSpace) -> Curve:
    """All groups pruned by one ratio, each to the nearest allowed width."""
    most = max((1 - v.edges[0] / v.edges[-1] for v in space.variables), default=0.0)
    return lambda amount: space.uniform(checked_amount(amount) * most)


def sensitivity_curve(space: SearchSpace, sensitivities: Mapping[str, float]) -> Curve:
    """Every group pruned until each loses the same quality, were it pruned alone.

    The loss s_g at a ratio of one half, as `sensitivities` measures it, is taken to grow with the
    square of the ratio: a loss of L allows group g the ratio (1/2) sqrt(L / s_g), up to its
    narrowest width. The amount is the share of all removable width that is removed. Losses below a
    thousandth of the largest, gains included, count as that; an infinite one keeps its group as
    long as another can be narrowed.
    """
    missing = [v.name for v in space.variables if v.name not in sensitivities]
    require(not missing, "`sensitivities` must have every group of the space.", missing=missing)
    losses = np.array([float(sensitivities[v.name]) for v in space.variables])
    losses[np.isnan(losses)] = np.inf
    largest = float(losses[np.isfinite(losses)].max(initial=0.0)) or 1.0
    losses = np.clip(losses, _LEAST_SENSITIVITY * largest, largest / _LEAST_SENSITIVITY)
    rates = 1 / np.sqrt(losses)
    caps = np.array([1 - v.edges[0] / v.edges[-1] for v in space.variables])
    widths = np.array([v.edges[-1] for v in space.variables], float)
    # The removed share rises piecewise linearly with the level of loss, and bends where a group
    # has reached its narrowest width.
    levels = np.unique(np.concatenate([[0.0], caps / rates]))
    removed = np.array([(np.minimum(caps, level * rates) * widths).sum() for level in levels])

    def curve(amount: float) -> Configuration:
        level = np.interp(checked_amount(amount) * removed[-1], removed, levels)
        kept = widths * (1 - np.minimum(caps, level * rates))
        groups = [v.name for v in space.variables]
        return space.snap(dict(zip(groups, kept.tolist(), strict=True)))

    return curve


def ranks_curve(space: SearchSpace) -> Curve:
    """All layers that may become pairs by one ratio of their ranks, at full widths."""

    def curve(amount: float) -> Configuration:
        checked_amount(amount)
        wanted = {v: v.edges[-1] + amount * (v.edges[0] - v.edges[-1]) for v in space.ranks}
        ranks = {v: v.edges[v.place(rank)] for v, rank in wanted.items()}
        lower = {v.name: rank for v, rank in ranks.items() if rank < v.edges[-1]}
        return replace(space.full, ranks=lower)

    return curve


def iterations_curve(space: SearchSpace) -> Curve:
    """Fewer iterations at full widths."""
    counts = space.iterations[::-1]

    def curve(amount: float) -> Configuration:
        place = round(checked_amount(amount) * (len(counts) - 1))
        return replace(space.full, iterations=counts[place])

    return curve
