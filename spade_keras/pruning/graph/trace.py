"""Models as plain lists of calls: the one file that reads Keras's graph internals."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
from keras.src.models.functional import Functional, functional_like_constructor

from spade_keras.errors import TraceError

_HINT = (
    "Write it as a Functional model, or add a rule for its layer with "
    "`spade_keras.pruning.register_channel_rule`."
)


@dataclass
class Call:
    """One call of a layer or `keras.ops` operation in a graph, as Keras recorded it.

    `inputs` are the symbolic tensors among the arguments, `outputs` those it returned.
    """

    operation: Any
    args: tuple
    kwargs: dict[str, Any]
    inputs: list[Any]
    outputs: list[Any]


@dataclass
class Graph:
    """The calls of a model in the order in which they can run.

    `inputs` and `outputs` are symbolic and flat; the structs are what the model takes and returns.

    Args:
        traced: True when `call` was traced, so that a rebuild loses the class.
        opened: True when a composite layer must become a model of this graph, because its
            configuration would make another one.
        nested: Graphs of nested models and composite layers by the id of the operation.
    """

    inputs: list[Any]
    outputs: list[Any]
    calls: list[Call]
    input_struct: Any
    output_struct: Any
    traced: bool = False
    opened: bool = False
    nested: dict[int, Graph] = field(default_factory=dict)

    def inside(self, call: Call) -> Graph | None:
        """Graph of the nested model or composite layer that is called, None for others."""
        return self.nested.get(id(call.operation))

    def open(
        self, prefix: str = "", calls: Iterable[Call] | None = None
    ) -> Iterator[tuple[str, Call, Graph | None]]:
        """Path, call and inner graph of every call (or of some), nested graphs included."""
        for call in self.calls if calls is None else calls:
            path = prefix + call.operation.name
            inner = self.inside(call)
            yield path, call, inner
            if inner is not None:
                yield from inner.open(f"{path}/")


def is_functional(operation: Any) -> bool:
    """True for models that carry their own graph: Functional ones and built Sequential ones."""
    return isinstance(operation, (keras.Sequential, Functional))


def takes_inputs_and_outputs(model: Any) -> bool:
    """True when the class of `model` is constructed from `inputs` and `outputs`."""
    return isinstance(model, Functional) and functional_like_constructor(type(model))


def shape_of(variable: Any) -> tuple[int, ...]:
    """Shape of a variable without the backend's own shape object, which is slow to make."""
    shape = getattr(variable, "_shape", None)
    return tuple(variable.shape if shape is None else shape)


def channel_axis(layer: Any, rank: int) -> int:
    """Channel axis of a tensor, the last one unless the layer's `data_format` differs."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def trace(model: Any) -> Graph:
    """Reads the graph of a built model, calling a subclassed one on symbolic tensors.

    Raises:
        TraceError: `model` is not built, or its `call` needs values.
    """
    if not isinstance(model, keras.Model):
        raise TraceError(
            "`model` must be a keras.Model or a network with `priors`. "
            f"Received: model={model!r} of type {type(model).__name__}."
        )
    if isinstance(model, keras.Sequential):
        functional = getattr(model, "_functional", None)
        if functional is None:
            raise TraceError(
                f"`model` must be built. Received: the Sequential {model.name!r} without an input "
                "shape. Call `model.build(input_shape)` or add `keras.Input(...)` first."
            )
        return _graph(functional)
    return _graph(model) if isinstance(model, Functional) else _trace_subclass(model)


def trace_layer(layer: Any, args: tuple, kwargs: dict[str, Any]) -> Graph:
    """Traces the `call` of a composite layer on tensors shaped like its recorded arguments."""
    fresh: list[Any] = []

    def renew(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        fresh.append(keras.Input(batch_shape=value.shape, dtype=value.dtype))
        return fresh[-1]

    new_args, new_kwargs = keras.tree.map_structure(renew, (args, kwargs))
    return _trace_call(layer, fresh, new_args, new_kwargs)


def copy_operation(operation: Any, name: str | None = None, **changes: Any) -> Any:
    """A copy of a weightless `keras.ops` operation with some constructor arguments changed."""
    made = _shallow(operation)
    made._inbound_nodes = []
    made._outbound_nodes = []
    if name is not None:
        made.name = name
    for key, value in changes.items():
        setattr(made, key, value)
    recorded = getattr(operation, "_auto_config", None)
    if recorded is not None and changes:
        # Keras saves the operation from the arguments its constructor recorded.
        made._auto_config = copy.copy(recorded)
        made._auto_config.config = {**recorded.config, **changes}
    return made


def without_activation(layer: Any) -> Any:
    """The same layer, sharing its weights, with a linear activation."""
    if getattr(layer, "activation", None) is None:
        return layer
    made = _shallow(layer)
    made.activation = keras.activations.linear
    return made


def _shallow(operation: Any) -> Any:
    """A shallow copy; `copy.copy` would save and load the operation, weights included."""
    made = object.__new__(type(operation))
    made.__dict__.update(operation.__dict__)
    return made


def _graph(model: Any) -> Graph:
    calls = []
    for depth in sorted(model._nodes_by_depth, reverse=True):
        for node in model._nodes_by_depth[depth]:
            if node.operation is not None and not node.is_input:
                given = node.arguments
                tensors = given.keras_tensors
                calls.append(Call(node.operation, given.args, given.kwargs, tensors, node.outputs))
    inputs, outputs = list(model._inputs), list(model._outputs)
    return Graph(inputs, outputs, calls, model._inputs_struct, model._outputs_struct)


def _trace_subclass(model: Any) -> Graph:
    if not model.built:
        raise TraceError(
            f"`model` must be built. Received: {type(model).__name__} {model.name!r} without "
            "weights. Call it once on an example input first."
        )
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        raise TraceError(
            f"The input shape of {type(model).__name__} {model.name!r} is unknown: Keras could not "
            f"run its `call` on symbolic tensors. {_HINT}"
        )

    fresh: list[Any] = []

    def renew(value: Any, name: str) -> Any:
        if value is None:
            return None
        if isinstance(value, dict):
            return {key: renew(item, str(key)) for key, item in value.items()}
        if all(size is None or isinstance(size, int) for size in value):
            shape = (None, *value[1:])
            fresh.append(keras.Input(batch_shape=shape, dtype=model.input_dtype, name=name))
            return fresh[-1]
        return type(value)(renew(item, f"{name}_{i}") for i, item in enumerate(value))

    # Keras records the shape of each argument of `call` as "<argument>_shape".
    names = ["inputs" if x == "input_shape" else x.removesuffix("_shape") for x in shapes]
    first, *rest = (renew(x, name) for x, name in zip(shapes.values(), names, strict=True))
    kwargs = dict(zip(names[1:], rest, strict=True))
    return _trace_call(model, fresh if kwargs else first, (first,), kwargs)


def _trace_call(layer: Any, inputs: Any, args: tuple, kwargs: dict) -> Graph:
    try:
        function = keras.Function(inputs, layer.call(*args, **kwargs))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise TraceError(
            f"The `call` of {type(layer).__name__} {layer.name!r} cannot be traced on symbolic "
            f"tensors: {type(error).__name__}: {reason} {_HINT}"
        ) from error
    graph = _graph(function)
    graph.traced = True
    # Weights that are used without a layer around them are in no call.
    reached = {
        id(weight)
        for call in graph.calls
        if isinstance(call.operation, keras.layers.Layer)
        for weight in call.operation.weights
    }
    lost = [weight.path for weight in layer.weights if id(weight) not in reached]
    if lost:
        raise TraceError(
            f"{type(layer).__name__} {layer.name!r} uses weights outside of any layer, which a "
            f"trace would lose: {', '.join(lost[:5])}. {_HINT}"
        )
    return graph


class Chain:
    """Layers called one after another; an empty chain passes its input on.

    The first also takes the other arguments of the layer it replaces.
    """

    def __init__(self, layers: Sequence[keras.layers.Layer]) -> None:
        self.layers = list(layers)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102
        if not self.layers:
            return args[0]
        x = self.layers[0](*args, **kwargs)
        for layer in self.layers[1:]:
            x = layer(x)
        return x
