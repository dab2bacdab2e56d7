"""Multiply-accumulates of a layer call, counted per weight that it contracts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
from keras import layers

from spade_keras.pruning.graph.forward_pass import ShapedCall as Call


@dataclass(frozen=True)
class Term:
    """`uses` multiply-accumulates for every element of a weight, or of some of its `axes`.

    The uses do not depend on channel counts, so the cost after pruning follows from the
    slim weight's shape alone. A product without a weight costs `uses`.
    """

    uses: int
    variable: Any = None
    axes: tuple[int, ...] | None = None

    def macs(self, shape: Sequence[int] | None = None) -> int:
        """Multiply-accumulates with the weight in this shape; None: in its own."""
        if shape is None:
            shape = () if self.variable is None else tuple(self.variable.shape)
        sizes = shape if self.axes is None else [shape[axis] for axis in self.axes]
        return self.uses * prod(sizes)


Rule = Callable[[Any, Call], list[Term] | None]


def call_terms(call: Call) -> list[Term] | None:
    """The terms of one call, empty for elementwise work, None where no rule knows the layer."""
    if not isinstance(call.operation, keras.Layer):
        rule = _OPERATIONS.get(type(call.operation).__name__)
        return rule(call.operation, call) if rule else []
    for kinds, rule in _RULES:
        if isinstance(call.operation, kinds):
            return rule(call.operation, call)
    stock = type(call.operation).__module__.split(".")[0] == "keras"
    return [] if stock and not isinstance(call.operation, _FOREIGN) else None


def _positions(layer: Any, shape: tuple[int, ...]) -> int:
    spatial = shape[2:] if layer.data_format == "channels_first" else shape[1:-1]
    return shape[0] * prod(spatial)


def _kernels(tensor: str, *names: str) -> Rule:
    """Every position of a call's inputs or outputs uses whole kernels."""

    def terms(layer: Any, call: Call) -> list[Term]:
        positions = _positions(layer, getattr(call, tensor)[0].shape)
        return [Term(positions, getattr(layer, name)) for name in names]

    return terms


def _functional(tensor: str, kernel_axes: int) -> Rule:
    """A functional convolution: every element of a tensor times that many axes of the kernel."""

    def terms(operation: Any, call: Call) -> list[Term]:
        kernel = call.inputs[1].shape[:kernel_axes]
        return [Term(prod(getattr(call, tensor)[0].shape) * prod(kernel))]

    return terms


def _einsum_dense(layer: Any, call: Call) -> list[Term]:
    kernel = layer.kernel
    sizes = _label_sizes(layer.equation, [call.inputs[0].shape, kernel.shape])
    return [Term(prod(sizes.values()) // prod(kernel.shape), kernel)]


def _reversible_embedding(layer: Any, call: Call) -> list[Term]:
    if not call.argument("reverse"):
        return []
    kernel = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
    return [Term(prod(call.inputs[0].shape[:-1]), kernel)]


def _recurrent(layer: Any, call: Call) -> list[Term] | None:
    steps = prod(call.inputs[0].shape[:2])
    cells = getattr(layer.cell, "cells", [layer.cell])
    if not all(isinstance(cell, _CELLS) for cell in cells):
        return None
    kernels = [kernel for cell in cells for kernel in (cell.kernel, cell.recurrent_kernel)]
    return [Term(steps, kernel) for kernel in kernels]


def _recurrent_convolution(layer: Any, call: Call) -> list[Term]:
    steps = call.inputs[0].shape[1]
    state = call.outputs[0].shape
    if layer.return_sequences:
        state = (state[0], *state[2:])
    positions = steps * _positions(layer, state)
    return [Term(positions, layer.cell.kernel), Term(positions, layer.cell.recurrent_kernel)]


def _multi_head(layer: Any, call: Call) -> list[Term]:
    query, value = call.argument("query").shape, call.argument("value").shape
    key = call.argument("key")
    key = value if key is None else key.shape
    axes = getattr(layer, "_attention_axes", None) or range(1, len(query) - 1)
    heads, values = layer._query_dense.kernel, layer._value_dense.kernel
    grouped = isinstance(layer, layers.GroupQueryAttention)
    pairs = prod(query[:-1]) * prod(key[axis] for axis in axes)
    projections = [
        (layer._query_dense, query),
        (layer._key_dense, key),
        (layer._value_dense, value),
        (layer._output_dense, query),
        (getattr(layer, "_gate_dense", None), query),
    ]
    terms = [Term(prod(shape[:-1]), dense.kernel) for dense, shape in projections if dense]
    return [*terms, Term(pairs, heads, (1, 2)), Term(pairs, heads if grouped else values, (1, 2))]


def _attention(layer: Any, call: Call) -> list[Term]:
    query, value = (x.shape for x in call.inputs[:2])
    multiplied = layer.use_scale or not isinstance(layer, layers.AdditiveAttention)
    elements = value[-1] + (query[-1] if multiplied else 0)
    return [Term(prod(query[:-1]) * value[-2] * elements)]


def _dot_layer(layer: Any, call: Call) -> list[Term]:
    axes = layer.axes if isinstance(layer.axes, int) else layer.axes[0]
    return [Term(prod(call.outputs[0].shape) * call.inputs[0].shape[axes])]


def _einsum(operation: Any, call: Call) -> list[Term]:
    sizes = _label_sizes(operation.subscripts, [x.shape for x in call.inputs])
    return [Term(prod(sizes.values()))]


def _label_sizes(equation: str, shapes: list[tuple[int, ...]]) -> dict[str, int]:
    """Size of every index of an einsum; axes hidden by `...` get names of their own."""
    sizes: dict[str, int] = {}
    operands = equation.replace(" ", "").split("->")[0].split(",")
    for labels, shape in zip(operands, shapes, strict=True):
        head, dots, tail = labels.partition("...")
        hidden = len(shape) - len(head) - len(tail) if dots else 0
        names = [*head, *(f"...{hidden - i}" for i in range(hidden)), *tail]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return sizes


_CELLS = (layers.SimpleRNNCell, layers.LSTMCell, layers.GRUCell)
_FOREIGN = (layers.Wrapper, layers.JaxLayer, layers.TFSMLayer, layers.TorchModuleWrapper)
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
# The first row that fits counts: a ConvLSTM is an RNN.
_RULES: tuple[tuple[tuple[type, ...], Rule], ...] = (
    (_CONVOLUTIONS + _DEPTHWISE, _kernels("outputs", "kernel")),
    (_TRANSPOSED, _kernels("inputs", "kernel")),
    (
        (layers.SeparableConv1D, layers.SeparableConv2D),
        _kernels("outputs", "depthwise_kernel", "pointwise_kernel"),
    ),
    ((layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D), _recurrent_convolution),
    ((layers.RNN,), _recurrent),
    ((layers.Dense,), lambda x, call: [Term(prod(call.inputs[0].shape[:-1]), x.kernel)]),
    ((layers.EinsumDense,), _einsum_dense),
    ((layers.ReversibleEmbedding,), _reversible_embedding),
    ((layers.MultiHeadAttention, layers.GroupQueryAttention), _multi_head),
    ((layers.Attention,), _attention),
    ((layers.Dot,), _dot_layer),
)
_UNCOUNTED = ["SeparableConv", "DotProductAttention", "Dot", "Tensordot", "Inner", "Outer", "Kron"]
_TRANSFORMS = ["FFT", "FFT2", "IFFT2", "RFFT", "IRFFT", "STFT", "ISTFT"]
_OPERATIONS: dict[str, Rule] = {
    "Matmul": lambda _, call: [Term(prod(call.outputs[0].shape) * call.inputs[0].shape[-1])],
    "Einsum": _einsum,
    "Conv": _functional("outputs", -1),
    "DepthwiseConv": _functional("outputs", -2),
    "ConvTranspose": _functional("inputs", -1),
    **dict.fromkeys([*_UNCOUNTED, *_TRANSFORMS], lambda operation, call: None),
}
