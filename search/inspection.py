"""Where a model's milliseconds go, and which widenings cost none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from spade_keras import latency
from spade_keras.pruning import Group, find_groups
from spade_keras.search.layer_table import LayerTable

_MOST_EDGES = 10


def latency_by_group(
    model: keras.Model,
    inputs: Any,
    *,
    multiple: int | None = None,
    **options: Any,
) -> str:
    """Tells per group what its layers cost, which widths are worth choosing, and what is free.

    Layers are timed alone, at every width that is a multiple of `multiple`; the widths are worth
    choosing whose next wider one is slower (`latency.right_edges`).

    Args:
        model: A Keras model, or a network with `priors`.
        inputs: Inputs of one forward pass.
        multiple: Step of the widths tried; None: an eighth of each group's width, or what the
            group demands.
        **options: Of `LayerTable.measure`: `cache`, `repeats`, `mode`, `on_layer`, `timer`.

    Returns:
        A text table, the costliest group first, with the circumstances of the measurement.

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


def _lines(table: LayerTable) -> list[str]:
    rows = [
        (
            "group",
            "width",
            "ms",
            "narrowest",
            "widths worth choosing",
            "widenings that cost nothing",
        )
    ]
    costs = {group: table.group_ms(group) for group in table.widths}
    for group, ms in sorted(costs.items(), key=lambda item: -item[1]):
        stairs = table.staircase(group)
        rows.append(
            (
                group,
                str(stairs.widths[-1]),
                f"{ms:.3g}",
                f"{stairs.latency_ms[0]:.3g} at {stairs.widths[0]}",
                _shortened(stairs.edges),
                _free(stairs),
            )
        )
    return _aligned(rows)


def _free(stairs: latency.Staircase) -> str:
    """The widenings that cost nothing: from the narrowest width of every step to its edge."""
    steps: dict[int, int] = {}
    for width in stairs.widths:
        wider = stairs.free_widening(width)
        if wider > width:
            steps.setdefault(wider, width)
    return ", ".join(f"{width} -> {wider}" for wider, width in steps.items()) or "-"


def _shortened(edges: Sequence[int]) -> str:
    shown = list(map(str, edges))
    if len(shown) > _MOST_EDGES:
        shown = [*shown[:3], "...", *shown[-(_MOST_EDGES - 4) :]]
    return " ".join(shown)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(size) if index in (1, 2) else cell.ljust(size)
            for index, (cell, size) in enumerate(zip(row, sizes, strict=True))
        ).rstrip()
        for row in rows
    ]
