"""Kernels that contract channels, each as a plain matrix product.

    output = patches(x) M + bias

with patches of shape (rows, blocks, channels, taps) and M of (blocks, channels, taps, outputs). A
3x3 convolution has nine taps, a grouped one a block per group. For a transposed convolution a row
is one input position and the outputs are what it adds to its window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Rows = Callable[[int], np.ndarray]
"""Chooses which of so many rows are looked at; returns their numbers."""

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSES = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
_CELLS = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)


@dataclass(frozen=True)
class Reader:
    """One kernel of one layer: weight number `index`, with `axis` running over the channels.

    `window` are the other axes that are summed over. `bias` is None if none can be refitted; of
    one with several rows it is row `bias_row`. `blocks` is the number of groups of a convolution.
    `patches` makes `(rows, blocks, channels, taps)` from the first tensor of a call, or with
    `whole` from all arguments by their names, and a choice of rows.
    """

    variable: Any
    index: int
    bias: Any
    axis: int
    patches: Callable[[Any, Rows], np.ndarray]
    blocks: int = 1
    window: tuple[int, ...] = ()
    bias_row: int = 0
    whole: bool = False

    @property
    def inputs(self) -> int:
        """Rows of the matrix: channels x taps."""
        return math.prod(self.variable.shape[axis] for axis in (self.axis, *self.window))

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Writes a kernel as `(blocks, channels, taps, outputs)`."""
        front = np.transpose(np.asarray(kernel, np.float64), self._order)
        taps = math.prod(front.shape[1 : 1 + len(self.window)])
        matrix = front.reshape(len(front), taps, self.blocks, -1)
        return matrix.transpose(2, 0, 1, 3)

    def weights(self) -> np.ndarray:
        """The matrix, `(blocks, channels x taps + 1, outputs)`, the last row the bias or zeros."""
        matrix = self.matrix(keras.ops.convert_to_numpy(self.variable))
        blocks, channels, taps, outputs = matrix.shape
        bias = np.zeros((blocks, 1, outputs))
        if self.bias is not None:
            rows = np.reshape(keras.ops.convert_to_numpy(self.bias), (-1, *bias.shape))
            bias += rows[self.bias_row]
        return np.concatenate([matrix.reshape(blocks, channels * taps, outputs), bias], axis=1)

    def kernel(self, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Writes a matrix as a kernel of some shape; the inverse of `matrix`."""
        front = matrix.transpose(1, 2, 0, 3).reshape([shape[axis] for axis in self._order])
        return np.transpose(front, np.argsort(self._order))

    @property
    def _order(self) -> list[int]:
        """The axes of the kernel: channels, window, outputs."""
        summed = [self.axis, *self.window]
        return summed + [x for x in range(len(self.variable.shape)) if x not in summed]


def readers_of(layer: Any) -> list[Reader]:
    """Lists the kernels of a built layer that can be refitted; empty for other layers."""
    numbers = {id(variable): i for i, variable in enumerate(getattr(layer, "weights", ()))}
    return [
        Reader(kernel, numbers[id(kernel)], bias, axis % len(kernel.shape), patches, **options)
        for kernel, bias, axis, patches, options in _kernels(layer)
    ]


def _kernels(layer: Any) -> list[tuple[Any, Any, int, Any, dict[str, Any]]]:
    """Kernel, bias, axis of the channels, patches and other options of every reader."""
    kind = type(layer)
    if kind is keras.layers.Dense:
        return [(layer.kernel, layer.bias, 0, _last_axis, {})]
    if kind in _CONVOLUTIONS and not (layer.groups > 1 and layer.kernel.shape[-2] == 1):
        options = {"blocks": layer.groups, "window": tuple(range(layer.rank))}
        return [(layer.kernel, layer.bias, -2, partial(_windows, layer), options)]
    if kind in _TRANSPOSES:
        # Every output collects several rows, so the bias is none of theirs.
        return [(layer.kernel, None, -1, partial(_positions, layer), {})]
    if kind in _SEPARABLE:
        outputs = partial(_depthwise_outputs, layer)
        options = {"window": tuple(range(layer.rank))}
        return [(layer.pointwise_kernel, layer.bias, -2, outputs, options)]
    if kind is keras.layers.EinsumDense:
        return _einsum(layer)
    if kind in _CELLS:
        return _recurrent(layer)
    if kind in _ATTENTION:
        return _attention(layer)
    if kind is keras.layers.Bidirectional:
        return [*_kernels(layer.forward_layer), *_kernels(layer.backward_layer)]
    if kind is keras.layers.TimeDistributed:
        inner = [x for x in _kernels(layer.layer) if not x[-1].get("whole")]
        return [(a, b, c, partial(_all_steps, patches), d) for a, b, c, patches, d in inner]
    return []


def _einsum(layer: Any) -> list[Any]:
    """The kernel of an `EinsumDense` that contracts one axis and shares none with the output."""
    left, target = layer.equation.replace(" ", "").replace("...", ".").split("->")
    source, kernel = left.split(",")
    made = "".join(x for x in kernel if x not in source)
    lost = [x for x in kernel if x in source]
    if len(lost) != 1 or lost[0] in target:
        return []
    at = source.index(lost[0])
    axis = at - len(source) if "." in source[:at] else at
    size = math.prod(n for x, n in zip(kernel, layer.kernel.shape, strict=True) if x in made)
    in_order = "".join(x for x in target if x in made) == made and target.endswith(made)
    whole = in_order and layer.bias is not None and math.prod(layer.bias.shape) == size
    bias = layer.bias if whole else None
    return [(layer.kernel, bias, kernel.index(lost[0]), partial(_along, axis), {})]


def _recurrent(layer: Any) -> list[Any]:
    """The input kernel, and the one that reads the layer's own units one step before.

    One bias serves both and goes to the input kernel; a GRU that resets after the product has two.
    One that resets before it reads two different things with one kernel, which stays as it is.
    """
    cell = layer.cell
    bias = cell.bias if cell.use_bias else None
    found: list[Any] = [(cell.kernel, bias, 0, _last_axis, {})]
    two = bias is not None and len(bias.shape) == 2
    if getattr(cell, "reset_after", True):
        options = {"whole": True, "bias_row": int(two)}
        states = partial(_states_before, layer)
        found.append((cell.recurrent_kernel, bias if two else None, 0, states, options))
    return found


def _attention(layer: Any) -> list[Any]:
    """The projections of query, value and key, and the one that reads all heads."""
    dense = {"query": layer._query_dense, "value": layer._value_dense, "key": layer._key_dense}
    found = [
        (x.kernel, x.bias, 0, partial(_argument, name), {"whole": True})
        for name, x in dense.items()
    ]
    output = layer._output_dense
    options = {"whole": True, "window": (1,)}
    return [*found, (output.kernel, output.bias, 0, partial(_heads, layer), options)]


def _last_axis(x: np.ndarray, rows: Rows) -> np.ndarray:
    flat = x.reshape(-1, x.shape[-1])
    return flat[rows(len(flat))][:, None, :, None]


def _along(axis: int, x: np.ndarray, rows: Rows) -> np.ndarray:
    return _last_axis(np.moveaxis(x, axis, -1), rows)


def _all_steps(patches: Any, x: np.ndarray, rows: Rows) -> np.ndarray:
    """What the layer in a `TimeDistributed` reads: all steps are one batch."""
    return np.asarray(patches(x.reshape(-1, *x.shape[2:]), rows))


def _argument(name: str, arguments: Mapping[str, Any], rows: Rows) -> np.ndarray:
    """What a projection of attention reads; keys are the values where they are not given."""
    given = arguments.get(name)
    return _last_axis(_array(arguments["value"] if given is None else given), rows)


def _heads(layer: Any, arguments: Mapping[str, Any], rows: Rows) -> np.ndarray:
    """What the output projection of attention reads: `(rows, 1, heads, size)`."""
    dense = layer._output_dense
    seen: list[np.ndarray] = []

    def record(x: Any) -> Any:
        seen.append(_array(x))
        return type(dense).call(dense, x)

    dense.call = record
    try:
        layer(**arguments)
    finally:
        del dense.call
    flat = seen[0].reshape(-1, 1, *seen[0].shape[-2:])
    return flat[rows(len(flat))]


def _states_before(layer: Any, arguments: Mapping[str, Any], rows: Rows) -> np.ndarray:
    """What a recurrent kernel reads: the units one step before, at all steps."""
    x = keras.ops.convert_to_tensor(arguments["sequences"])
    x = keras.ops.flip(x, axis=1) if layer.go_backwards else x
    states = list(layer.get_initial_state(len(x)))
    given = [y for y in keras.tree.flatten(arguments.get("initial_state")) if y is not None]
    states = given if len(given) == len(states) else states
    seen = []
    for step in range(x.shape[1]):
        seen.append(_array(states[0]))
        _, states = layer.cell(x[:, step], states)
    return _last_axis(np.stack(seen, axis=1), rows)


def _array(x: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(x))


def _channels_last(layer: Any, x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1) if layer.data_format == "channels_first" else x


def _positions(layer: Any, x: np.ndarray, rows: Rows) -> np.ndarray:
    return _last_axis(_channels_last(layer, x), rows)


def _windows(layer: Any, x: np.ndarray, rows: Rows) -> np.ndarray:
    gathered = _gather(layer, x, rows)
    count, channels, taps = gathered.shape
    return gathered.reshape(count, layer.groups, channels // layer.groups, taps)


def _depthwise_outputs(layer: Any, x: np.ndarray, rows: Rows) -> np.ndarray:
    gathered = _gather(layer, x, rows)
    count, channels, taps = gathered.shape
    depthwise = keras.ops.convert_to_numpy(layer.depthwise_kernel).reshape(taps, channels, -1)
    return np.einsum("rct,tcm->rcm", gathered, depthwise).reshape(count, 1, -1, 1)


def _gather(layer: Any, x: np.ndarray, rows: Rows) -> np.ndarray:
    """Reads the windows of the chosen output positions: `(rows, channels, taps)`.

    Keras pads "same" as TensorFlow does on every backend: the odd pixel goes behind.
    """
    x = _channels_last(layer, x)
    sides = list(zip(layer.kernel_size, layer.dilation_rate, layer.strides, strict=True))
    reach = [(size - 1) * dilation + 1 for size, dilation, _ in sides]
    padding = map(_padding, [layer.padding] * len(sides), x.shape[1:-1], reach, layer.strides)
    padded = np.pad(x, [(0, 0), *padding, (0, 0)])
    # A view of shape (batch, *positions, channels, *window): only chosen rows are copied.
    windows = sliding_window_view(padded, reach, axis=tuple(range(1, x.ndim - 1)))
    strides = [slice(None, None, stride) for _, _, stride in sides]
    dilations = [slice(None, None, dilation) for _, dilation, _ in sides]
    windows = windows[(slice(None), *strides, slice(None), *dilations)]
    places = windows.shape[: x.ndim - 1]
    chosen = rows(math.prod(places))
    return windows[np.unravel_index(chosen, places)].reshape(len(chosen), x.shape[-1], -1)


def _padding(kind: str, size: int, reach: int, stride: int) -> tuple[int, int]:
    if kind == "valid":
        return 0, 0
    if kind == "causal":
        return reach - 1, 0
    total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def row_chooser(most: int, seed: int) -> Rows:
    """Makes a function that chooses rows, the same for the same count and seed."""

    def choose(count: int) -> np.ndarray:
        if count <= most:
            return np.arange(count)
        return np.random.default_rng([seed, count]).choice(count, most, replace=False)

    return choose
