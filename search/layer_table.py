"""The latency of a network as the sum of its layers' times: predicts any widths at once."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import keras
import numpy as np

from spade_keras import latency
from spade_keras.pruning import find_groups, find_residual_blocks
from spade_keras.pruning.parts import iterations_of, parts_of
from spade_keras.search.layer_timing import (
    LayerCall,
    LayerTimer,
    Place,
    Sweep,
    make_floor,
    sweep_widths,
)
from spade_keras.search.space import Configuration
from spade_keras.typing import Record

# Least share of a layer's time that is taken for its own, and not for starting it.
_LEAST_SHARE = 0.05


Measured = Sequence[tuple[Configuration, float]]
"""Configurations and the milliseconds that the whole network took."""


@dataclass(frozen=True)
class Calibration:
    """The latency of whole networks as a function of their layers' times.

        ms = constant + per_iteration * iterations + factor * sum

    Attributes:
        constant: Milliseconds spent once, for any configuration.
        per_iteration: Milliseconds of every iteration outside of the layers, such as FFTs.
        factor: Time of a layer inside the network / its time alone.
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

        Args:
            sums: Sum of the layers' times of each network.
            iterations: Iterations of each; 1 if it has none.
            times: Measured milliseconds of each.
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
    """How far predictions are from measurements, relative to these.

    Args:
        median: Median of the absolute errors.
        maximum: The largest.
        configurations: Configurations compared.
    """

    median: float
    maximum: float
    configurations: int

    def __str__(self) -> str:
        return (
            f"median error {self.median:.1%}, at most {self.maximum:.1%} "
            f"over {self.configurations} configurations"
        )


@dataclass(frozen=True)
class LayerTime:
    """The time of one layer.

    Args:
        path: Path of the layer.
        calls: How often it is called in one forward pass.
        ms: Time of one call at full width, in milliseconds.
        by_group: Group -> time of one call at each width of the group, all others full.
    """

    path: str
    calls: int
    ms: float
    by_group: dict[str, tuple[float, ...]]


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

        Each distinct layer (configuration, shapes, dtype) is timed once, alone, on random
        numbers, for 20 to 60 ms; those timed in earlier runs are taken from the cache.

        Args:
            network: A Keras model, or a network with `priors`; it is left as it is.
            inputs: Inputs of one forward pass, of the batch size to predict.
            widths: Group -> candidate widths; the full one may be left out.
            timer: Returns milliseconds by signature.
            **options: Options of the default timer: `cache`, `repeats`, `mode`, `on_layer`; see
                `LayerTimer`.

        Raises:
            ValueError: If a group is unknown, or cannot have a width.
            SpadeError: If a layer cannot be timed alone.
        """
        ascending = _with_full(network, widths)
        below = {group: sizes[:-1] for group, sizes in ascending.items()}
        sweep = sweep_widths(network, inputs, below)
        mode = options.get("mode")
        floor = make_floor()
        times = (timer or LayerTimer(**options))([floor, *sweep.calls()])
        own = {
            name: max(ms - times[floor.signature], _LEAST_SHARE * ms) for name, ms in times.items()
        }
        return cls(
            layers=tuple(_layer_time(sweep, place, ascending, own) for place in sweep.full),
            widths=ascending,
            iterations=iterations_of(network),
            blocks={block.name: block.layers for block in find_residual_blocks(network)},
            dtype=str(next(iter(parts_of(network).values())).compute_dtype),
            fingerprint=latency.fingerprint(inputs, mode=mode),
        )

    def predict_ms(self, configuration: Configuration) -> float:
        """Predicts the latency of a configuration, without building it.

        Fewer iterations shorten everything inside them in proportion, and dropped blocks leave
        their layers out. Between two widths measured the time is interpolated.

        Args:
            configuration: The choice; groups it does not name are at full width.

        Raises:
            ValueError: If it names a group, width, block or dtype that was not measured.
        """
        fit, iterations = self.calibration, self._iterations(configuration)
        outside = fit.constant + fit.per_iteration * iterations
        return outside + fit.factor * self._sum(configuration)

    def calibrated(self, measured: Measured) -> LayerTable:
        """Returns a table with the same layers, fitted to whole networks' times.

        Args:
            measured: Configurations with their milliseconds, preferably a dozen, with the full
                and the narrowest one among them.

        Raises:
            ValueError: If `measured` is empty or a time is not above 0.
        """
        times = _times(measured)
        sums = [self._sum(configuration) for configuration, _ in measured]
        iterations = [self._iterations(configuration) for configuration, _ in measured]
        return replace(self, calibration=Calibration.fit(sums, iterations, times))

    def error(self, measured: Measured) -> PredictionError:
        """Compares predictions with whole networks' times.

        Args:
            measured: Configurations with their milliseconds, not those of the calibration.

        Raises:
            ValueError: If `measured` is empty or a time is not above 0.
        """
        times = _times(measured)
        predicted = np.array([self.predict_ms(configuration) for configuration, _ in measured])
        errors = np.abs(predicted / times - 1)
        return PredictionError(float(np.median(errors)), float(errors.max()), len(times))

    def group_ms(self, group: str, width: int | None = None) -> float:
        """Returns the milliseconds, in one forward pass, of the layers that a group changes.

        Args:
            group: Name of the group.
            width: Its width, all others being full; None: the full one.
        """
        position = self._position(group, self.widths[group][-1] if width is None else width)
        return sum(
            layer.calls * _at(layer.by_group[group], position)
            for layer in self.layers
            if group in layer.by_group
        )

    def staircase(self, group: str, *, resolution: float = latency.RESOLUTION) -> latency.Staircase:
        """Returns the time of the layers that a group changes over its width.

        Args:
            group: Name of the group.
            resolution: See `latency.right_edges`.
        """
        self._check_group(group)
        widths = self.widths[group]
        times = [self.group_ms(group, width) for width in widths]
        return latency.Staircase.of(widths, times, resolution=resolution)

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
        positions = {
            group: self._position(group, width)
            for group, width in configuration.widths.items()
            if width != self.widths.get(group, (None,))[-1]
        }
        left_out = self._left_out(configuration)
        total = 0.0
        for layer in self.layers:
            if layer.path in left_out:
                continue
            ms = layer.ms
            for group, times in layer.by_group.items():
                if group in positions:
                    ms *= _at(times, positions[group]) / layer.ms
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

    def _left_out(self, configuration: Configuration) -> frozenset[str]:
        unknown = [block for block in configuration.dropped if block not in self.blocks]
        if unknown:
            raise ValueError(
                f"`configuration` must drop blocks of the network: {sorted(self.blocks)}. "
                f"Received: dropped={unknown}"
            )
        return frozenset().union(*(self._layers_of_block[b] for b in configuration.dropped))

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

    def _position(self, group: str, width: int) -> tuple[int, float]:
        """The index of the width measured above, and the share of the way down from it."""
        self._check_group(group)
        widths = self.widths[group]
        if not widths[0] <= width <= widths[-1]:
            raise ValueError(
                f"The width of group {group!r} must be within those measured, {widths[0]} to "
                f"{widths[-1]}. Received: width={width}"
            )
        above = bisect.bisect_left(widths, width)
        if widths[above] == width:
            return above, 0.0
        return above, (widths[above] - width) / (widths[above] - widths[above - 1])

    def _check_group(self, group: str) -> None:
        if group not in self.widths:
            raise ValueError(
                f"`group` must be one of the groups measured: {list(self.widths)}. "
                f"Received: group={group!r}"
            )


def _at(times: Sequence[float], position: tuple[int, float]) -> float:
    above, share = position
    if share == 0:
        return times[above]
    return (1 - share) * times[above] + share * times[above - 1]


def _with_full(
    network: keras.Model, widths: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Ascending widths per group, the full one included."""
    known = {group.name: group.width for group in find_groups(network)}
    unknown = sorted(set(widths) - set(known))
    if unknown:
        raise ValueError(
            f"`widths` must name groups of {network.name!r}: {sorted(known)}. Received: {unknown}"
        )
    ascending = {g: tuple(sorted({*map(int, sizes), known[g]})) for g, sizes in widths.items()}
    wrong = {g: sizes for g, sizes in ascending.items() if sizes[0] < 1 or sizes[-1] > known[g]}
    if wrong:
        raise ValueError(
            f"Widths must be from 1 to the full width of their group. Received: widths={wrong}, "
            f"full widths { {group: known[group] for group in wrong} }"
        )
    return ascending


def _layer_time(
    sweep: Sweep, place: Place, widths: Mapping[str, Sequence[int]], own: Mapping[str, float]
) -> LayerTime:
    full = sweep.full[place]
    by_group = {}
    for group, calls in sweep.changed.items():
        if place in sweep.places(group):
            at = [calls.get(width, {}).get(place, full) for width in widths[group]]
            by_group[group] = tuple(own[call.signature] for call in at)
    return LayerTime(full.path, sweep.counts[place], own[full.signature], by_group)


def _times(measured: Measured) -> np.ndarray:
    times = np.array([ms for _, ms in measured], float)
    if not (times.size and np.isfinite(times).all() and times.min() > 0):
        raise ValueError(
            "`measured` must hold at least one configuration, with a finite time above 0. "
            f"Received: times={times.tolist()}"
        )
    return times
