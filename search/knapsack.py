"""The widths of most value within a predicted cost: a knapsack whose items multiply."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np

from spade_keras.pruning import find_groups
from spade_keras.pruning.cost import PlanCost
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.search.objective import KeptShare
from spade_keras.search.space import Configuration, Curve, SearchSpace, checked_amount

Cost = Callable[[Configuration], float]
"""Predicts what a configuration costs, in any unit."""

_PRICES = 160
_REACH = 4
_ROUNDS = 60
_STARTS = 6
_CUTS, _MOST_CUTS = 5, 40
_LEAST_ERROR = 1e-12


class Knapsack:
    r"""Maximizes sum_g v_g(w_g) subject to C(w) <= limit over the widths w_g of all groups g.

    A layer's cost depends on the product of its input's and its output's width, so the items of
    this knapsack are not independent and a table over costs would be wrong. Instead:

    1. C is asked once for every width alone and once for every pair of groups, which gives

           C(w) ~ C(full) - sum_g u_g(w_g) + sum_{g<h} d_gh s_g(w_g) s_h(w_h)

       with the savings u_g of one group alone, s_g = u_g / max u_g, and d_gh what two groups would
       save twice. This is exact where each layer's cost is linear in either width.
    2. max sum_g v_g - price C is solved for a range of prices by coordinate ascent, each price from
       the solution of the one before.
    3. What a price leaves of the limit is filled by the best single moves, and by exchanges
       between two groups, until none helps, from several of these solutions.
    4. The answer is checked with C itself; where that is above the limit the model is given less.

    `values` are those of each group's edges, rising with the width.
    """

    def __init__(
        self, space: SearchSpace, values: Mapping[str, Sequence[float]], cost: Cost
    ) -> None:
        self.space, self._cost = space, cost
        for variable in space.variables:
            given = np.asarray(values.get(variable.name, ()), float)
            if given.shape != (len(variable.edges),) or not np.isfinite(given).all():
                raise ValueError(
                    "`values` must have a finite number for each edge of each group. Received: "
                    f"values[{variable.name!r}]={values.get(variable.name)} for edges "
                    f"{variable.edges}"
                )
        # Rows are padded in front with the narrowest edge, so that the last column is the full one.
        self._count = max(len(variable.edges) for variable in space.variables)
        self._padding = [self._count - len(v.edges) for v in space.variables]
        self._values = self._padded([values[v.name] for v in space.variables])

    @cached_property
    def cost_range(self) -> tuple[float, float]:
        """The predicted costs of the narrowest widths and of the full ones."""
        return self._cost(self.space.narrowest), self._model.base

    def solve(self, limit: float) -> Configuration:
        """Returns the best configuration that costs at most `limit`, else the narrowest."""
        aim = limit
        for _ in range(8):
            improved = [self._improve(start, aim) for start in self._starts(aim)]
            found = self._configuration(max(improved, key=self._value))
            reached = self._cost(found)
            if reached <= limit:
                return found
            aim -= 1.05 * (reached - limit)
        return self.space.narrowest

    @cached_property
    def _model(self) -> _PairwiseCost:
        edges = self._padded([v.edges for v in self.space.variables])
        return _PairwiseCost(self.space, edges, self._cost)

    @cached_property
    def _path(self) -> list[np.ndarray]:
        """Solutions for rising prices, from the full widths down."""
        model, chosen = self._model, np.full(len(self._values), self._count - 1)
        spread = float(np.max(self._values[:, -1] - self._values.min(axis=1), initial=0.0))
        unit = max(spread, 1e-12) / max(model.base, 1e-12)
        path = [chosen.copy()]
        for price in unit * np.geomspace(1e-4, 1e6, _PRICES):
            for _ in range(_ROUNDS):
                before = chosen.copy()
                for group in range(len(chosen)):
                    gain = self._values[group] - price * model.alone(group, chosen)
                    # Of equals the widest, which is the last.
                    chosen[group] = len(gain) - 1 - int(np.argmax(gain[::-1]))
                if np.array_equal(before, chosen):
                    break
            if not np.array_equal(path[-1], chosen):
                path.append(chosen.copy())
        return [*path, np.zeros_like(chosen)]

    def _starts(self, limit: float) -> list[np.ndarray]:
        fitting = [chosen for chosen in self._path if self._model.total(chosen) <= limit]
        best = sorted(fitting, key=self._value)[-_STARTS:]
        return [chosen.copy() for chosen in best] or [np.zeros(len(self._values), int)]

    def _improve(self, chosen: np.ndarray, limit: float) -> np.ndarray:
        """Single moves, then exchanges of a gain against a loss, as long as the value rises."""
        model, groups = self._model, np.arange(len(chosen))
        steps = np.array([step for step in range(-_REACH, _REACH + 1) if step])
        for _ in range(_ROUNDS * len(chosen)):
            group, step = (axis.ravel() for axis in np.meshgrid(groups, steps, indexing="ij"))
            target = chosen[group] + step
            inside = (target >= 0) & (target < self._count)
            group, target = group[inside], target[inside]
            gain = self._values[group, target] - self._values[group, chosen[group]]
            more = model.differences(chosen, group, target)
            room = limit - model.total(chosen)
            best = np.where((gain > 0) & (more <= room), gain, 0)
            if np.any(best > 0):
                move = int(np.argmax(best))
                chosen[group[move]] = target[move]
                continue
            up, down = np.flatnonzero(gain > 0), np.flatnonzero(gain < 0)
            if not len(up) or not len(down):
                break
            shift = model.shares[group, target] - model.shares[group, chosen[group]]
            both = (
                more[up, None]
                + more[down]
                + model.joint[np.ix_(group[up], group[down])] * (shift[up, None] * shift[down])
            )
            total = gain[up, None] + gain[down]
            allowed = (both <= room) & (group[up, None] != group[down]) & (total > 1e-12)
            if not allowed.any():
                break
            first, second = np.unravel_index(np.argmax(np.where(allowed, total, 0)), total.shape)
            for move in (up[first], down[second]):
                chosen[group[move]] = target[move]
        return chosen

    def _value(self, chosen: np.ndarray) -> float:
        return float(self._values[np.arange(len(chosen)), chosen].sum())

    def _configuration(self, chosen: np.ndarray) -> Configuration:
        columns = np.maximum(chosen - self._padding, 0)
        pairs = zip(self.space.variables, columns, strict=True)
        return self.space.snap({variable.name: variable.edges[place] for variable, place in pairs})

    def _padded(self, rows: Sequence[Sequence[float]]) -> np.ndarray:
        pairs = zip(rows, self._padding, strict=True)
        return np.array([[row[0]] * missing + list(row) for row, missing in pairs])


class _PairwiseCost:
    """The model of the cost: savings of every group alone, less what pairs would save twice."""

    def __init__(self, space: SearchSpace, edges: np.ndarray, cost: Cost) -> None:
        full = space.full.widths
        groups = list(full)
        self.base = cost(space.full)

        def saved(narrowed: dict[str, int]) -> float:
            return self.base - cost(space.snap({**full, **narrowed}))

        known = {
            v.name: {edge: saved({v.name: edge}) for edge in v.edges[:-1]} | {v.edges[-1]: 0.0}
            for v in space.variables
        }
        self.savings = np.array(
            [[known[g][edge] for edge in row] for g, row in zip(groups, edges, strict=True)]
        )
        most = self.savings[:, :1]
        self.shares = np.divide(self.savings, most, out=np.zeros_like(self.savings), where=most > 0)
        self.joint = np.zeros((len(groups), len(groups)))
        narrow = space.narrowest.widths
        for i, first in enumerate(groups):
            for j, second in enumerate(groups[:i]):
                both = saved({first: narrow[first], second: narrow[second]})
                self.joint[i, j] = self.joint[j, i] = most[i, 0] + most[j, 0] - both

    def total(self, chosen: np.ndarray) -> float:
        groups = np.arange(len(chosen))
        shares = self.shares[groups, chosen]
        saved = self.savings[groups, chosen].sum()
        return float(self.base - saved + shares @ self.joint @ shares / 2)

    def alone(self, group: int, chosen: np.ndarray) -> np.ndarray:
        """Cost of every edge of one group, up to a constant, with the others as chosen."""
        shares = self.shares[np.arange(len(chosen)), chosen]
        return self.shares[group] * (self.joint[group] @ shares) - self.savings[group]

    def differences(self, chosen: np.ndarray, group: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The cost that moving each `group` to each `target` adds."""
        shares = self.shares[np.arange(len(chosen)), chosen]
        shift = self.shares[group, target] - shares[group]
        saved = self.savings[group, target] - self.savings[group, chosen[group]]
        return shift * (self.joint @ shares)[group] - saved


def knapsack_curve(space: SearchSpace, values: Mapping[str, Sequence[float]], cost: Cost) -> Curve:
    """The widths of most value within a predicted cost; see `Knapsack`.

    The amount is the least share of the removable cost to remove: the cost follows it to within a
    step of the widths.
    """
    knapsack = Knapsack(space, values, cost)

    @functools.cache
    def curve(amount: float) -> Configuration:
        if checked_amount(amount) == 0:
            return space.full
        least, full = knapsack.cost_range
        return knapsack.solve(full - amount * (full - least))

    return curve


def kept_values(space: SearchSpace, importances: Mapping[str, KeptShare]) -> dict[str, list[float]]:
    """Returns group -> value of each of its edges, 0 at the full width, by importance alone.

    The value is k_g log(share of its importance that group g keeps), with k_g the number of kernels
    that the group's channels pass through. The logarithm keeps the solution from strangling one
    group to spare the others, as a plain sum would.
    """
    missing = [v.name for v in space.variables if v.name not in importances]
    if missing:
        raise ValueError(
            f"`importances` must have every group of the space. Received: none for {missing}"
        )

    def value(kept: KeptShare, width: int) -> float:
        return kept.weight * float(np.log(max(kept.shares[width], 1e-12)))

    return {v.name: [value(importances[v.name], edge) for edge in v.edges] for v in space.variables}


def output_values(
    space: SearchSpace, fidelity: Callable[[Configuration], float]
) -> dict[str, list[float]]:
    """Returns group -> value of each of its edges: the fidelity -e of a cut of that group alone.

    It is asked at up to five widths of every group, at fewer of many groups: at most 40 times in
    all, but once per group at least. Between those log e is linear in log r, with r the channels
    removed; where one width alone is measured, e grows with the square of r. NaN and errors above 1
    count as 1. Small errors of several groups add at the output, so their sum is what counts.
    """
    count = max(1, min(_CUTS, _MOST_CUTS // max(1, len(space.variables))))
    values = {}
    for variable in space.variables:
        width, *narrower = variable.edges[::-1]
        if not narrower:
            values[variable.name] = [0.0]
            continue
        last = len(narrower) - 1
        places = np.linspace(0, last, count) if count > 1 else np.array([last / 2])
        chosen = np.unique(places.round().astype(int))
        removed = np.log(width - np.array(narrower, float))
        cuts = [{**space.full.widths, variable.name: narrower[place]} for place in chosen]
        found = -np.array([fidelity(space.snap(widths)) for widths in cuts])
        found = np.maximum.accumulate(np.clip(np.nan_to_num(found, nan=1.0), _LEAST_ERROR, 1.0))
        level = np.log(found) - 2 * removed[chosen]
        errors = np.exp(2 * removed + np.interp(removed, removed[chosen], level))
        values[variable.name] = [*(-errors[::-1]).tolist(), 0.0]
    return values


def predicted_cost(
    network: keras.Model, *, table: Any = None, inputs: Any = None
) -> tuple[str, Cost]:
    """Returns the best prediction at hand: "layer times", "MACs" or "parameters", and its function.

    Without a table (anything with `predict_ms(configuration)`) widths are priced by
    multiply-accumulates of the inputs, and by parameters where input sizes are open.
    """
    if table is not None:
        return "layer times", table.predict_ms
    counted = PlanCost(network, find_groups(network), WeightTable(network), inputs)
    which = 0 if counted.macs is None else 1
    return ("parameters", "MACs")[which], lambda c: float(counted.total(c.widths)[which] or 0)
