"""The search space: widths and, if asked for, ranks, depth and precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna

from spade_keras.pruning import Group
from spade_keras.typing import Record

# No layer's path begins like this, so these names cannot be confused with groups.
_ITERATIONS, _DTYPE, _DROP, _RANK = "@iterations", "@dtype", "@drop ", "@rank "


@dataclass(frozen=True)
class Configuration(Record):
    """One choice of everything that is searched.

    Attributes:
        widths: Width of every group that may change.
        iterations: Iterations of the network; None: its own count.
        dropped: Residual blocks left out, by their names in `pruning.find_residual_blocks`.
        dtype: Dtype of the priors; None: their own.
        ranks: Components kept of each layer that is split into a pair; if its widths leave it so
            narrow that a pair of this rank saves nothing, it stays whole.
    """

    widths: dict[str, int]
    iterations: int | None = None
    dropped: tuple[str, ...] = ()
    dtype: str | None = None
    ranks: dict[str, int] = field(default_factory=dict)

    def key(self) -> tuple[Any, ...]:
        """Returns a hashable value that is equal for equal configurations."""
        widths, ranks = (tuple(sorted(sizes.items())) for sizes in (self.widths, self.ranks))
        return (widths, self.iterations, tuple(sorted(self.dropped)), self.dtype, ranks)

    def __str__(self) -> str:
        parts = [", ".join(f"{group} {width}" for group, width in self.widths.items())]
        if self.iterations is not None:
            parts.append(f"{self.iterations} iterations")
        if self.dropped:
            parts.append(f"without {', '.join(self.dropped)}")
        if self.dtype is not None:
            parts.append(self.dtype)
        if self.ranks:
            parts.append(", ".join(f"{layer} of rank {rank}" for layer, rank in self.ranks.items()))
        return "; ".join(part for part in parts if part)


Curve = Callable[[float], Configuration]
"""A family of configurations, from the full network at 0 to the narrowest at 1.

The cost falls as the amount rises.
"""


def checked_amount(amount: float) -> float:
    """Returns the argument of a curve.

    Raises:
        ValueError: If it is not from 0 to 1.
    """
    if not 0 <= amount <= 1:
        raise ValueError(f"`amount` must be from 0 to 1. Received: amount={amount}")
    return amount


@dataclass(frozen=True)
class Variable:
    """The width of a channel group or the rank of a layer, as an index into those allowed.

    Attributes:
        name: The group's name, or the layer's path as in `pruning.basis.find_rank_groups`.
        edges: Allowed widths or ranks, ascending; the last is the full one.
    """

    name: str
    edges: tuple[int, ...]


@dataclass(frozen=True)
class SearchSpace:
    """All variables of a search.

    Attributes:
        variables: One per channel group that may change, in the network's order.
        iterations: Iteration counts allowed, ascending, the network's own last; empty: its own.
        blocks: Residual blocks that may be left out.
        dtypes: Dtypes of the priors to choose from, their own first; empty: their own.
        ranks: One per layer that may become a pair of layers; see `pruning.basis`.
    """

    variables: tuple[Variable, ...]
    iterations: tuple[int, ...] = ()
    blocks: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    ranks: tuple[Variable, ...] = ()

    @classmethod
    def from_groups(
        cls, groups: Sequence[Group], *, multiple: int = 8, minimum: int = 8, **joint: Any
    ) -> SearchSpace:
        """Allows multiples of `multiple` from `minimum` on, and the full width.

        Args:
            groups: The network's channel groups; fixed ones get no variable.
            multiple: Widths are multiples of it, and of what the group itself demands.
            minimum: The smallest width; a narrower group keeps its width.
            **joint: `iterations`, `blocks`, `dtypes`, `ranks`; see `from_edges`.

        Raises:
            ValueError: If no group may change and nothing else is searched.
        """
        edges = {}
        for group in groups:
            if group.fixed:
                continue
            step = math.lcm(multiple, group.divisor)
            first = math.ceil(minimum / step) * step
            below = tuple(range(first, group.width, step))
            if below:
                edges[group.name] = (*below, group.width)
        if not edges and not any(joint.values()):
            raise ValueError(
                "No channel group may change. Lower `multiple` or `minimum`. Received: "
                f"multiple={multiple}, minimum={minimum}, widths="
                f"{ {group.name: group.width for group in groups} }"
            )
        return cls.from_edges(edges, **joint)

    @classmethod
    def from_edges(cls, edges: Mapping[str, Sequence[int]], **joint: Any) -> SearchSpace:
        """Allows the widths given, such as the edges of measured staircases.

        Args:
            edges: Group -> widths, the full one among them.
            **joint: `iterations`, `blocks`, `dtypes`; and `ranks`: layer -> ranks, such as those
                of `rank_choices`.
        """
        variables, ranks = (
            tuple(Variable(name, tuple(sorted(set(e)))) for name, e in allowed.items())
            for allowed in (edges, joint.pop("ranks", {}))
        )
        others = {name: tuple(values) for name, values in joint.items()}
        return cls(variables, **others, ranks=ranks)

    @property
    def full(self) -> Configuration:
        """The network as it is."""
        return Configuration({v.name: v.edges[-1] for v in self.variables}, *self._own())

    @property
    def narrowest(self) -> Configuration:
        """Every group at its smallest width, at the network's own depth and precision."""
        return Configuration({v.name: v.edges[0] for v in self.variables}, *self._own())

    def suggest(self, trial: optuna.Trial) -> Configuration:
        """Lets a trial choose."""
        widths = {
            v.name: v.edges[trial.suggest_int(v.name, 0, len(v.edges) - 1)] for v in self.variables
        }
        iterations = dtype = None
        if self.iterations:
            count = len(self.iterations)
            iterations = self.iterations[trial.suggest_int(_ITERATIONS, 0, count - 1)]
        dropped = tuple(
            block for block in self.blocks if trial.suggest_categorical(_DROP + block, [0, 1])
        )
        if self.dtypes:
            dtype = trial.suggest_categorical(_DTYPE, list(self.dtypes))
        ranks = {
            v.name: v.edges[trial.suggest_int(_RANK + v.name, 0, len(v.edges) - 1)]
            for v in self.ranks
        }
        lowered = {v.name: ranks[v.name] for v in self.ranks if ranks[v.name] < v.edges[-1]}
        return Configuration(widths, iterations, dropped, dtype, lowered)

    def parameters(self, configuration: Configuration) -> dict[str, Any]:
        """Returns the Optuna parameters of a configuration, each width snapped to the nearest.

        Args:
            configuration: Its widths may lie off the grid; what it leaves open is the network's
                own.
        """
        parameters: dict[str, Any] = {
            v.name: _nearest(v.edges, configuration.widths[v.name]) for v in self.variables
        }
        if self.iterations:
            wanted = configuration.iterations or self.iterations[-1]
            parameters[_ITERATIONS] = _nearest(self.iterations, wanted)
        parameters |= {_DROP + block: int(block in configuration.dropped) for block in self.blocks}
        if self.dtypes:
            known = configuration.dtype in self.dtypes
            parameters[_DTYPE] = configuration.dtype if known else self.dtypes[0]
        for rank in self.ranks:
            wanted = configuration.ranks.get(rank.name, rank.edges[-1])
            parameters[_RANK + rank.name] = _nearest(rank.edges, wanted)
        return parameters

    def snap(self, widths: Mapping[str, float], **joint: Any) -> Configuration:
        """Returns the configuration of the allowed widths nearest to those given.

        Args:
            widths: A width for every group.
            **joint: Other fields of `Configuration`.
        """
        own = dict(zip(("iterations", "dropped", "dtype"), self._own(), strict=True))
        nearest = {v.name: v.edges[_nearest(v.edges, widths[v.name])] for v in self.variables}
        return Configuration(nearest, **{**own, **joint})

    def uniform(self, ratio: float) -> Configuration:
        """Returns all groups pruned by one ratio, 0 <= ratio < 1, to the nearest widths."""
        return self.snap({group: width * (1 - ratio) for group, width in self.full.widths.items()})

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, as stored with a study; `from_dict` reads them."""
        return {
            "edges": {v.name: list(v.edges) for v in self.variables},
            "iterations": list(self.iterations),
            "blocks": list(self.blocks),
            "dtypes": list(self.dtypes),
            # Omitted when empty, so studies created before ranks can resume.
            **({"ranks": {v.name: list(v.edges) for v in self.ranks}} if self.ranks else {}),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchSpace:
        """Reads what `as_dict` returned."""
        return cls.from_edges(**content)

    def _own(self) -> tuple[int | None, tuple[str, ...], str | None]:
        iterations = self.iterations[-1] if self.iterations else None
        return iterations, (), self.dtypes[0] if self.dtypes else None


def _nearest(allowed: Sequence[int], wanted: float) -> int:
    """The index of the value allowed that is nearest; of two, the lower."""
    return int(np.argmin(np.abs(np.array(allowed) - wanted)))
