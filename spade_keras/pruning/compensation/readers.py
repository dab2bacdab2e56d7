"""Kernels that contract channels, each as a plain matrix product.

    output = patches(x) M + bias

with patches of shape (rows, blocks, channels, taps) and M of (blocks, channels, taps, outputs). A
3x3 convolution has nine taps, a grouped one a block per group. For a transposed convolution a row
is one input position and the outputs are what it adds to its window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

    `bias` is None if none can be refitted, `blocks` is the number of groups of a convolution,
    `argument` says which of the call's tensors is read, and `patches` makes `(rows, blocks,
    channels, taps)` from it and a choice of rows.
    """

    variable: Any
    index: int
    bias: Any
    axis: int
    patches: Callable[[np.ndarray, Rows], np.ndarray]
    blocks: int = 1
    argument: int = 0

    @property
    def inputs(self) -> int:
        """Rows of the matrix: channels x taps."""
        shape = self.variable.shape
        taps = math.prod(shape[: self.axis]) if self._has_taps else 1
        return int(shape[self.axis]) * taps

    def matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Writes a kernel as `(blocks, channels, taps, outputs)`."""
        front = np.moveaxis(np.asarray(kernel, np.float64), self.axis, 0)
        if self._has_taps:
            taps = front.reshape(len(front), -1, self.blocks, front.shape[-1] // self.blocks)
            return taps.transpose(2, 0, 1, 3)
        return front.reshape(1, len(front), 1, -1)

    def weights(self) -> np.ndarray:
        """The matrix, `(blocks, channels x taps + 1, outputs)`, the last row the bias or zeros."""
        matrix = self.matrix(keras.ops.convert_to_numpy(self.variable))
        blocks, channels, taps, outputs = matrix.shape
        bias = np.zeros((blocks, 1, outputs))
        if self.bias is not None:
            bias += np.reshape(keras.ops.convert_to_numpy(self.bias), bias.shape)
        return np.concatenate([matrix.reshape(blocks, channels * taps, outputs), bias], axis=1)

    def kernel(self, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Writes a matrix as a kernel of some shape; the inverse of `matrix`."""
        front_shape = (shape[self.axis], *np.delete(shape, self.axis))
        if self._has_taps:
            matrix = matrix.transpose(1, 2, 0, 3)
        return np.moveaxis(matrix.reshape(front_shape), 0, self.axis)

    @property
    def _has_taps(self) -> bool:
        """Whether the window's axes belong to the contraction: convolutions that gather."""
        rank = len(self.variable.shape)
        return rank > 2 and self.axis == rank - 2


def readers_of(layer: Any) -> list[Reader]:
    """Lists the kernels of a built layer that can be refitted; empty for other layers."""
    kind = type(layer)

    def reader(kernel: Any, bias: Any, axis: int, patches: Any, **options: int) -> Reader:
        index = next(i for i, variable in enumerate(layer.weights) if variable is kernel)
        return Reader(kernel, index, bias, axis % len(kernel.shape), patches, **options)

    if kind is keras.layers.Dense:
        return [reader(layer.kernel, layer.bias, 0, _last_axis)]
    if kind in _CONVOLUTIONS and not (layer.groups > 1 and layer.kernel.shape[-2] == 1):
        return [reader(layer.kernel, layer.bias, -2, partial(_windows, layer), blocks=layer.groups)]
    if kind in _TRANSPOSES:
        # Every output collects several rows, so the bias is none of theirs.
        return [reader(layer.kernel, None, -1, partial(_positions, layer))]
    if kind in _SEPARABLE:
        outputs = partial(_depthwise_outputs, layer)
        return [reader(layer.pointwise_kernel, layer.bias, -2, outputs)]
    if kind in _CELLS:
        bias = layer.cell.bias if layer.cell.use_bias else None
        plain = bias is not None and len(bias.shape) == 1
        return [reader(layer.cell.kernel, bias if plain else None, 0, _last_axis)]
    if kind in _ATTENTION:
        # A call is (query, value) or (query, value, key).
        parts = [(layer._query_dense, 0), (layer._value_dense, 1), (layer._key_dense, 2)]
        return [reader(d.kernel, d.bias, 0, _last_axis, argument=at) for d, at in parts]
    return []


def _last_axis(x: np.ndarray, rows: Rows) -> np.ndarray:
    flat = x.reshape(-1, x.shape[-1])
    return flat[rows(len(flat))][:, None, :, None]


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
