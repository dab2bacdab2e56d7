"""What narrowing groups saves, from the shapes of weights alone: no model is built."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from spade_keras.errors import OpenSizesError
from spade_keras.pruning.cost import count_parameters, work_of
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.groups import Group
from spade_keras.pruning.mac_rules import Term


class PlanCost:
    """Parameters and multiply-accumulates of a model as functions of its groups' widths.

    Args:
        model: The model, or a network with `priors`.
        groups: Its groups.
        weights: Its weights.
        inputs: Arrays or shapes to count the multiply-accumulates for. None: the shapes the
            model declares; if they leave sizes open, `macs` is None.
    """

    def __init__(
        self, model: Any, groups: Sequence[Group], weights: WeightTable, inputs: Any = None
    ) -> None:
        self.parameters = count_parameters(model)
        self._groups = groups
        self._shapes: dict[int, tuple[int, ...]] = {}
        self._cuts: dict[str, dict[tuple[int, int], int]] = {}
        for group in groups:
            cuts = self._cuts.setdefault(group.name, {})
            for slot in group.slots:
                variable = weights.variable(slot)
                self._shapes[id(variable)] = tuple(variable.shape)
                key = (id(variable), slot.axis)
                cuts[key] = cuts.get(key, 0) + slot.positions.shape[1]
        self.macs, self._terms = _mac_terms(model, inputs)

    def savings(self, widths: Mapping[str, int]) -> list[tuple[int, int | None]]:
        """What each group saves, in the groups' order and each on top of those before it.

        Args:
            widths: New width per group; groups not named keep theirs.

        Returns:
            Parameters and multiply-accumulates saved per group; the sums are exact.
        """
        shapes = dict(self._shapes)
        savings: list[tuple[int, int | None]] = []
        for group in self._groups:
            removed = group.width - widths.get(group.name, group.width)
            savings.append(self._narrow(group, removed, shapes) if removed else self._nothing())
        return savings

    def total(self, widths: Mapping[str, int]) -> tuple[int, int | None]:
        """Parameters and multiply-accumulates that stay with these widths."""
        savings = self.savings(widths)
        parameters = self.parameters - sum(saved for saved, _ in savings)
        if self.macs is None:
            return parameters, None
        return parameters, self.macs - sum(saved or 0 for _, saved in savings)

    def _nothing(self) -> tuple[int, int | None]:
        return 0, None if self.macs is None else 0

    def _narrow(
        self, group: Group, removed: int, shapes: dict[int, tuple[int, ...]]
    ) -> tuple[int, int | None]:
        touched = {key for key, _ in self._cuts[group.name]}
        before = {key: shapes[key] for key in touched}
        for (key, axis), positions in self._cuts[group.name].items():
            shape = list(shapes[key])
            shape[axis] -= removed * positions
            shapes[key] = tuple(shape)
        parameters = sum(math.prod(before[key]) - math.prod(shapes[key]) for key in touched)
        if self.macs is None:
            return parameters, None
        macs = sum(
            term.macs(before[key]) - term.macs(shapes[key])
            for key in touched
            for term in self._terms.get(key, ())
        )
        return parameters, macs


def _mac_terms(model: Any, inputs: Any) -> tuple[int | None, dict[int, list[Term]]]:
    try:
        work = work_of(model, inputs)
    except OpenSizesError:
        if inputs is not None:
            raise
        return None, {}
    total = 0
    terms: dict[int, list[Term]] = {}
    for _, term in work.terms:
        total += term.macs(() if term.variable is None else tuple(term.variable.shape))
        if term.variable is not None:
            terms.setdefault(id(term.variable), []).append(term)
    return total, terms
