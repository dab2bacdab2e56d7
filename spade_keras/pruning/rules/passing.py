"""Channels passed on, joined or summed up: nothing here has a weight of its own."""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, Shape
from spade_keras.pruning.rules.rule import (
    Arguments,
    AxisMixing,
    Change,
    ChannelCall,
    ChannelRule,
    axes_of,
)


class PassThrough(ChannelRule):
    """Labels go through, for every output; frozen where an `activation` mixes channels."""

    def propagate(self, call: ChannelCall) -> list[Labels]:
        return [call.guard(call.labels[0])] * len(call.outputs)


class SoftmaxRule(ChannelRule):
    """A softmax: exact as long as its axis carries no channels, else they are frozen."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels = call.labels[0]
        if any(labels.shape[a] > 1 for a in axes_of(call.operation, labels.ndim)):
            call.store.freeze(labels, f"{type(call.operation).__name__.lower()} over the channels")
        return labels


class SpatialRule(ChannelRule):
    """Pooling, upsampling, padding, resizing: a channel by itself; global pooling drops axes."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels, axis = call.labels[0], call.channel_axis
        labels = call.store.collapse(labels, [a for a in range(labels.ndim) if a != axis])
        return labels if getattr(call.operation, "keepdims", True) else labels.reshape(1, -1)


def _pairs(call: ChannelCall) -> list[tuple[Shape, Labels]]:
    return [(tuple(spec.shape), x) for spec, x in zip(call.inputs, call.labels, strict=True)]


class ElementwiseRule(ChannelRule):
    """`Add`, `ops.multiply`, ...: tensors are tied, constant arrays are sliced with them."""

    def propagate(self, call: ChannelCall) -> list[Labels]:
        ranks = {len(spec.shape) for spec in call.inputs}
        if isinstance(call.operation, keras.Layer) and len(ranks) > 1:
            return call.freeze_all(f"inputs of different rank at {call.path}")
        flat = keras.tree.flatten((call.args, call.kwargs))
        if any(isinstance(value, keras.Variable) for value in flat):
            return call.freeze_all(f"a raw weight among the arguments of {call.path}")
        result = call.store.elementwise(_pairs(call))
        rank = len(call.outputs[0].shape)
        return [result.reshape((1,) * (rank - result.ndim) + result.shape)] * len(call.outputs)

    def arguments(self, args: tuple, kwargs: dict[str, Any], change: Change) -> Arguments:
        old, new = change.outputs[0]

        def cut(value: Any) -> Any:
            if not _is_array(value):
                return value
            first = len(old) - len(value.shape)
            for axis, size in enumerate(value.shape, first):
                if size > 1 and size == old[axis] != new[axis]:
                    value = np.asarray(keras.ops.convert_to_numpy(value))
                    value = np.take(value, change.kept(0, axis, "outputs"), axis=axis - first)
            return value

        return keras.tree.map_structure(cut, args), keras.tree.map_structure(cut, kwargs)


def _is_array(value: Any) -> bool:
    """True for NumPy arrays and backend tensors with at least one axis."""
    if isinstance(value, (keras.KerasTensor, keras.Variable, str, bytes)):
        return False
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


class ConcatenateRule(ChannelRule):
    """`Concatenate` layers and operations: label arrays are joined, other axes are tied."""

    def propagate(self, call: ChannelCall) -> Labels:
        store, arrays = call.store, call.labels
        rank = arrays[0].ndim
        axis = call.operation.axis % rank
        sizes = [spec.shape[axis] for spec in call.inputs]
        if all(array.shape[axis] == 1 for array in arrays):
            elsewhere = any(array.size > 1 for array in arrays)
            same = all(x is arrays[0] or not (x.any() or arrays[0].any()) for x in arrays)
            if elsewhere or same or None in sizes:
                # No labels differ along the axis, so its sizes do not matter.
                pairs = [((*s[:axis], None, *s[axis + 1 :]), x) for s, x in _pairs(call)]
                return store.elementwise(pairs)
        if None in sizes:
            return call.freeze_all(f"a concatenation of unknown sizes at {call.path}")[0]
        shape = [max(array.shape[a] for array in arrays) for a in range(rank)]
        parts = []
        for array, size in zip(arrays, sizes, strict=True):
            shape[axis] = size
            parts.append(np.broadcast_to(array, shape))
        return np.concatenate(parts, axis=axis)


class ReductionRule(AxisMixing):
    """`ops.sum`, `ops.mean`, ...: reduced axes lose their labels, or tie those of other axes."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels = call.labels[0]
        axes = axes_of(call.operation, labels.ndim)
        others = [a for a in range(labels.ndim) if a not in axes and labels.shape[a] > 1]
        if others:
            labels = call.store.collapse(labels, axes)
        elif any(labels.shape[a] > 1 for a in axes):
            labels = np.zeros((1,) * labels.ndim, dtype=np.int64)
        if getattr(call.operation, "keepdims", False):
            return labels
        return labels.reshape([s for a, s in enumerate(labels.shape) if a not in axes])


class GluRule(ChannelRule):
    """`ops.glu`: one half of the channels gates the other, so the two are tied."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels = call.labels[0]
        axis = call.operation.axis % labels.ndim
        if labels.shape[axis] == 1:
            return labels
        first, second = np.split(labels, 2, axis=axis)
        call.store.tie(first, second)
        return first


class MatmulRule(ChannelRule):
    """`ops.matmul` of two tensors: the inner axes are tied and contracted, outer ones go through.

    Channels on further axes, such as heads, take the ties.
    """

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        if len(call.inputs) != 2 or min(x.ndim for x in call.labels) < 2:
            return call.freeze_all(f"a product with a constant or a vector at {call.path}")
        store = call.store
        left, right = call.labels
        if left.size > left.shape[-1] or right.size > right.shape[-2]:
            left = store.collapse(left, [left.ndim - 1])
            right = store.collapse(right, [right.ndim - 2])
        if left.shape[-1] > 1 or right.shape[-2] > 1:
            size = int(call.shape(0)[-1] or 1)
            store.tie(store.along(left, -1, size), store.along(right, -2, size))
            left = left[..., :1] * 0
            right = right[..., :1, :] * 0 if right.shape[-2] > 1 else right
        # The contracted axes have size 1 in the result, as in a broadcasting product.
        shapes = (*call.shape(0)[:-1], 1), (*call.shape(1)[:-2], 1, call.shape(1)[-1])
        return store.elementwise(list(zip(shapes, (left, right), strict=True)))

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        return labels[0].shape[-1] > 1 or (len(labels) > 1 and labels[1].shape[-2] > 1)


class DotRule(ChannelRule):
    """`Dot`: contracts one axis of each input; channels on other axes keep their widths."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        axes = call.operation.axes
        axes = [axes, axes] if isinstance(axes, int) else list(axes)
        call.store.tie(*(call.vector(axis, index) for index, axis in enumerate(axes)))
        for labels, axis in zip(call.labels, axes, strict=True):
            if labels.size > labels.shape[axis]:
                call.store.freeze(labels, f"a channel axis beside the contraction at {call.path}")
        return call.store.constant(len(call.outputs[0].shape))

    def mixes(self, labels: Sequence[Labels], call: Any) -> bool:
        return any(x.size > 1 for x in labels)
