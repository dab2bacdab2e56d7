"""What a network costs and how good it is, beside the network it was made from."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras import latency, pruning
from spade_keras.transfer.fitting import Tasks, accuracy


def measure_cost(
    model: keras.Model,
    original: keras.Model,
    tasks: Tasks,
    *,
    batch_size: int = 30,
    pairs: int = 20,
) -> dict[str, Any]:
    """Measures a network on the target task, and times it in turn with the original.

    Args:
        model: The network.
        original: The network that was transferred.
        tasks: The target's "validation" and "test".
        batch_size: Samples per timed call.
        pairs: Timed windows of each of the two; 0: no times.

    Returns:
        Plain JSON values: "accuracy" on test and "validation_accuracy" in [0, 1], "parameters",
        "macs" of one sample, and, where it was timed, the median "ms" and the "time_ratio" to the
        original with its 95 % interval.
    """
    times: dict[str, Any] = {}
    if pairs:
        timed = latency.compare(original, model, tasks["test"][0][:batch_size], pairs=pairs)
        times = {"ms": timed.b.median_ms, "time_ratio": timed.ratio.as_dict()}
    return {
        "accuracy": accuracy(model, tasks["test"]),
        "validation_accuracy": accuracy(model, tasks["validation"]),
        "parameters": pruning.count_parameters(model),
        "macs": pruning.count_macs(model).total,
        **times,
    }
