"""Inputs in batches, and a network's outputs for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np


def batches(inputs: Any, size: int) -> Iterator[Any]:
    """Cuts an array, or a dict, list or tuple of them, into batches along the first axis."""
    for start in range(0, count_samples(inputs), size):
        yield first_samples(inputs, size, start)


def first_samples(inputs: Any, count: int, start: int = 0) -> Any:
    """Returns `count` samples of every array of `inputs`, from `start` on."""
    return keras.tree.map_structure(lambda array: array[start : start + count], inputs)


def count_samples(inputs: Any) -> int:
    """Returns the length of the first array of `inputs`."""
    return len(keras.tree.flatten(inputs)[0])


def fill_batch(inputs: Any, batch_size: int) -> Any:
    """Repeats or cuts inputs to `batch_size` samples; returns NumPy arrays in the same structure.

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


def predict(network: Any, inputs: Any, *, batch_size: int = 4) -> np.ndarray:
    """Runs a network of one output on every batch, without compiling it.

    For a network that is used once, the compilation in `network.predict` does not pay: a search
    would spend most of its time there.
    """
    outputs = [network(batch, training=False) for batch in batches(inputs, batch_size)]
    return np.concatenate([keras.ops.convert_to_numpy(output) for output in outputs])
