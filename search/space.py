"""The widths a search may choose from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna

from spade_keras.pruning import Group


@dataclass(frozen=True)
class WidthVariable:
    """One group's width, as an ordered index into the widths allowed.

    Attributes:
        group: Name of the channel group.
        edges: Allowed widths, ascending; the last is the full width.
    """

    group: str
    edges: tuple[int, ...]


@dataclass(frozen=True)
class WidthSpace:
    """All width variables of a network.

    Attributes:
        variables: One per channel group that may change, in the network's order.
    """

    variables: tuple[WidthVariable, ...]

    @classmethod
    def from_groups(
        cls, groups: Sequence[Group], *, multiple: int = 8, minimum: int = 8
    ) -> WidthSpace:
        """Allows multiples of `multiple` from `minimum` on, and the full width.

        Args:
            groups: The network's channel groups; fixed ones get no variable.
            multiple: Widths are multiples of it, and of what the group itself demands.
            minimum: The smallest width; a narrower group keeps its width.

        Raises:
            ValueError: If no group may change.
        """
        variables = []
        for group in groups:
            if group.fixed:
                continue
            step = math.lcm(multiple, group.divisor)
            first = math.ceil(minimum / step) * step
            edges = tuple(range(first, group.width, step))
            if edges:
                variables.append(WidthVariable(group.name, (*edges, group.width)))
        if not variables:
            raise ValueError(
                "No channel group may change. Lower `multiple` or `minimum`. Received: "
                f"multiple={multiple}, minimum={minimum}, widths="
                f"{ {group.name: group.width for group in groups} }"
            )
        return cls(tuple(variables))

    @property
    def full(self) -> dict[str, int]:
        """The full width of every group."""
        return {v.group: v.edges[-1] for v in self.variables}

    def suggest(self, trial: optuna.Trial) -> dict[str, int]:
        """Lets a trial choose a width for every group."""
        return {
            v.group: v.edges[trial.suggest_int(v.group, 0, len(v.edges) - 1)]
            for v in self.variables
        }

    def snap(self, widths: Mapping[str, float]) -> dict[str, int]:
        """Returns, per group, the index of the allowed width nearest to the one given.

        Args:
            widths: A width for every group, on or off the grid.
        """
        return {
            v.group: int(np.argmin(np.abs(np.array(v.edges) - widths[v.group])))
            for v in self.variables
        }

    def uniform(self, ratio: float) -> dict[str, int]:
        """Returns the indices of all groups pruned by one ratio, 0 <= ratio < 1."""
        return self.snap({group: width * (1 - ratio) for group, width in self.full.items()})

    def as_dict(self) -> dict[str, list[int]]:
        """Returns the allowed widths per group, as stored with a study."""
        return {v.group: list(v.edges) for v in self.variables}

    def key(self, widths: Mapping[str, Any]) -> tuple[int, ...]:
        """Returns the widths in the order of the variables, to look measurements up by."""
        return tuple(int(widths[v.group]) for v in self.variables)
