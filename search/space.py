"""The search space: widths and, if asked for, ranks, depth and precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import optuna

from spade_keras import pruning
from spade_keras.errors import require
from spade_keras.pruning.parts import iterations_of, parts_of
from spade_keras.search.layer_table import LayerTable
from spade_keras.typing import Record

if TYPE_CHECKING:
    from spade_keras.search.options import SearchOptions

# No layer's path begins like this, so these names cannot be confused with groups.
_ITERATIONS, _DTYPE, _DROP, _RANK = "@iterations", "@dtype", "@drop ", "@rank "

_MOST_WIDTHS = 24
_MOST_RANKS = 8


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
    """Returns the argument of a curve; raises a ValueError if it is not from 0 to 1."""
    require(0 <= amount <= 1, "`amount` must be from 0 to 1.", amount=amount)
    return amount


@dataclass(frozen=True)
class Variable:
    """The width of a channel group or the rank of a layer, as an index into those allowed.

    `edges` are the allowed widths or ranks, ascending; the last is the full one.
    """

    name: str
    edges: tuple[int, ...]

    def suggest(self, trial: optuna.Trial, prefix: str = "") -> int:
        """Lets a trial choose an edge."""
        return self.edges[trial.suggest_int(prefix + self.name, 0, len(self.edges) - 1)]

    def place(self, wanted: float) -> int:
        """Returns the index of the edge nearest to a size; of two, the lower."""
        return int(np.argmin(np.abs(np.array(self.edges) - wanted)))


@dataclass(frozen=True)
class SearchSpace:
    """All variables of a search; those that are empty stay the network's own.

    Attributes:
        variables: One per channel group that may change, in the network's order.
        iterations: Iteration counts allowed, ascending, the network's own last.
        blocks: Residual blocks that may be left out.
        dtypes: Dtypes of the priors to choose from, their own first.
        ranks: One per layer that may become a pair of layers; see `pruning.basis`.
    """

    variables: tuple[Variable, ...]
    iterations: tuple[int, ...] = ()
    blocks: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    ranks: tuple[Variable, ...] = ()

    @classmethod
    def from_groups(
        cls, groups: Sequence[pruning.Group], *, multiple: int = 8, minimum: int = 8, **joint: Any
    ) -> SearchSpace:
        """Allows multiples of `multiple` from `minimum` on, and the full width.

        Widths are also multiples of what the group itself demands; a group narrower than `minimum`
        keeps its width. The joint variables are those of `from_edges`.

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
        """Allows the widths given for every group, such as the edges of measured staircases.

        Others are given by name: `iterations`, `blocks`, `dtypes`, and `ranks` by layer.
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
        return self.snap({v.name: v.edges[-1] for v in self.variables})

    @property
    def narrowest(self) -> Configuration:
        """Every group at its smallest width, at the network's own depth and precision."""
        return self.snap({v.name: v.edges[0] for v in self.variables})

    def suggest(self, trial: optuna.Trial) -> Configuration:
        """Lets a trial choose."""
        widths = {v.name: v.suggest(trial) for v in self.variables}
        iterations = self._counts.suggest(trial) if self.iterations else None
        dropped = tuple(
            block for block in self.blocks if trial.suggest_categorical(_DROP + block, [0, 1])
        )
        dtype = trial.suggest_categorical(_DTYPE, list(self.dtypes)) if self.dtypes else None
        ranks = {v.name: v.suggest(trial, _RANK) for v in self.ranks}
        lowered = {v.name: ranks[v.name] for v in self.ranks if ranks[v.name] < v.edges[-1]}
        return Configuration(widths, iterations, dropped, dtype, lowered)

    def parameters(self, configuration: Configuration) -> dict[str, Any]:
        """Returns the Optuna parameters of a configuration, each width snapped to the nearest.

        What the configuration leaves open is the network's own.
        """
        widths, ranks = configuration.widths, configuration.ranks
        parameters: dict[str, Any] = {v.name: v.place(widths[v.name]) for v in self.variables}
        if self.iterations:
            wanted = configuration.iterations or self.iterations[-1]
            parameters[_ITERATIONS] = self._counts.place(wanted)
        parameters |= {_DROP + block: int(block in configuration.dropped) for block in self.blocks}
        if self.dtypes:
            known = configuration.dtype in self.dtypes
            parameters[_DTYPE] = configuration.dtype if known else self.dtypes[0]
        for v in self.ranks:
            parameters[_RANK + v.name] = v.place(ranks.get(v.name, v.edges[-1]))
        return parameters

    def snap(self, widths: Mapping[str, float]) -> Configuration:
        """Returns the configuration of the allowed widths nearest to those given for all groups."""
        return Configuration(
            {v.name: v.edges[v.place(widths[v.name])] for v in self.variables},
            iterations=self.iterations[-1] if self.iterations else None,
            dtype=self.dtypes[0] if self.dtypes else None,
        )

    def uniform(self, ratio: float) -> Configuration:
        """Returns all groups pruned by one ratio, 0 <= ratio < 1, to the nearest widths."""
        return self.snap({group: width * (1 - ratio) for group, width in self.full.widths.items()})

    def widen(self, configuration: Configuration, share: float) -> Configuration:
        """Moves all widths a share of the way to the full ones, to the nearest that are allowed.

        Iterations, blocks, dtype and ranks stay.
        """
        own = configuration.widths
        wanted = {
            v.name: v.edges[v.place(own[v.name] + share * (v.edges[-1] - own[v.name]))]
            for v in self.variables
            if v.name in own
        }
        return replace(configuration, widths={**own, **wanted})

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

    @property
    def _counts(self) -> Variable:
        return Variable(_ITERATIONS, self.iterations)


def choose_space(
    network: keras.Model, inputs: Any, options: SearchOptions, **timing: Any
) -> tuple[SearchSpace, LayerTable | None]:
    """Lists what a search of a network may choose, and the times of its layers if it times them.

    With `options.staircase` the layers of every group are timed at each width (of wide groups at
    24, spread evenly) and the right edges kept. The narrowest width always stays, because times of
    single layers may be wrong on a busy machine: only whole networks decide whether a budget is
    out of reach. `inputs` are arrays of one call; `timing` are options of `LayerTable.measure`.
    """
    joint: dict[str, Any] = {}
    if options.iterations:
        own = iterations_of(network)
        if own is None or not 1 <= min(options.iterations) <= max(options.iterations) <= own:
            raise ValueError(
                "`iterations` must be counts from 1 to the network's own, which is "
                f"{own or 'none: it does not iterate'}. Received: "
                f"iterations={list(options.iterations)}"
            )
        joint["iterations"] = sorted({*options.iterations, own})
    if options.blocks:
        joint["blocks"] = [block.name for block in pruning.find_residual_blocks(network)]
    if options.dtypes:
        joint["dtypes"] = list(dict.fromkeys((_own_dtype(network), *options.dtypes)))
    if options.ranks:
        joint["ranks"] = rank_choices(network, multiple=options.width_multiple)
    grid = SearchSpace.from_groups(
        pruning.find_groups(network),
        multiple=options.width_multiple,
        minimum=options.minimum_width or options.width_multiple,
        **joint,
    )
    if not options.staircase:
        return grid, None
    widths = {v.name: _spread(v.edges, _MOST_WIDTHS) for v in grid.variables}
    table = LayerTable.measure(network, inputs, widths, **timing)
    edges = {g: sorted({own[0], *table.staircase(g).edges}) for g, own in widths.items()}
    return SearchSpace.from_edges(edges, **joint), table


def rank_choices(network: keras.Model, *, multiple: int = 8) -> dict[str, tuple[int, ...]]:
    """Lists the ranks a search may choose for every layer that can become a pair of layers.

    Ranks are multiples of `multiple`, at most eight of them spread evenly below the rank at which a
    pair costs the same as the layer, and the full rank. Layers that cannot be decomposed, or whose
    pairs save nothing at a multiple, are left out.
    """
    choices = {}
    for group in pruning.find_rank_groups(network):
        *lower, full = (0,) if group.fixed else group.allowed(multiple)
        if lower:
            choices[group.name] = (*_spread(lower, _MOST_RANKS), full)
    return choices


def _spread(sizes: Sequence[int], most: int) -> tuple[int, ...]:
    """At most so many of the sizes, the first and the last among them."""
    places = np.linspace(0, len(sizes) - 1, min(len(sizes), most)).round().astype(int)
    return tuple(sizes[place] for place in places)


def _own_dtype(network: keras.Model) -> str:
    """What most of a network computes in; the layers that make its outputs may differ."""
    layers = (layer for part in parts_of(network).values() for layer in part._flatten_layers())
    weighted = (x for x in layers if x.weights and not isinstance(x, keras.Model))
    return next((str(layer.compute_dtype) for layer in weighted), keras.config.floatx())
