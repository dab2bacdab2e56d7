"""Layers that pass channels on: activations, pooling, element-wise operations, concatenation."""
# ruff: noqa: D102

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, Shape
from spade_keras.pruning.rules.rule import Arguments, Change, ChannelCall, ChannelRule, axes_of


class PassThrough(ChannelRule):
    """Every output carries the labels of the first input."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        return [call.labels[0]] * len(call.outputs)


class ActivationRule(ChannelRule):
    """A layer with an `activation`: labels are frozen where it mixes channels."""

    def propagate(self, call: ChannelCall) -> Labels:
        return call.guard(call.labels[0])


class SoftmaxRule(ChannelRule):
    """A softmax: exact as long as its axis carries no channels, else they are frozen."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels = call.labels[0]
        if any(labels.shape[a] > 1 for a in axes_of(call.operation, labels.ndim)):
            call.store.freeze(labels, f"{type(call.operation).__name__.lower()} over the channels")
        return labels


class SpatialRule(ChannelRule):
    """Pooling, upsampling, padding, cropping, resizing: every channel by itself."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels, axis = call.labels[0], call.channel_axis
        if labels.size == labels.shape[axis]:
            return labels
        return call.store.collapse(labels, [a for a in range(labels.ndim) if a != axis])


class GlobalPoolingRule(SpatialRule):
    """`GlobalAveragePooling` and `GlobalMaxPooling`: one number per channel."""

    def propagate(self, call: ChannelCall) -> Labels:
        labels = super().propagate(call)
        return labels if call.operation.keepdims else labels.reshape(1, -1)


def _pairs(call: ChannelCall) -> list[tuple[Shape, Labels]]:
    return [(tuple(spec.shape), x) for spec, x in zip(call.inputs, call.labels, strict=True)]


class MergeRule(ChannelRule):
    """`Add`, `Multiply`, ... layers: inputs are tied, except along axes that are stretched."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        if len({len(spec.shape) for spec in call.inputs}) > 1:
            return call.freeze_all(f"inputs of different rank at {call.path}")
        return call.store.elementwise(_pairs(call))


class ElementwiseOpRule(ChannelRule):
    """Element-wise `keras.ops`: tensors are tied, constant arrays are sliced with them."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
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
