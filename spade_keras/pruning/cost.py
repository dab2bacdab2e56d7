"""Parameters and multiply-accumulates of a model, per layer and in all."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from spade_keras.errors import OpenSizesError
from spade_keras.pruning.graph.forward_pass import input_specs, layer_calls
from spade_keras.pruning.graph.weights import priors_of
from spade_keras.pruning.mac_rules import Term, call_terms


@dataclass(frozen=True)
class MacReport:
    """Multiply-accumulates of one forward pass.

    Args:
        total: The sum over the layers.
        layers: Multiply-accumulates per layer path, layers called several times summed up.
        uncounted: Paths of layers without a rule; their work is not in the total.
        note: What the count leaves out.
    """

    total: int
    layers: dict[str, int]
    uncounted: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Work:
    """The terms that a model's multiply-accumulates consist of, and what has no rule."""

    terms: tuple[tuple[str, Term], ...]
    uncounted: tuple[str, ...]


_ELEMENTWISE = "Norms, activations, pooling and other elementwise work count as zero."
_NETWORK = "Only the priors are counted: FFTs and other parts of the physics are not."
_known_work: weakref.WeakKeyDictionary[Any, dict[Any, Work]] = weakref.WeakKeyDictionary()


def count_parameters(model: Any) -> int:
    """Counts the numbers a model stores, moving statistics included.

    Args:
        model: A built Keras model or network.

    Returns:
        The number of parameters, shared weights counted once.

    Raises:
        ValueError: If the model is not built.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> count_parameters(model)
        8
    """
    check_built(model)
    return sum(math.prod(weight.shape) for weight in model.weights)


def count_macs(model: Any, inputs: Any = None) -> MacReport:
    """Counts the multiply-accumulates of one forward pass.

    Counted are the products with kernels and between tensors (convolutions, dense and
    recurrent layers, attention, `Dot`, `matmul`, `einsum`), as published tables do.

    Args:
        model: A Keras model, or a network with `priors`.
        inputs: Arrays or shapes, in the structure of the model's inputs. None: the shapes the
            model declares; needed where these leave sizes open, and for networks. A batch of
            unknown size counts as one sample, a given batch as it is.

    Returns:
        The count in all and per layer.

    Raises:
        ValueError: If the model is not built, or (`OpenSizesError`) sizes stay unknown.
        TraceError: If `call` of a subclassed model cannot be traced.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((8, 8, 2)), keras.layers.Conv2D(4, 3)])
        >>> count_macs(model).total
        2592
    """
    work = work_of(model, inputs)
    layers: dict[str, int] = {}
    for path, term in work.terms:
        shape = () if term.variable is None else tuple(term.variable.shape)
        layers[path] = layers.get(path, 0) + term.macs(shape)
    note = _ELEMENTWISE if priors_of(model) is None else f"{_ELEMENTWISE} {_NETWORK}"
    return MacReport(sum(layers.values()), layers, work.uncounted, note)


def work_of(model: Any, inputs: Any = None) -> Work:
    """The terms of one forward pass, remembered per model and input shapes.

    Raises:
        ValueError: If the model is not built, or (`OpenSizesError`) sizes stay unknown.
    """
    check_built(model)
    parts = list(_parts(model, inputs))
    terms: list[tuple[str, Term]] = []
    uncounted: dict[str, None] = {}
    for prefix, part, shapes in parts:
        work = _part_work(part, shapes)
        terms += [(prefix + path, term) for path, term in work.terms]
        uncounted.update(dict.fromkeys(prefix + path for path in work.uncounted))
    return Work(tuple(terms), tuple(uncounted))


def check_built(model: Any) -> None:
    """Raises a ValueError if a model or one of its layers has no weights yet."""
    if not isinstance(model, keras.layers.Layer):
        raise ValueError(
            f"`model` must be a Keras model. Received: model={model!r} of type "
            f"{type(model).__name__}."
        )
    # Inside a layer, a part that is never called is rightly never built.
    parts = [model, *getattr(model, "layers", ())]
    unbuilt = [layer.name for layer in parts if not layer.built]
    if unbuilt:
        raise ValueError(
            f"`model` must be built. Received: model={model.name!r} with unbuilt {unbuilt[:5]}. "
            "Call it on an input once."
        )


def _parts(model: Any, inputs: Any) -> Iterator[tuple[str, keras.Model, Any]]:
    priors = priors_of(model)
    if priors is None:
        yield "", model, inputs
        return
    if inputs is None:
        raise OpenSizesError(
            "`inputs` must be given to count the work of a network, whose priors are called on "
            f"sizes that depend on it. Received: inputs=None for {model.name!r}."
        )
    for key, shapes in model.prior_input_shapes(inputs).items():
        for shape in shapes:
            yield f"{key}/", priors[key], tuple(shape)


def _part_work(model: keras.Model, inputs: Any) -> Work:
    known = _known_work.setdefault(model, {})
    specs = input_specs(model, inputs)
    key = tuple(tuple(x.shape) for x in specs)
    if key not in known:
        known[key] = _find_work(model, inputs)
    return known[key]


def _find_work(model: keras.Model, inputs: Any) -> Work:
    terms: list[tuple[str, Term]] = []
    uncounted: list[str] = []
    for call in layer_calls(model, inputs):
        try:
            found = call_terms(call)
        except TypeError as error:
            shapes = [x.shape for x in call.inputs]
            if not any(None in shape for shape in shapes):
                raise
            raise OpenSizesError(
                "`inputs` must give the sizes that the model leaves open. Received: "
                f"inputs={inputs}, which leaves {call.path!r} with input shapes {shapes}. "
                "Pass a shape such as (1, 128, 128, 2)."
            ) from error
        if found is None:
            uncounted.append(call.path)
        else:
            terms += [(call.path, term) for term in found or [Term(0)]]
    return Work(tuple(terms), tuple(uncounted))
