"""What widths cost before anything is built: by a layer table, else by counting."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras.pruning import find_groups
from spade_keras.pruning.cost import PlanCost
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.search.knapsack import Cost


def predicted_cost(
    network: keras.Model, *, table: Any = None, inputs: Any = None
) -> tuple[str, Cost]:
    """Returns the best prediction at hand and what it is made of.

    Args:
        network: The full network.
        table: A `LayerTable`, or anything with `predict_ms(configuration)`; None: widths are
            priced by multiply-accumulates, and by parameters where input sizes are open.
        inputs: What to count multiply-accumulates for; see `pruning.count_macs`.

    Returns:
        "layer times", "MACs" or "parameters"; and the function of a configuration.
    """
    if table is not None:
        return "layer times", table.predict_ms
    counted = PlanCost(network, find_groups(network), WeightTable(network), inputs)
    which = 0 if counted.macs is None else 1
    return ("parameters", "MACs")[which], lambda c: float(counted.total(c.widths)[which] or 0)
