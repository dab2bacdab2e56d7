"""Outputs of a network for a whole set of inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np


def batches(inputs: Mapping[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Cuts a dict of arrays into batches; the last one may be smaller.

    Args:
        inputs: Arrays with the samples on the first axis.
        size: Samples in a batch.
    """
    length = len(next(iter(inputs.values())))
    for start in range(0, length, size):
        yield {name: array[start : start + size] for name, array in inputs.items()}


def predict(network: Any, inputs: Mapping[str, np.ndarray], *, batch_size: int = 4) -> np.ndarray:
    """Runs a network on every batch, without compiling it.

    A network that is looked at once is not worth the compilation that `network.predict` does: a
    search would spend most of its time there.

    Args:
        network: A Keras model whose input is a dict.
        inputs: Arrays with the samples on the first axis.
        batch_size: Samples per call.

    Returns:
        The outputs, `(samples, ...)`.
    """
    outputs = [network(batch, training=False) for batch in batches(inputs, batch_size)]
    return np.concatenate([keras.ops.convert_to_numpy(output) for output in outputs])
