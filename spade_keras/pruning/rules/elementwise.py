"""Element-wise layers and operations of several inputs, and concatenation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, Shape
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule


def _pairs(call: ChannelCall) -> list[tuple[Shape, Labels]]:
    return [(tuple(spec.shape), x) for spec, x in zip(call.inputs, call.labels, strict=True)]


class MergeRule(ChannelRule):
    """`Add`, `Multiply`, ... layers: inputs of the same width are tied."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Ties inputs, except along axes that are stretched."""
        if len({len(spec.shape) for spec in call.inputs}) > 1:
            return call.freeze_all(f"inputs of different rank at {call.path}")
        return call.store.elementwise(_pairs(call))


class ElementwiseOpRule(ChannelRule):
    """Element-wise `keras.ops`: tensors are tied, constant arrays are sliced with them."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Ties the tensors; a raw weight among the arguments freezes them."""
        flat = keras.tree.flatten((call.args, call.kwargs))
        if any(isinstance(value, keras.Variable) for value in flat):
            return call.freeze_all(f"a raw weight among the arguments of {call.path}")
        result = call.store.elementwise(_pairs(call))
        rank = len(call.outputs[0].shape)
        return [result.reshape((1,) * (rank - result.ndim) + result.shape)] * len(call.outputs)

    def arguments(
        self, args: tuple, kwargs: dict[str, Any], change: Change
    ) -> tuple[tuple, dict[str, Any]]:
        """Slices constant arrays along the axes that lost channels."""
        old, new = change.outputs[0]

        def cut(value: Any) -> Any:
            if not _is_array(value):
                return value
            offset = len(old) - len(value.shape)
            array = None
            for axis, size in enumerate(value.shape):
                if size > 1 and size == old[offset + axis] != new[offset + axis]:
                    if array is None:
                        array = keras.ops.convert_to_numpy(value)
                    array = np.take(array, change.kept(0, offset + axis, "outputs"), axis=axis)
            return value if array is None else array

        return keras.tree.map_structure(cut, args), keras.tree.map_structure(cut, kwargs)


def _is_array(value: Any) -> bool:
    """True for NumPy arrays and backend tensors with at least one axis."""
    if isinstance(value, (keras.KerasTensor, keras.Variable, str, bytes)):
        return False
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


class ConcatenateRule(ChannelRule):
    """`Concatenate` layers and operations: labels stand one after another."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Joins label arrays along the axis; other axes must agree and are tied."""
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
            reason = f"a concatenation of unknown sizes at {call.path}"
            for array in arrays:
                store.freeze(array, reason)
            return store.constant(rank, reason)
        shape = [max(array.shape[a] for array in arrays) for a in range(rank)]
        parts = []
        for array, size in zip(arrays, sizes, strict=True):
            shape[axis] = size
            parts.append(np.broadcast_to(array, shape))
        return np.concatenate(parts, axis=axis)
