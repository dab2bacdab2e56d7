"""The widths worth choosing on the device in use: the edges of its staircases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.latency import LatencyCache
from spade_keras.pruning import find_groups
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.space import SearchSpace

_MOST_WIDTHS = 24


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

    The narrowest width stays in any case: layers timed alone only propose, and on a busy machine
    may propose wrongly; whether a budget is out of reach is for whole networks to decide.

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
    widths = {v.group: _spread(v.edges) for v in grid.variables}
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
