"""Random weights and inputs that keep the input felt at the output of deep networks.

In a deep network with random weights the biases soon outweigh what is left of the input, and a
comparison of outputs proves little. So every kernel is scaled, and every bias and moving
statistic shifted, until what each layer computes still varies from sample to sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.analysis import Analysis
from spade_keras.pruning.graph.trace import Graph, channel_axis, without_activation
from spade_keras.pruning.rules.rule import axes_of

# The spread that layers are scaled to, small enough that sigmoids and gates are nearly linear,
# and the share of its mean that is taken out of a tensor. Without centering the biases win; at
# full spread and centering deep gated networks turn chaotic and amplify rounding errors.
_TARGET = 0.12
_CENTERED = 0.8
_AROUND_ONE = ("gamma", "scale", "variance", "stddev")
_GAIN = 1.6
_BIAS = 0.06
_UNKNOWN_SIZE = 16
_BATCH = 4
Values = dict[int, np.ndarray]


class LayerwiseScaling:
    """Scales weights layer by layer while a model runs.

    Args:
        values: The weights by the id of their variables; changed in place.
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
            self._statistics(scope, layer, _float64(inputs))
            return
        kernel = getattr(layer, "pointwise_kernel", None)
        kernel = getattr(layer, "kernel", None) if kernel is None else kernel
        if isinstance(kernel, keras.Variable) and id(kernel) in self.values:
            self._kernel(scope, layer, kernel, _float64(run(without_activation(layer))))

    def _kernel(self, scope: Any, layer: Any, kernel: Any, output: np.ndarray) -> None:
        factor = _TARGET / max(np.sqrt(_blend(output, spread(output) ** 2)), 1e-6)
        self.values[id(kernel)] = self.values[id(kernel)] * np.float32(factor)
        scope.add_update((kernel, scope.get_current_value(kernel) * factor))
        bias = getattr(layer, "bias", None)
        if isinstance(bias, keras.Variable) and len(bias.shape) == 1:
            old = self.values[id(bias)]
            mean = output.mean(axis=_all_but(channel_axis(layer, output.ndim), output.ndim))
            self._set(scope, bias, old - _CENTERED * factor * (mean - old))

    def _statistics(self, scope: Any, layer: Any, array: np.ndarray) -> None:
        others = _all_but(axes_of(layer, array.ndim)[0], array.ndim)
        mean, variance = array.mean(axis=others), array.var(axis=others)
        # One variance for all channels: quiet ones would only have their rounding amplified.
        blend = _blend(array, float(variance.mean())) + 1e-6
        variance = np.full(len(mean), blend / _TARGET**2)
        offset = self.values[id(layer.moving_mean)] * np.sqrt(variance)
        self._set(scope, layer.moving_mean, _CENTERED * mean + offset)
        scale = self.values[id(layer.moving_variance)]
        self._set(scope, layer.moving_variance, variance * scale)

    def _set(self, scope: Any, variable: Any, value: np.ndarray) -> None:
        value = np.asarray(value, dtype="float32")
        self.values[id(variable)] = value
        scope.add_update((variable, keras.ops.convert_to_tensor(value, dtype=variable.dtype)))


def _float64(tensor: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(tensor), dtype=np.float64)


def _all_but(axis: int, rank: int) -> tuple[int, ...]:
    return tuple(a for a in range(rank) if a != axis)


def _blend(array: np.ndarray, variance: float) -> float:
    """Mean square of a tensor once the centered share of its mean is out."""
    return (1 - _CENTERED) * float((array**2).mean()) + _CENTERED * variance


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


def random_values(variables: list[Any], analysis: Analysis, seed: int) -> Values:
    """Draws every floating-point variable: kernels, biases, scales and statistics.

    Kernels have the variance `gain^2 / fan_in`, so that signals neither die nor explode.
    """
    generator = np.random.default_rng(seed)
    roles: dict[int, dict[int, str]] = {}
    for record in analysis.store.slots:
        roles.setdefault(id(record.variable), {})[record.axis] = record.role
    return {
        id(variable): _draw(generator, variable, roles.get(id(variable), {}))
        for variable in variables
        if "float" in str(variable.dtype)
    }


def _draw(generator: np.random.Generator, variable: Any, roles: dict[int, str]) -> np.ndarray:
    shape = tuple(variable.shape)
    if variable.name.endswith(_AROUND_ONE):
        return generator.uniform(0.5, 1.5, shape).astype("float32")
    value: np.ndarray = generator.standard_normal(shape, "float32")
    if len(shape) < 2 or "bias" in variable.name:
        value *= np.float32(_BIAS)
    elif "embeddings" not in variable.name:
        made = [axis for axis, role in roles.items() if role != "consumer"] or [len(shape) - 1]
        fan = np.prod([size for axis, size in enumerate(shape) if axis not in made])
        value *= np.float32(_GAIN / np.sqrt(max(fan, 1.0)))
    return value


def random_inputs(graph: Graph, seed: int) -> list[np.ndarray]:
    """One array per input: normal numbers or small integers, unknown sizes 16, batches 4."""
    generator = np.random.default_rng(seed + 1)
    layers = [call.operation for _, call, _ in graph.open()]
    tables = [layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)]
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
            # Tokens must lie in the smallest vocabulary.
            arrays.append(generator.integers(0, min(tables, default=10), shape))
    return arrays
