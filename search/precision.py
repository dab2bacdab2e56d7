"""The dtype a network computes in, which a search may choose like a width."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from spade_keras.pruning import copy_model
from spade_keras.pruning.graph.analysis import analyze
from spade_keras.pruning.graph.trace import Graph
from spade_keras.pruning.parts import map_parts

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def with_dtype(model: Any, dtype: str) -> Any:
    """A copy of a model that computes in another dtype; its weights and outputs are float32.

    The layers that make the outputs compute in float32, as Keras advises for mixed precision:
    a softmax keeps its precision, and the image that a global skip adds to a residual is not
    rounded. Composite layers become models of the layers inside them, each of which is saved
    with its dtype.

    Args:
        model: A built Keras model, or a network with `priors`: then the priors change.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`.

    Returns:
        A model of the kind that `spade_keras.pruning.rebuild` makes, with copied weights.

    Raises:
        ValueError: `dtype` is not one of the three, or the model is quantized.

    Example:
        >>> import keras
        >>> from spade_keras.search.precision import with_dtype
        >>> layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)]
        >>> model = with_dtype(keras.Sequential(layers), "bfloat16")
        >>> [layer.compute_dtype for layer in model.layers], model.layers[0].kernel.dtype
        (['bfloat16', 'float32'], 'float32')
    """
    if dtype not in POLICIES:
        raise ValueError(f"`dtype` must be one of {list(POLICIES)}. Received: dtype={dtype!r}")
    return map_parts(model, lambda _, part: _with_policy(part, dtype))


def _with_policy(model: keras.Model, dtype: str) -> keras.Model:
    _check_not_quantized(model)
    copy = copy_model(model, open_layers=True)
    for layer in _leaves(copy):
        layer.dtype_policy = POLICIES[dtype]
    for layer in _makers(analyze(copy).graph):
        for inner in layer._flatten_layers():
            inner.dtype_policy = POLICIES["float32"]
    # The graph of the copy still has the dtypes of the original; copying traces it again.
    return copy_model(copy)


def in_dtype(model: Any, dtype: str | None) -> Any:
    """Returns the model itself for None; see `with_dtype`."""
    return model if dtype is None else with_dtype(model, dtype)


def _check_not_quantized(model: keras.Model) -> None:
    for layer in model._flatten_layers():
        if layer.quantization_mode is not None:
            raise ValueError(
                f"`model` must not be quantized. Received: layer {layer.path!r} with the policy "
                f"{layer.dtype_policy.name!r}. Choose its dtype before you quantize it."
            )


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Every layer but models, whose inputs keep the dtype they were declared with."""
    for layer in model._flatten_layers():
        if not isinstance(layer, keras.Model | keras.layers.InputLayer):
            yield layer


def _makers(graph: Graph) -> Iterator[keras.layers.Layer]:
    """The layers whose results are the outputs of a graph, looked for through operations."""
    calls = {id(x): call for call in graph.calls for x in call.outputs}
    waiting = list(graph.outputs)
    while waiting:
        call = calls.pop(id(waiting.pop()), None)
        if call is None:
            continue
        nested = graph.nested.get(id(call.operation))
        if nested is not None:
            yield from _makers(nested)
        elif isinstance(call.operation, keras.layers.Layer):
            yield call.operation
        else:
            waiting += call.inputs
