"""Every layer call of one forward pass, with its shapes and without computing anything."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.trace import Graph, is_functional


@dataclass(frozen=True)
class ShapedCall:
    """One call of a layer or operation; its tensors are symbolic."""

    path: str
    operation: Any
    arguments: tuple[tuple[Any, ...], dict[str, Any]]
    outputs: tuple[Any, ...]

    @property
    def inputs(self) -> tuple[Any, ...]:
        """Tensors among the arguments, in order."""
        return _tensors(self.arguments)

    def argument(self, name: str) -> Any:
        """The argument of that name, or its default."""
        args, kwargs = self.arguments
        bound = inspect.signature(self.operation.call).bind(*args, **kwargs)
        bound.apply_defaults()
        return bound.arguments[name]


def layer_calls(model: keras.Model, inputs: Any = None) -> list[ShapedCall]:
    """Lists the calls of one forward pass, nested models and composite layers opened.

    Args:
        model: A built model.
        inputs: Arrays or shapes in the structure of the model's inputs. None: the shapes the
            model declares, a batch of unknown size taken as one sample.
    """
    calls: list[ShapedCall] = []
    _walk(analyze(model).graph, input_specs(model, inputs), "", calls)
    return calls


def input_specs(model: keras.Model, inputs: Any = None) -> list[Any]:
    """Symbolic inputs, flat, of the shapes given, or of those the model declares."""
    graph = analyze(model).graph
    if isinstance(inputs, Mapping) and not isinstance(graph.input_struct, dict):
        inputs = [inputs[tensor.name] for tensor in graph.inputs]
    shapes = [x.shape for x in graph.inputs] if inputs is None else list(_shapes(inputs))
    if [len(shape) for shape in shapes] != [len(x.shape) for x in graph.inputs]:
        raise ValueError(
            f"`inputs` must hold arrays or shapes like {[x.shape for x in graph.inputs]}, the "
            f"inputs of {model.name!r}. Received: shapes={shapes}."
        )
    one_sample = [(1, *shape[1:]) if shape[:1] == (None,) else tuple(shape) for shape in shapes]
    return [
        keras.KerasTensor(shape, x.dtype) for shape, x in zip(one_sample, graph.inputs, strict=True)
    ]


def _walk(graph: Graph, inputs: Sequence[Any], prefix: str, calls: list[ShapedCall]) -> list[Any]:
    """Lists the calls of a graph on given inputs and returns its outputs, flat."""
    known = {id(x): given for x, given in zip(graph.inputs, inputs, strict=True)}

    def given(value: Any) -> Any:
        return known.get(id(value), value)

    for call in graph.calls:
        args, kwargs = keras.tree.map_structure(given, (call.args, call.kwargs))
        nested = graph.inside(call)
        path = prefix + call.operation.name
        if nested is None:
            outputs = _record(call.operation, path, args, kwargs, calls)
        else:
            outputs = _walk(nested, _tensors((args, kwargs)), f"{path}/", calls)
        known |= {id(x): made for x, made in zip(call.outputs, outputs, strict=True)}
    return [known[id(x)] for x in graph.outputs]


def _record(
    operation: Any, path: str, args: Any, kwargs: Any, calls: list[ShapedCall]
) -> Sequence[Any]:
    outputs = keras.tree.flatten(operation.compute_output_spec(*args, **kwargs))
    is_open_after, is_open_before = (
        any(None in x.shape for x in _tensors(side)) for side in (outputs, (args, kwargs))
    )
    if is_open_after and not is_open_before:
        # Some layers answer from their arguments alone; tracing the call finds the sizes.
        traced = keras.Operation.compute_output_spec(operation, *args, **kwargs)
        outputs = keras.tree.flatten(traced)
    if isinstance(operation, keras.layers.TimeDistributed):
        # All steps go through the inner layer as one batch.
        batch, steps, *shape = args[0].shape
        together = None if None in (batch, steps) else batch * steps
        step = keras.KerasTensor((together, *shape), args[0].dtype)
        _open(operation.layer, path, (step,), calls)
    elif isinstance(operation, keras.layers.SpectralNormalization):
        _open(operation.layer, path, args[:1], calls)
    elif isinstance(operation, keras.layers.Bidirectional):
        for layer in (operation.forward_layer, operation.backward_layer):
            _open(layer, path, args[:1], calls)
    else:
        calls.append(ShapedCall(path, operation, (args, kwargs), tuple(outputs)))
    return outputs


def _open(inner: Any, path: str, args: tuple[Any, ...], calls: list[ShapedCall]) -> None:
    """Lists the calls inside a wrapper, whose inner layer may be a whole model."""
    path = f"{path}/{inner.name}"
    if is_functional(inner):
        _walk(analyze(inner).graph, _tensors(args), f"{path}/", calls)
    else:
        _record(inner, path, args, {}, calls)


def _tensors(structure: Any) -> tuple[Any, ...]:
    return tuple(x for x in keras.tree.flatten(structure) if hasattr(x, "shape"))


def _shapes(inputs: Any) -> Iterator[tuple[int | None, ...]]:
    """Shapes of a structure of arrays or shapes, in the order in which Keras flattens it."""
    if hasattr(inputs, "shape"):
        yield tuple(inputs.shape)
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs):
            yield from _shapes(inputs[key])
    elif not isinstance(inputs, list | tuple):
        raise ValueError(
            f"`inputs` must hold arrays or shapes. Received: {inputs!r}. "
            "Pass an array, or a shape such as (1, 128, 128, 2)."
        )
    elif inputs and all(map(_is_size, inputs)):
        yield tuple(inputs)
    else:
        for item in inputs:
            yield from _shapes(item)


def _is_size(value: Any) -> bool:
    return value is None or (isinstance(value, int | np.integer) and not isinstance(value, bool))
