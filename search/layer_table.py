"""The latency of a network as the sum of its layers' times: predicts any widths at once."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import keras

from spade_keras import latency
from spade_keras.pruning import find_groups, find_residual_blocks
from spade_keras.pruning.graph.weights import priors_of
from spade_keras.search.calibration import (
    Calibration,
    Measured,
    PredictionError,
    measured_times,
)
from spade_keras.search.layer_sweep import Place, Sweep, sweep_widths
from spade_keras.search.layer_timing import LayerCall, LayerTimer, make_floor
from spade_keras.search.space import Configuration

# Of a layer's time, at least this share is its own and not that of starting it.
_LEAST_SHARE = 0.05


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
class LayerTable:
    """Times of all layers of a network over the widths of its groups.

    The time of a layer that two groups change, its input's and its output's, is predicted from
    its times with one of them narrowed:

        t(w_in, w_out) = t(w_in, full) t(full, w_out) / t(full, full)

    and the network's is the sum over all calls. The sum leaves out what is not in a layer and
    counts what the compiler fuses: `calibrated` corrects for both by measurements of whole
    networks, and `error` states what remains. The table proposes; only a measurement decides.

    Args:
        layers: The layers' times.
        widths: Group -> widths measured, ascending; the last is the full one.
        iterations: Iterations of the network; None if it has none.
        blocks: Residual block -> paths of the layers that go with it.
        dtype: What the priors compute in.
        fingerprint: The circumstances under which the times hold.
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
            **options: Of the default timer: `cache`, `repeats`, `mode`, `on_layer`; see
                `LayerTimer`.

        Returns:
            The table, not calibrated.

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
            iterations=getattr(network, "iterations", None),
            blocks={block.name: block.layers for block in find_residual_blocks(network)},
            dtype=_dtype(network),
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
        iterations = self._iterations(configuration)
        return self.calibration.ms(self._sum(configuration), iterations)

    def calibrated(self, measured: Measured) -> LayerTable:
        """Fits the prediction to whole networks' times; see `Calibration`.

        The relative errors' squares are minimized, no term being negative. What is outside of
        the layers counts as done in every iteration, unless iterations differ among `measured`;
        a single measurement gives the factor alone.

        Args:
            measured: Configurations with their milliseconds; better a dozen than two, and among
                them the full and the narrowest one.

        Returns:
            A table with the same layers.

        Raises:
            ValueError: If `measured` is empty or a time is not above 0.
        """
        times = measured_times(measured)
        sums = [self._sum(configuration) for configuration, _ in measured]
        iterations = [self._iterations(configuration) for configuration, _ in measured]
        return replace(self, calibration=Calibration.fit(sums, iterations, times))

    def error(self, measured: Measured) -> PredictionError:
        """Compares predictions with whole networks' times.

        Args:
            measured: Configurations with their milliseconds, others than those calibrated with.

        Raises:
            ValueError: If `measured` is empty or a time is not above 0.
        """
        times = measured_times(measured)
        predicted = [self.predict_ms(configuration) for configuration, _ in measured]
        return PredictionError.of(predicted, times)

    def group_ms(self, group: str, width: int | None = None) -> float:
        """Returns the milliseconds, in one forward pass, of the layers that a group changes.

        Args:
            group: Name of the group.
            width: Its width, all others being full; None: the full one.
        """
        position = None if width is None else self._position(group, width)
        return sum(
            layer.calls * (layer.ms if position is None else _at(layer.by_group[group], position))
            for layer in self._changed_by(group)
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
        return {
            **asdict(self),
            "layers": [
                {**asdict(x), "by_group": {g: list(ms) for g, ms in x.by_group.items()}}
                for x in self.layers
            ],
            "widths": {group: list(widths) for group, widths in self.widths.items()},
            "blocks": {block: list(paths) for block, paths in self.blocks.items()},
            "staircases": {group: self.staircase(group).as_dict() for group in self.widths},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> LayerTable:
        """Reads what `as_dict` returned."""
        fields = {name: value for name, value in content.items() if name != "staircases"}
        layers = []
        for layer in content["layers"]:
            by_group = {group: tuple(ms) for group, ms in layer["by_group"].items()}
            layers.append(LayerTime(**{**layer, "by_group": by_group}))
        fields |= {
            "layers": tuple(layers),
            "widths": {group: tuple(widths) for group, widths in content["widths"].items()},
            "blocks": {block: tuple(paths) for block, paths in content["blocks"].items()},
            "calibration": Calibration(**content["calibration"]),
        }
        return cls(**fields)

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
        if not configuration.dropped:
            return frozenset()
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

    def _changed_by(self, group: str) -> list[LayerTime]:
        self._check_group(group)
        return [layer for layer in self.layers if group in layer.by_group]

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
    sweep: Sweep,
    place: Place,
    widths: Mapping[str, Sequence[int]],
    own: Mapping[str, float],
) -> LayerTime:
    full = sweep.full[place]
    by_group = {}
    for group, calls in sweep.changed.items():
        if place in sweep.places(group):
            at = [calls.get(width, {}).get(place, full) for width in widths[group]]
            by_group[group] = tuple(own[call.signature] for call in at)
    return LayerTime(full.path, sweep.counts[place], own[full.signature], by_group)


def _dtype(network: keras.Model) -> str:
    parts = priors_of(network)
    model = network if parts is None else next(iter(parts.values()))
    return str(model.compute_dtype)
