"""Every layer call of one forward pass, with its shapes and without computing anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np


@dataclass(frozen=True)
class Call:
    """One call of a layer or operation.

    Args:
        path: Path of the layer, or name of the operation.
        operation: What is called.
        arguments: Positional and keyword arguments, tensors being symbolic.
        outputs: Symbolic tensors it returns.
    """

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


def layer_calls(model: keras.Model, inputs: Any = None) -> list[Call]:
    """Lists the calls of one forward pass, nested models opened.

    Args:
        model: A built model.
        inputs: Arrays or shapes in the structure of the model's inputs. None: the shapes the
            model declares, a batch of unknown size taken as one sample.

    Returns:
        The calls in the order of computation.

    Raises:
        ValueError: If the model is not built, or `inputs` does not fit it.
    """
    calls: list[Call] = []
    _open_model(model, input_specs(model, inputs), "", calls)
    return calls


def input_specs(model: keras.Model, inputs: Any = None) -> Any:
    """Symbolic inputs of the shapes given, or of those the model declares."""
    graph = graph_of(model)
    if inputs is None:
        return keras.tree.map_structure(
            lambda x: keras.KerasTensor(_one_sample(x.shape), x.dtype), graph.input
        )
    if isinstance(inputs, Mapping) and not isinstance(graph.input, dict):
        inputs = [inputs[tensor.name] for tensor in graph.inputs]
    shapes = list(_shapes(inputs))
    if [len(shape) for shape in shapes] != [len(x.shape) for x in graph.inputs]:
        raise ValueError(
            f"`inputs` must hold arrays or shapes like {[x.shape for x in graph.inputs]}, the "
            f"inputs of {model.name!r}. Received: shapes={shapes}."
        )
    flat = [
        keras.KerasTensor(_one_sample(shape), x.dtype)
        for shape, x in zip(shapes, graph.inputs, strict=True)
    ]
    return keras.tree.pack_sequence_as(graph.input, flat)


def graph_of(model: Any) -> Any:
    """The Functional graph of a built Functional or Sequential model.

    Raises:
        ValueError: If the model has no graph.
    """
    graph = getattr(model, "_functional", None) if _is_sequential(model) else model
    if graph is None or not hasattr(graph, "_run_through_graph"):
        raise ValueError(
            "`model` must be a built Functional or Sequential model. "
            f"Received: model={getattr(model, 'name', model)!r} of type {type(model).__name__}. "
            "Call it on an input once, or write it as a Functional model."
        )
    return graph


def _is_sequential(model: Any) -> bool:
    return isinstance(model, keras.Sequential)


def _open_model(model: Any, inputs: Any, prefix: str, calls: list[Call]) -> Any:
    def recorded(operation: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: _record(operation, args, kwargs, prefix, calls)

    return graph_of(model)._run_through_graph(inputs, operation_fn=recorded)


def _record(operation: Any, args: Any, kwargs: Any, prefix: str, calls: list[Call]) -> Any:
    path = prefix + operation.name
    if isinstance(operation, keras.Model) and (
        _is_sequential(operation) or hasattr(operation, "_run_through_graph")
    ):
        return _open_model(operation, args[0] if args else kwargs, f"{path}/", calls)
    outputs = operation.compute_output_spec(*args, **kwargs)
    if isinstance(operation, keras.layers.TimeDistributed):
        batch, steps, *shape = args[0].shape
        steps = None if None in (batch, steps) else batch * steps
        step = keras.KerasTensor((steps, *shape), args[0].dtype)
        _record(operation.layer, (step,), {}, f"{path}/", calls)
    elif isinstance(operation, keras.layers.Bidirectional):
        for layer in (operation.forward_layer, operation.backward_layer):
            _record(layer, args[:1], {}, f"{path}/", calls)
    else:
        calls.append(Call(path, operation, (args, kwargs), _tensors(outputs)))
    return outputs


def _tensors(structure: Any) -> tuple[Any, ...]:
    return tuple(x for x in keras.tree.flatten(structure) if hasattr(x, "shape"))


def _shapes(inputs: Any) -> Iterator[tuple[int | None, ...]]:
    """Shapes of a structure of arrays or shapes, in the order in which Keras flattens it."""
    if hasattr(inputs, "shape"):
        yield tuple(inputs.shape)
    elif isinstance(inputs, Mapping):
        for key in sorted(inputs):
            yield from _shapes(inputs[key])
    elif isinstance(inputs, list | tuple) and inputs and all(map(_is_size, inputs)):
        yield tuple(inputs)
    elif isinstance(inputs, list | tuple):
        for item in inputs:
            yield from _shapes(item)
    else:
        raise ValueError(
            f"`inputs` must hold arrays or shapes. Received: {inputs!r}. "
            "Pass an array, or a shape such as (1, 128, 128, 2)."
        )


def _is_size(value: Any) -> bool:
    return value is None or (isinstance(value, int | np.integer) and not isinstance(value, bool))


def _one_sample(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    return (1, *shape[1:]) if shape and shape[0] is None else tuple(shape)
