"""The means of `verify_plan`: the masked original, and random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.analysis import Analysis
from spade_keras.pruning.graph.labels import Labels, along_axis
from spade_keras.pruning.graph.partition import Partition
from spade_keras.pruning.graph.trace import (
    Call,
    Graph,
    channel_axis,
    is_functional,
    trace,
    without_activation,
)
from spade_keras.pruning.rules.rule import axes_of, mixes_channels

# The spread that layers are scaled to, small enough that sigmoids and gates are nearly linear,
# and the share of its mean that is taken out of a tensor. Without centering the biases win; at
# full spread and centering deep gated networks turn chaotic and amplify rounding errors.
_TARGET = 0.12
_CENTERED = 0.8
_AROUND_ONE = ("gamma", "scale", "variance", "stddev")
_GAIN = 1.6
_BIAS = 0.06
_UNKNOWN_SIZE = 16
_SAMPLES = 4
Watch = Callable[[Call, list[Any]], None]
Before = Callable[[Call, dict[int, Any]], None]
Values = dict[int, np.ndarray]


def masked_values(
    analysis: Analysis, groups: Partition, kept: Mapping[str, Any], values: Values
) -> Values:
    """Weights by variable id, with zeros where a contracting layer reads removed channels."""
    layers = {path: key for key, path in analysis.paths.items()}
    operations = {id(record.layer): record.layer for record in analysis.store.slots}
    masked = dict(values)
    for group in groups.groups:
        removed = np.setdiff1d(np.arange(group.width), kept.get(group.name, range(group.width)))
        if not len(removed):
            continue
        for slot in (slot for slot in group.slots if slot.role == "consumer"):
            key = id(operations[layers[slot.layer]].weights[slot.weight_index])
            if masked[key] is values[key]:
                masked[key] = values[key].copy()
            front = np.moveaxis(masked[key], slot.axis, 0)
            front[slot.positions[removed].ravel()] = 0
    return masked


@dataclass
class Replay:
    """Runs a graph eagerly, call by call.

    `values` are weights that stand in for the variables' own, and `scaling` adjusts them as the
    model runs. `watch` gets every call and its outputs; `before` gets every call before it is made,
    and the tensors so far by the id of their symbols.

    `alive` has a flag per label of the analysis. The weights must be zero where removed channels
    are summed over. Where channels are mixed without such weights (a layer normalization, a mean
    over channels) zero is not absence: there the kept channels are cut out, the definition is
    applied to them, and the result is put back.
    """

    values: Values | None
    watch: Watch | None = None
    analysis: Any = None
    alive: Any = None
    scaling: LayerwiseScaling | None = None
    before: Before | None = None
    _scope: Any = field(default=None, init=False)

    def run(self, graph: Graph, inputs: list[Any], variables: list[Any]) -> list[Any]:
        """Outputs of the graph, without a final softmax; `values` replace the variables."""
        values = self.values or {}
        mapping = [(v, values[id(v)]) for v in variables if id(v) in values]
        with keras.StatelessScope(state_mapping=mapping) as self._scope:
            return self._graph(graph, inputs, top=True)

    def _graph(self, graph: Graph, inputs: list[Any], top: bool = False) -> list[Any]:
        tensors = {id(x): value for x, value in zip(graph.inputs, inputs, strict=True)}
        final = {id(x) for x in graph.outputs} if top else set()
        for call in graph.calls:
            if self.before is not None:
                self.before(call, tensors)
            if any(id(x) in final for x in call.outputs):
                results = self._final(graph, call, tensors)
            else:
                results = self._call(graph, call, tensors)
            for old, new in zip(call.outputs, results, strict=True):
                tensors[id(old)] = new
            if self.watch is not None:
                self.watch(call, results)
        return [tensors[id(x)] for x in graph.outputs]

    def _call(self, graph: Graph, call: Call, tensors: dict[int, Any]) -> list[Any]:
        operation = call.operation
        nested = graph.inside(call)
        if nested is None and self.analysis is None and is_functional(operation):
            nested = graph.nested[id(operation)] = trace(operation)
        if nested is not None:
            inputs = [tensors[id(x)] for x in call.inputs[: len(nested.inputs)]]
            return self._graph(nested, inputs)
        if self.analysis is not None:
            rule: Any = self.analysis.rules[id(operation)]
            labels = [self.analysis.labels[id(x)] for x in call.inputs]
            if rule.mixes(labels, call) and not all(self.alive[x].all() for x in labels):
                return self._mix(rule, call, tensors)
        self._adjust(operation, call, tensors)
        return keras.tree.flatten(self._plain(operation, call, tensors))

    def _adjust(self, operation: Any, call: Call, tensors: dict[int, Any]) -> None:
        if self.scaling is not None and isinstance(operation, keras.layers.Layer):
            first = tensors[id(call.inputs[0])]
            self.scaling.adjust(
                self._scope, operation, first, lambda layer: self._plain(layer, call, tensors)
            )

    def _plain(self, operation: Any, call: Call, tensors: dict[int, Any]) -> Any:
        def fill(value: Any) -> Any:
            return tensors[id(value)] if isinstance(value, keras.KerasTensor) else value

        args, kwargs = keras.tree.map_structure(fill, (call.args, call.kwargs))
        return operation(*args, **kwargs)

    def _final(self, graph: Graph, call: Call, tensors: dict[int, Any]) -> list[Any]:
        """The last call, its softmax left out, for a softmax hides differences."""
        operation = call.operation
        activation = getattr(operation, "activation", None)
        if type(operation).__name__ in ("Softmax", "LogSoftmax"):
            return [tensors[id(call.inputs[0])]]
        if activation is not None and mixes_channels(activation):
            self._adjust(operation, call, tensors)
            return [self._plain(without_activation(operation), call, tensors)]
        return self._call(graph, call, tensors)

    def _mix(self, rule: Any, call: Call, tensors: dict[int, Any]) -> list[Any]:
        """A call that mixes channels, made on the kept ones."""
        labels_of = self.analysis.labels
        cut = {id(x): self.cut(to_numpy(tensors[id(x)]), labels_of[id(x)]) for x in call.inputs}
        if hasattr(rule, "reference"):
            x = keras.ops.convert_to_tensor(cut[id(call.inputs[0])])
            weights = {v.name: self._weight(v) for v in call.operation.weights}
            results = [rule.reference(call.operation, x, weights)]
        else:
            given = {key: keras.ops.convert_to_tensor(value) for key, value in cut.items()}
            results = keras.tree.flatten(self._plain(call.operation, call, given))
        return [
            keras.ops.convert_to_tensor(self._paste(to_numpy(y), labels_of[id(x)]))
            for x, y in zip(call.outputs, results, strict=True)
        ]

    def _flags(self, labels: Labels) -> list[tuple[int, np.ndarray]]:
        """The axes that carry channels, and which positions along them are alive."""
        axes = [axis for axis in range(labels.ndim) if labels.shape[axis] > 1]
        alive = self.alive[labels]
        return [(axis, np.asarray(along_axis(alive, axis).any(axis=0))) for axis in axes]

    def cut(self, array: np.ndarray, labels: Labels) -> np.ndarray:
        """The kept channels of a tensor."""
        for axis, flags in self._flags(labels):
            array = np.compress(flags, array, axis=axis)
        return array

    def _paste(self, array: np.ndarray, labels: Labels) -> np.ndarray:
        for axis, flags in self._flags(labels):
            shape = list(array.shape)
            shape[axis] = len(flags)
            full = np.zeros(shape, array.dtype)
            np.moveaxis(full, axis, 0)[flags] = np.moveaxis(array, axis, 0)
            array = full
        return array

    def _weight(self, variable: Any) -> np.ndarray:
        """A weight of a mixing layer without what belongs to removed channels."""
        value = self.values[id(variable)] if self.values is not None else to_numpy(variable)
        for record in self.analysis.store.slots:
            if record.variable is variable:
                value = np.compress(self.alive[record.labels], value, axis=record.axis)
        return value


def to_numpy(value: Any) -> np.ndarray:
    """The value of a tensor or variable."""
    return np.asarray(keras.ops.convert_to_numpy(value))


def to_tensors(graph: Graph, inputs: Any) -> list[Any]:
    """The flat inputs of a graph, in its dtypes."""
    arrays = zip(keras.tree.flatten(inputs), graph.inputs, strict=True)
    return [keras.ops.convert_to_tensor(array, dtype=x.dtype) for array, x in arrays]


def calls_of(graph: Graph) -> list[Call]:
    """The calls of a graph in running order, nested models opened."""
    return [call for _, call, inner in graph.open() if inner is None]


@dataclass
class LayerwiseScaling:
    """Scales weights, by the id of their variables and in place, while a model runs.

    In a deep network with random weights the biases soon outweigh what is left of the input. So
    every kernel is scaled, and every bias and moving statistic shifted, until what each layer
    computes still varies from sample to sample.
    """

    values: Values
    _seen: set[int] = field(default_factory=set, init=False)

    def adjust(self, scope: Any, layer: Any, inputs: Any, run: Callable[[Any], Any]) -> None:
        """Adjusts the weights of a layer at its first call, which `run` makes."""
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        if isinstance(layer, keras.layers.BatchNormalization):
            self._statistics(scope, layer, to_numpy(inputs).astype(np.float64))
            return
        kernel = getattr(layer, "pointwise_kernel", None)
        kernel = getattr(layer, "kernel", None) if kernel is None else kernel
        if isinstance(kernel, keras.Variable) and id(kernel) in self.values:
            output = to_numpy(run(without_activation(layer))).astype(np.float64)
            self._kernel(scope, layer, kernel, output)

    def _kernel(self, scope: Any, layer: Any, kernel: Any, output: np.ndarray) -> None:
        factor = _TARGET / max(np.sqrt(_blend(output, spread(output) ** 2)), 1e-6)
        self.values[id(kernel)] = self.values[id(kernel)] * np.float32(factor)
        scope.add_update((kernel, scope.get_current_value(kernel) * factor))
        bias = getattr(layer, "bias", None)
        if isinstance(bias, keras.Variable) and len(bias.shape) == 1:
            old = self.values[id(bias)]
            mean = along_axis(output, channel_axis(layer, output.ndim)).mean(axis=0)
            self._set(scope, bias, old - _CENTERED * factor * (mean - old))

    def _statistics(self, scope: Any, layer: Any, array: np.ndarray) -> None:
        rows = along_axis(array, axes_of(layer, array.ndim)[0])
        mean, variance = rows.mean(axis=0), rows.var(axis=0)
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


def _blend(array: np.ndarray, variance: float) -> float:
    """Mean square of a tensor once the centered share of its mean is out."""
    return (1 - _CENTERED) * float((array**2).mean()) + _CENTERED * variance


def spread(array: np.ndarray) -> float:
    """Standard deviation of a tensor from sample to sample, the mean over its elements.

    Biases make the elements of a tensor differ from each other even when nothing of the input
    is left in them; only what differs between samples has come through the network.
    """
    array = np.asarray(array, dtype=np.float64)
    if array.ndim < 2 or len(array) < 2:
        return float(array.std())
    return float(np.sqrt(array.var(axis=0).mean()))


def random_values(variables: list[Any], analysis: Analysis, seed: int) -> Values:
    """Draws every floating-point variable; kernels have the variance `gain^2 / fan_in`."""
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
            shape[0] = _SAMPLES
        if "float" in str(tensor.dtype):
            arrays.append(generator.normal(0.0, 1.0, shape).astype("float32"))
        elif "bool" in str(tensor.dtype):
            arrays.append(np.ones(shape, dtype=bool))
        else:
            # Tokens must lie in the smallest vocabulary.
            arrays.append(generator.integers(0, min(tables, default=10), shape))
    return arrays
