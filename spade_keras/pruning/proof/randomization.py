"""Random weights adjusted layer by layer, so that the input is still felt at the output.

In a deep network with random weights the biases soon outweigh what is left of the input, and a
comparison of outputs proves little. Every kernel is scaled, every bias and moving statistic
shifted, so that what every layer computes still varies from sample to sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.analysis import Analysis
from spade_keras.pruning.graph.trace import Graph, without_activation

# The spread that layers are scaled to, small enough that sigmoids and gates are nearly linear,
# and how much of its mean is taken out of a tensor. Without centering the biases win; at full
# spread and centering deep gated networks turn chaotic and amplify rounding errors.
_TARGET = 0.12
_CENTERED = 0.8
Values = dict[int, np.ndarray]


class LayerwiseScaling:
    """Adjusts weights while a model runs.

    Args:
        values: The weights by the id of their variables; adjusted in place.
    """

    def __init__(self, values: Values) -> None:
        self.values = values
        self._seen: set[int] = set()

    def adjust(self, scope: Any, layer: Any, inputs: Any, run: Callable[[Any], Any]) -> None:
        """Adjusts the weights of a layer at its first call.

        Args:
            scope: The `StatelessScope` the model runs in.
            layer: The layer.
            inputs: Its first input.
            run: Calls a layer with the recorded arguments.
        """
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        if isinstance(layer, keras.layers.BatchNormalization):
            self._statistics(scope, layer, inputs)
            return
        kernel = getattr(layer, "pointwise_kernel", None)
        kernel = getattr(layer, "kernel", None) if kernel is None else kernel
        if isinstance(kernel, keras.Variable) and id(kernel) in self.values:
            self._kernel(scope, layer, kernel, run)

    def _kernel(self, scope: Any, layer: Any, kernel: Any, run: Callable[[Any], Any]) -> None:
        result = keras.ops.convert_to_numpy(run(without_activation(layer)))
        output = np.asarray(result, dtype=np.float64)
        factor = _TARGET / max(_blend(spread(output), output), 1e-6)
        self.values[id(kernel)] = self.values[id(kernel)] * np.float32(factor)
        scope.add_update((kernel, scope.get_current_value(kernel) * factor))
        bias = getattr(layer, "bias", None)
        if isinstance(bias, keras.Variable) and len(bias.shape) == 1:
            axis = _channel_axis(layer, output.ndim)
            old = self.values[id(bias)]
            mean = output.mean(axis=tuple(a for a in range(output.ndim) if a != axis))
            self._set(scope, bias, old - _CENTERED * factor * (mean - old))

    def _statistics(self, scope: Any, layer: Any, inputs: Any) -> None:
        array = np.asarray(keras.ops.convert_to_numpy(inputs), dtype=np.float64)
        axis = layer.axis if isinstance(layer.axis, int) else layer.axis[0]
        axis = axis % array.ndim
        others = tuple(a for a in range(array.ndim) if a != axis)
        mean, variance = array.mean(axis=others), array.var(axis=others)
        # One variance for all channels: quiet ones would only have their rounding amplified.
        blend = (1 - _CENTERED) * _mean_square(array) + _CENTERED * float(variance.mean()) + 1e-6
        variance = np.full(len(mean), blend / _TARGET**2)
        offset = self.values[id(layer.moving_mean)] * np.sqrt(variance)
        self._set(scope, layer.moving_mean, _CENTERED * mean + offset)
        scale = self.values[id(layer.moving_variance)]
        self._set(scope, layer.moving_variance, variance * scale)

    def _set(self, scope: Any, variable: Any, value: np.ndarray) -> None:
        value = np.asarray(value, dtype="float32")
        self.values[id(variable)] = value
        scope.add_update((variable, keras.ops.convert_to_tensor(value, dtype=variable.dtype)))


def _mean_square(array: np.ndarray) -> float:
    return float((array**2).mean())


def _blend(deviation: float, array: np.ndarray) -> float:
    square = (1 - _CENTERED) * _mean_square(array) + _CENTERED * deviation**2
    return float(np.sqrt(square))


def _channel_axis(layer: Any, rank: int) -> int:
    first = getattr(layer, "data_format", None) == "channels_first"
    return 1 if first else rank - 1


def spread(array: np.ndarray) -> float:
    """Standard deviation of a tensor from sample to sample, the mean over its elements.

    Biases make the elements of a tensor differ from each other even when nothing of the input
    is left in them; only what differs between samples has come through the network.

    Args:
        array: The tensor; with a single sample all elements are compared.
    """
    array = np.asarray(array, dtype=np.float64)
    if array.ndim < 2 or len(array) < 2:
        return float(array.std())
    return float(np.sqrt(array.var(axis=0).mean()))


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
