"""Findings from a layer table: widths worth choosing, the bottleneck, and prediction errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from spade_keras import latency, pruning
from spade_keras.latency import LatencyCache
from spade_keras.pruning import Group, find_groups
from spade_keras.pruning.parts import iterations_of, parts_of
from spade_keras.search.candidate import rank_choices
from spade_keras.search.layer_table import LayerTable, PredictionError
from spade_keras.search.options import SearchOptions
from spade_keras.search.result import TrialRecord
from spade_keras.search.space import Configuration, SearchSpace

_MOST_WIDTHS = 24
_MOST_EDGES = 10
_FEWEST = 6


def measured_space(
    network: keras.Model,
    inputs: Any,
    *,
    multiple: int = 8,
    minimum: int = 8,
    cache: LatencyCache | None = None,
    on_layer: Callable[..., None] | None = None,
    **joint: Any,
) -> tuple[SearchSpace, LayerTable]:
    """Times the layers of every group at each width and keeps the right edges.

    The narrowest width always stays, because times of single layers may be wrong on a busy
    machine: only whole networks decide whether a budget is out of reach.

    Args:
        network: The full network.
        inputs: Arrays of one call.
        multiple: Widths are multiples of it; of wide groups, 24 of them spread evenly.
        minimum: The smallest width.
        cache: Times measured before; by default those of this user on this machine.
        on_layer: See `LayerTable.measure`.
        **joint: `iterations`, `blocks`, `dtypes`, `ranks` of the space.

    Returns:
        The space of the edges, and the table of all times.

    Raises:
        ValueError: If no group may change.
    """
    grid = SearchSpace.from_groups(
        find_groups(network), multiple=multiple, minimum=minimum, **joint
    )
    widths = {v.name: _spread(v.edges) for v in grid.variables}
    table = LayerTable.measure(
        network, inputs, widths, cache=cache or LatencyCache(), on_layer=on_layer
    )
    edges = {
        group: sorted({allowed[0], *table.staircase(group).edges})
        for group, allowed in widths.items()
    }
    return SearchSpace.from_edges(edges, **joint), table


def _spread(widths: Sequence[int]) -> tuple[int, ...]:
    """At most 24 of the widths, the first and the last among them."""
    count = min(len(widths), _MOST_WIDTHS)
    places = np.unique(np.linspace(0, len(widths) - 1, count).round().astype(int))
    return tuple(widths[place] for place in places)


def bottleneck(table: LayerTable, space: SearchSpace) -> str | None:
    """Names the group whose layers take most of the full network's time.

    Args:
        table: Times of its layers.
        space: The groups that may change.

    Returns:
        Part of a sentence; None if no group may change.
    """
    times = {v.name: table.group_ms(v.name) for v in space.variables}
    if not times:
        return None
    slowest = max(times, key=lambda group: times[group])
    share = times[slowest] / table.predict_ms(space.full)
    return f"the group {slowest}, whose layers take {share:.0%} of the full network's layer time"


def prediction_error(table: LayerTable, trials: Iterable[TrialRecord]) -> PredictionError | None:
    """Measures how well layer times predict the time of whole networks.

    Every second configuration that was timed calibrates the table, the others are predicted.

    Args:
        table: Times of the layers.
        trials: Trials of the search.

    Returns:
        The error on those others; None with fewer than six configurations.
    """
    measured = {
        trial.configuration.key(): (trial.configuration, trial.timing.latency_ms)
        for trial in trials
        if trial.timing is not None and _is_timed(trial.configuration, table)
    }
    if len(measured) < _FEWEST:
        return None
    in_order = sorted(measured.values(), key=lambda pair: pair[1])
    return table.calibrated(in_order[::2]).error(in_order[1::2])


def _is_timed(configuration: Configuration, table: LayerTable) -> bool:
    """Whether the configuration's layers are those of the table: no pairs, no other dtype."""
    return configuration.dtype in (None, table.dtype) and not configuration.ranks


def latency_by_group(
    model: keras.Model,
    inputs: Any,
    *,
    multiple: int | None = None,
    **options: Any,
) -> str:
    """Lists per group what its layers cost, which widths are worth choosing, and what is free.

    Layers are timed alone, at every width that is a multiple of `multiple`. A width is worth
    choosing if the next wider one is slower (`latency.right_edges`).

    Args:
        model: A Keras model, or a network with `priors`.
        inputs: Inputs of one forward pass.
        multiple: Step of the widths tried; None: an eighth of each group's width, or the group's
            own step.
        **options: Options of `LayerTable.measure`: `cache`, `repeats`, `mode`, `on_layer`,
            `timer`.

    Returns:
        A text table, the costliest group first, with the conditions of the measurement.

    Raises:
        ValueError: If `multiple` is below 1.
    """
    if multiple is not None and multiple < 1:
        raise ValueError(f"`multiple` must be at least 1. Received: multiple={multiple}")
    groups = find_groups(model)
    widths = {group.name: _widths(group, multiple) for group in groups if group.fixed is None}
    fixed = [group for group in groups if group.fixed is not None]
    table = LayerTable.measure(model, inputs, widths, **options)
    return "\n".join(
        [
            _title(model, table),
            *_lines(table),
            *(f"{group.name}: fixed, {group.fixed}" for group in fixed),
            "ms: all calls of the layers that change with the group, each timed alone; a layer "
            "between two groups counts for both.",
        ]
    )


def _widths(group: Group, multiple: int | None) -> range:
    step = math.lcm(multiple or max(1, group.width // 8), group.divisor)
    return range(step, group.width, step)


def _title(model: keras.Model, table: LayerTable) -> str:
    where = table.fingerprint
    shapes = ", ".join(
        f"{entry['name'] or 'input'} {'x'.join(map(str, entry['shape']))} {entry['dtype']}"
        for entry in where["inputs"]
    )
    how = f"{where['device']['name']} ({where['backend']}, {where['mode']})"
    return f"Latency of {model.name!r} by group on {how}: {shapes}"


_HEADER = (
    "group",
    "width",
    "ms",
    "narrowest",
    "widths worth choosing",
    "widenings that cost nothing",
)


def _lines(table: LayerTable) -> list[str]:
    rows = [_HEADER]
    costs = {group: table.group_ms(group) for group in table.widths}
    for group, ms in sorted(costs.items(), key=lambda item: -item[1]):
        stairs = table.staircase(group)
        narrowest = f"{stairs.latency_ms[0]:.3g} at {stairs.widths[0]}"
        edges = list(map(str, stairs.edges))
        if len(edges) > _MOST_EDGES:
            edges = [*edges[:3], "...", *edges[-(_MOST_EDGES - 4) :]]
        width = str(stairs.widths[-1])
        rows.append((group, width, f"{ms:.3g}", narrowest, " ".join(edges), _free(stairs)))
    return _aligned(rows)


def _free(stairs: latency.Staircase) -> str:
    """The widenings that cost nothing: from the narrowest width of every step to its edge."""
    steps: dict[int, int] = {}
    for width in stairs.widths:
        wider = stairs.free_widening(width)
        if wider > width:
            steps.setdefault(wider, width)
    return ", ".join(f"{width} -> {wider}" for wider, width in steps.items()) or "-"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(size) if index in (1, 2) else cell.ljust(size)
            for index, (cell, size) in enumerate(zip(row, sizes, strict=True))
        ).rstrip()
        for row in rows
    ]


def choose_space(
    network: keras.Model,
    inputs: Any,
    options: SearchOptions,
    on_layer: Callable[[int, int], None] | None = None,
) -> tuple[SearchSpace, LayerTable | None]:
    """Lists what a search may choose.

    Args:
        network: The full network, as it is timed.
        inputs: Arrays of one call.
        options: See `SearchOptions`.
        on_layer: Called with the layers timed so far and their number.

    Returns:
        The space, with the network's own iterations and dtype where they are searched; and, where
        layers are timed for it, their times.

    Raises:
        ValueError: If the network has no such iterations, or no group may change.
    """
    joint: dict[str, Any] = {
        "multiple": options.width_multiple,
        "minimum": options.minimum_width or options.width_multiple,
    }
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
    if options.staircase:
        return measured_space(network, inputs, on_layer=on_layer, **joint)
    return SearchSpace.from_groups(pruning.find_groups(network), **joint), None


def _own_dtype(network: keras.Model) -> str:
    """What most of a network computes in; the layers that make its outputs may differ."""
    layers = (layer for part in parts_of(network).values() for layer in part._flatten_layers())
    weighted = (x for x in layers if x.weights and not isinstance(x, keras.Model))
    return next((str(layer.compute_dtype) for layer in weighted), keras.config.floatx())
