"""The latency of a network as the sum of its layers' times: predicts any widths at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from spade_keras import latency
from spade_keras.pruning import Group, find_groups, find_residual_blocks
from spade_keras.pruning.parts import iterations_of, parts_of
from spade_keras.search.layer_timing import (
    LayerCall,
    LayerTime,
    LayerTimer,
    time_layers,
    with_full_width,
)
from spade_keras.typing import Record

if TYPE_CHECKING:
    from spade_keras.search.space import Configuration, SearchSpace

    Measured = Sequence[tuple[Configuration, float]]
    """Configurations and the milliseconds that the whole network took."""

# With fewer configurations, half of them would say little about the other half.
_FEWEST = 6
_MOST_EDGES = 10


@dataclass(frozen=True)
class Calibration:
    """The latency of whole networks as a function of their layers' times, in milliseconds.

    ms = constant + per_iteration * iterations + factor * sum
    """

    constant: float = 0.0
    per_iteration: float = 0.0
    factor: float = 1.0

    @classmethod
    def fit(
        cls, sums: Sequence[float], iterations: Sequence[int], times: np.ndarray
    ) -> Calibration:
        """Minimizes the squares of the relative errors, no term being negative.

        A single network gives the factor alone; networks of equal depth leave the constant at 0.
        """
        # Imported here because it takes a moment, and only fitting needs it.
        from scipy.optimize import nnls

        columns = {"factor": np.asarray(sums, float)}
        if np.ptp(columns["factor"]) > 0:
            columns["per_iteration"] = np.asarray(iterations, float)
        if np.ptp(iterations) > 0:
            columns["constant"] = np.ones(len(times))
        # Divided by the times, the residuals are relative errors.
        matrix = np.stack(list(columns.values()), axis=1) / times[:, None]
        solution, _ = nnls(matrix, np.ones(len(times)))
        return cls(**dict(zip(columns, map(float, solution), strict=True)))


@dataclass(frozen=True)
class PredictionError:
    """How far predictions are from measurements: the absolute error / the measurement."""

    median: float
    maximum: float
    configurations: int

    def __str__(self) -> str:
        return (
            f"median error {self.median:.1%}, at most {self.maximum:.1%} "
            f"over {self.configurations} configurations"
        )


@dataclass(frozen=True)
class LayerTable(Record):
    """Times of all layers of a network over the widths of its groups.

    The time of a layer that two groups change, its input's and its output's, is predicted from
    its times with one of them narrowed:

        t(w_in, w_out) = t(w_in, full) t(full, w_out) / t(full, full)

    and the network's is the sum over all calls. The sum leaves out operations outside of layers
    and counts those that the compiler fuses: `calibrated` corrects both by measurements of whole
    networks, and `error` states the remaining error. The table proposes; a measurement decides.

    Args:
        layers: The layers' times.
        widths: Group -> widths measured, ascending; the last is the full one.
        iterations: Iterations of the network; None if it has none.
        blocks: Residual block -> paths of the layers that go with it.
        dtype: Dtype of the priors.
        fingerprint: The conditions under which the times hold.
        calibration: See `calibrated`.
    """

    layers: tuple[LayerTime, ...]
    widths: dict[str, tuple[int, ...]]
    iterations: int | None
    blocks: dict[str, tuple[str, ...]]
    dtype: str
    fingerprint: dict[str, Any]
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def measure(
        cls,
        network: keras.Model,
        inputs: Any,
        widths: Mapping[str, Sequence[int]],
        *,
        timer: Callable[[Sequence[LayerCall]], Mapping[str, float]] | None = None,
        **options: Any,
    ) -> LayerTable:
        """Times every layer of a network at every width of the groups that change it.

        Each distinct layer (configuration, shapes, dtype) is timed once, alone, on random numbers,
        for 20 to 60 ms; those timed in earlier runs are taken from the cache. Inputs are those of
        one forward pass, of the batch size to predict; `timer` returns milliseconds by signature,
        and `options` are those of the default one, `LayerTimer`.
        """
        ascending = with_full_width(network, widths)
        return cls(
            layers=time_layers(network, inputs, ascending, timer or LayerTimer(**options)),
            widths=ascending,
            iterations=iterations_of(network),
            blocks={block.name: block.layers for block in find_residual_blocks(network)},
            dtype=str(next(iter(parts_of(network).values())).compute_dtype),
            fingerprint=latency.fingerprint(inputs, mode=options.get("mode")),
        )

    def predict_ms(self, configuration: Configuration) -> float:
        """Predicts the latency of a configuration, without building it.

        Fewer iterations shorten everything inside them in proportion, dropped blocks leave their
        layers out, times between two widths are interpolated, and other groups are at full width.
        """
        fit = self.calibration
        outside = fit.constant + fit.per_iteration * self._iterations(configuration)
        return outside + fit.factor * self._sum(configuration)

    def calibrated(self, measured: Measured) -> LayerTable:
        """Returns a table with the same layers, fitted to whole networks' times.

        A dozen are best, with the full and the narrowest one among them.
        """
        times = _times(measured)
        sums = [self._sum(configuration) for configuration, _ in measured]
        iterations = [self._iterations(configuration) for configuration, _ in measured]
        return replace(self, calibration=Calibration.fit(sums, iterations, times))

    def error(self, measured: Measured) -> PredictionError:
        """Compares predictions with whole networks' times, not those of the calibration."""
        times = _times(measured)
        predicted = np.array([self.predict_ms(configuration) for configuration, _ in measured])
        errors = np.abs(predicted / times - 1)
        return PredictionError(float(np.median(errors)), float(errors.max()), len(times))

    def held_out_error(
        self, measured: Iterable[tuple[Configuration, float]]
    ) -> PredictionError | None:
        """Predicts every second of the times from the others, by which it is calibrated.

        Configurations with pairs of layers or in another dtype are left out, and repeated ones
        count once. Returns None with fewer than six.
        """
        own = (None, self.dtype)
        distinct = {c.key(): (c, ms) for c, ms in measured if c.dtype in own and not c.ranks}
        in_order = sorted(distinct.values(), key=lambda pair: pair[1])
        if len(in_order) < _FEWEST:
            return None
        return self.calibrated(in_order[::2]).error(in_order[1::2])

    def group_ms(self, group: str, width: int | None = None) -> float:
        """Returns the milliseconds, in one forward pass, of the layers that a group changes.

        All other groups are at full width, and so is this one where `width` is None.
        """
        widths = self._widths_of(group, width)
        at = widths[-1] if width is None else width
        changed = [layer for layer in self.layers if group in layer.by_group]
        return sum(x.calls * float(np.interp(at, widths, x.by_group[group])) for x in changed)

    def bottleneck(self, space: SearchSpace) -> str | None:
        """Names the group whose layers take most of the full network's time, in half a sentence."""
        times = {v.name: self.group_ms(v.name) for v in space.variables}
        if not times:
            return None
        slowest = max(times, key=lambda group: times[group])
        share = times[slowest] / self.predict_ms(space.full)
        return (
            f"the group {slowest}, whose layers take {share:.0%} of the full network's layer time"
        )

    def staircase(self, group: str) -> latency.Staircase:
        """Returns the time of the layers that a group changes over its width."""
        widths = self._widths_of(group)
        times = [self.group_ms(group, width) for width in widths]
        return latency.Staircase.of(widths, times)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, which `from_dict` reads, and the staircases beside them."""
        return super().as_dict() | {
            "staircases": {g: self.staircase(g).as_dict() for g in self.widths}
        }

    def _sum(self, configuration: Configuration) -> float:
        """The sum of the layers' times."""
        if configuration.ranks:
            raise ValueError(
                "`configuration` must keep all ranks: layers were timed, not the pairs they may "
                f"become. Received: ranks={configuration.ranks}"
            )
        narrowed = {g: w for g, w in configuration.widths.items() if w != self._widths_of(g, w)[-1]}
        left_out = self._left_out(configuration.dropped)
        total = 0.0
        for layer in self.layers:
            if layer.path in left_out:
                continue
            ms = layer.ms
            for group, times in layer.by_group.items():
                if group in narrowed:
                    ms *= float(np.interp(narrowed[group], self.widths[group], times)) / layer.ms
            total += layer.calls * ms
        return total * self._iterations(configuration) / (self.iterations or 1)

    def _iterations(self, configuration: Configuration) -> int:
        if configuration.dtype not in (None, self.dtype):
            raise ValueError(
                f"`configuration` must compute in {self.dtype}, for which the layers were timed. "
                f"Received: dtype={configuration.dtype!r}. Measure a table of the network in "
                "that dtype."
            )
        wanted = configuration.iterations
        if wanted is None or self.iterations is None:
            return self.iterations or 1
        return wanted

    def _left_out(self, dropped: Sequence[str]) -> frozenset[str]:
        unknown = [block for block in dropped if block not in self.blocks]
        if unknown:
            raise ValueError(
                f"`configuration` must drop blocks of the network: {sorted(self.blocks)}. "
                f"Received: dropped={unknown}"
            )
        return frozenset().union(*(self._layers_of_block[block] for block in dropped))

    @cached_property
    def _layers_of_block(self) -> dict[str, frozenset[str]]:
        # A wrapper is listed by its own path in the block, and by its inner layer's in the table.
        return {
            block: frozenset(
                layer.path
                for layer in self.layers
                if any(f"{layer.path}/".startswith(f"{path}/") for path in (block, *paths))
            )
            for block, paths in self.blocks.items()
        }

    def _widths_of(self, group: str, width: int | None = None) -> tuple[int, ...]:
        """The widths measured of a group, if they reach from below to above `width`."""
        if group not in self.widths:
            raise ValueError(
                f"`group` must be one of the groups measured: {list(self.widths)}. "
                f"Received: group={group!r}"
            )
        widths = self.widths[group]
        if width is not None and not widths[0] <= width <= widths[-1]:
            raise ValueError(
                f"The width of group {group!r} must be within those measured, {widths[0]} to "
                f"{widths[-1]}. Received: width={width}"
            )
        return widths


def latency_by_group(
    model: keras.Model, inputs: Any, *, multiple: int | None = None, **options: Any
) -> str:
    """Lists per group what its layers cost, which widths are worth choosing, and what is free.

    A width is worth choosing if the next wider one is slower; see `latency.right_edges`. Widths
    tried are multiples of `multiple`: by default of an eighth of the full one, or of the group's
    own step. Options are those of `LayerTable.measure`.
    """
    if multiple is not None and multiple < 1:
        raise ValueError(f"`multiple` must be at least 1. Received: multiple={multiple}")
    groups = find_groups(model)
    widths = {group.name: _multiples(group, multiple) for group in groups if group.fixed is None}
    table = LayerTable.measure(model, inputs, widths, **options)
    where = table.fingerprint
    shapes = ", ".join(
        f"{entry['name'] or 'input'} {'x'.join(map(str, entry['shape']))} {entry['dtype']}"
        for entry in where["inputs"]
    )
    slowest_first = sorted(widths, key=lambda group: -table.group_ms(group))
    rows = [_HEADER.split(", "), *(_row(table, group) for group in slowest_first)]
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    line = "{:<{}}  {:>{}}  {:>{}}  {:<{}}  {:<{}}  {:<{}}"
    return "\n".join(
        [
            f"Latency of {model.name!r} by group on {where['device']['name']} "
            f"({where['backend']}, {where['mode']}): {shapes}",
            *(line.format(*chain(*zip(row, sizes, strict=True))).rstrip() for row in rows),
            *(f"{group.name}: fixed, {group.fixed}" for group in groups if group.fixed is not None),
            "ms: all calls of the layers that change with the group, each timed alone; a layer "
            "between two groups counts for both.",
        ]
    )


_HEADER = "group, width, ms, narrowest, widths worth choosing, widenings that cost nothing"


def _multiples(group: Group, multiple: int | None) -> range:
    step = math.lcm(multiple or max(1, group.width // 8), group.divisor)
    return range(step, group.width, step)


def _row(table: LayerTable, group: str) -> list[str]:
    stairs = table.staircase(group)
    edges = list(map(str, stairs.edges))
    if len(edges) > _MOST_EDGES:
        edges = [*edges[:3], "...", *edges[-(_MOST_EDGES - 4) :]]
    free: dict[int, int] = {}  # right edge -> the narrowest width of its step
    for width in stairs.widths:
        wider = stairs.free_widening(width)
        if wider > width:
            free.setdefault(wider, width)
    return [
        group,
        str(stairs.widths[-1]),
        f"{table.group_ms(group):.3g}",
        f"{stairs.latency_ms[0]:.3g} at {stairs.widths[0]}",
        " ".join(edges),
        ", ".join(f"{width} -> {wider}" for wider, width in free.items()) or "-",
    ]


def _times(measured: Measured) -> np.ndarray:
    times = np.array([ms for _, ms in measured], float)
    if not (times.size and np.isfinite(times).all() and times.min() > 0):
        raise ValueError(
            "`measured` must hold at least one configuration, with a finite time above 0. "
            f"Received: times={times.tolist()}"
        )
    return times
