"""Random weights and inputs that keep signals alive through deep networks."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.pruning.analysis import Analysis
from spade_keras.pruning.calibration import Values
from spade_keras.pruning.trace import Graph

_AROUND_ONE = ("gamma", "scale", "variance", "stddev")
_GAIN = 1.6
_BIAS = 0.06
_UNKNOWN_SIZE = 16
_BATCH = 4


def random_values(variables: list[Any], analysis: Analysis, seed: int) -> Values:
    """Draws every floating-point variable: kernels, biases, scales and statistics.

    Kernels have the variance `gain^2 / fan_in`, so that signals neither die nor explode.

    Args:
        variables: The variables of a model.
        analysis: Its labels, which tell the axes a kernel sums over.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed)
    roles: dict[int, dict[int, str]] = {}
    for record in analysis.store.slots:
        roles.setdefault(id(record.variable), {})[record.axis] = record.role
    values: Values = {}
    for variable in variables:
        if "float" in str(variable.dtype):
            values[id(variable)] = _draw(generator, variable, roles.get(id(variable), {}))
    return values


def _draw(generator: np.random.Generator, variable: Any, roles: dict[int, str]) -> np.ndarray:
    shape = tuple(variable.shape)
    value: np.ndarray
    if any(variable.name.endswith(word) for word in _AROUND_ONE):
        value = generator.uniform(0.5, 1.5, shape)
    elif len(shape) < 2 or "bias" in variable.name:
        value = _BIAS * generator.standard_normal(shape, "float32")
    elif "embeddings" in variable.name:
        value = generator.standard_normal(shape, "float32")
    else:
        made = [axis for axis, role in roles.items() if role != "consumer"]
        made = made or [len(shape) - 1]
        fan = np.prod([size for axis, size in enumerate(shape) if axis not in made])
        value = generator.standard_normal(shape, "float32")
        value *= np.float32(_GAIN / np.sqrt(max(fan, 1.0)))
    return np.asarray(value, dtype="float32")


def random_inputs(graph: Graph, seed: int) -> list[np.ndarray]:
    """One array per input of a graph: normal numbers, or small integers.

    Args:
        graph: The graph; unknown sizes become a batch of 4 and 16 elsewhere.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng(seed + 1)
    tokens = _tokens(graph)
    arrays = []
    for tensor in graph.inputs:
        shape = [_UNKNOWN_SIZE if size is None else size for size in tensor.shape]
        if tensor.shape and tensor.shape[0] is None:
            shape[0] = _BATCH
        if "float" in str(tensor.dtype):
            arrays.append(generator.normal(0.0, 1.0, shape).astype("float32"))
        elif "bool" in str(tensor.dtype):
            arrays.append(np.ones(shape, dtype=bool))
        else:
            arrays.append(generator.integers(0, tokens, shape))
    return arrays


def _tokens(graph: Graph) -> int:
    """The smallest vocabulary in a graph, an upper limit for token inputs."""
    sizes = [2**30]
    for call in graph.calls:
        if isinstance(call.operation, keras.layers.Embedding):
            sizes.append(call.operation.input_dim)
        nested = graph.nested.get(id(call.operation))
        if nested is not None:
            sizes.append(_tokens(nested))
    smallest = min(sizes)
    return smallest if smallest < 2**30 or len(sizes) > 1 else 10
