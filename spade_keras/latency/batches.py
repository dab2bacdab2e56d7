"""Latency and throughput over the batch size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.latency.measurement import measure
from spade_keras.latency.results import Latency


@dataclasses.dataclass(frozen=True)
class BatchLatency:
    """The time of one call with a batch.

    Args:
        batch: Samples in the batch.
        latency: Time of the call.
        samples_per_s: `batch` / median time.
    """

    batch: int
    latency: Latency
    samples_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        return {
            "batch": self.batch,
            "samples_per_s": self.samples_per_s,
            "latency": self.latency.as_dict(),
        }


def sweep_batches(
    model: Callable[..., Any],
    inputs: Any,
    batches: Sequence[int] = (1, 2, 4, 8),
    **options: Any,
) -> tuple[BatchLatency, ...]:
    """Times a model at several batch sizes.

    Args:
        model: A Keras model.
        inputs: Real inputs with a batch axis; they are repeated to fill larger batches.
        batches: The batch sizes.
        **options: Of `measure`.

    Returns:
        One entry per batch size, in the order given.

    Raises:
        ValueError: If a batch size is below 1.

    Example:
        >>> import keras, numpy as np
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> sweep = sweep_batches(dense, np.ones((1, 4), "float32"), (1, 3), repeats=5)
        >>> [entry.batch for entry in sweep]
        [1, 3]
    """
    if not batches or min(batches) < 1:
        raise ValueError(
            f"`batches` must be integers of at least 1. Received: batches={tuple(batches)}"
        )
    return tuple(_at_batch(model, inputs, batch, options) for batch in batches)


def fill_batch(inputs: Any, batch_size: int) -> Any:
    """Repeats or cuts inputs to a number of samples.

    Args:
        inputs: Arrays, or a dict, list or tuple of them, with the batch axis first.
        batch_size: Samples wanted.

    Returns:
        NumPy arrays in the same structure.

    Raises:
        ValueError: If `batch_size` is below 1.

    Example:
        >>> import numpy as np
        >>> fill_batch({"x": np.ones((2, 1))}, 3)["x"].shape
        (3, 1)
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")

    def fill(array: Any) -> np.ndarray:
        array = keras.ops.convert_to_numpy(array)
        return np.take(array, np.arange(batch_size) % len(array), axis=0)

    return keras.tree.map_structure(fill, inputs)


def _at_batch(
    model: Callable[..., Any], inputs: Any, batch: int, options: dict[str, Any]
) -> BatchLatency:
    latency = measure(model, fill_batch(inputs, batch), **options)
    return BatchLatency(batch, latency, batch / latency.median_ms * 1e3)
