"""Element-wise layers and operations of several inputs, and concatenation."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels, Shape
from spade_keras.pruning.rules.rule import Change, ChannelCall, ChannelRule


class MergeRule(ChannelRule):
    """`Add`, `Multiply`, ... layers: inputs of the same width are tied."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Ties inputs, except along axes that are stretched."""
        ranks = {len(spec.shape) for spec in call.inputs}
        if len(ranks) > 1:
            return call.freeze_all(f"inputs of different rank at {call.path}")
        pairs = list(zip((spec.shape for spec in call.inputs), call.labels, strict=True))
        return call.store.elementwise(pairs)


def is_array(value: Any) -> bool:
    """True for NumPy arrays and backend tensors with at least one axis."""
    if isinstance(value, (keras.KerasTensor, keras.Variable, str, bytes)):
        return False
    return hasattr(value, "shape") and hasattr(value, "dtype") and len(value.shape) > 0


class ElementwiseOpRule(ChannelRule):
    """Element-wise `keras.ops`: tensors are tied, constant arrays are sliced with them."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        """Ties the tensors; a raw weight among the arguments freezes them."""
        pairs: list[tuple[Shape, Labels]] = [
            (tuple(spec.shape), labels)
            for spec, labels in zip(call.inputs, call.labels, strict=True)
        ]
        flat = keras.tree.flatten((call.args, call.kwargs))
        if any(isinstance(value, keras.Variable) for value in flat):
            return call.freeze_all(f"a raw weight among the arguments of {call.path}")
        result = call.store.elementwise(pairs)
        rank = len(call.outputs[0].shape)
        result = result.reshape((1,) * (rank - result.ndim) + result.shape)
        return [result] * len(call.outputs) if len(call.outputs) > 1 else result

    def arguments(
        self, args: tuple, kwargs: dict[str, Any], change: Change
    ) -> tuple[tuple, dict[str, Any]]:
        """Slices constant arrays along the axes that lost channels."""
        old, new = change.outputs[0]

        def cut(value: Any) -> Any:
            if not is_array(value):
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


class ConcatenateRule(ChannelRule):
    """`Concatenate` layers and operations: labels stand one after another."""

    def propagate(self, call: ChannelCall) -> Labels:
        """Joins label arrays along the axis."""
        rank = call.labels[0].ndim
        axis = call.operation.axis % rank
        return join(call, axis)


def join(call: ChannelCall, axis: int) -> Labels:
    """Labels of inputs joined along an axis; other axes must agree and are tied.

    Args:
        call: The call whose inputs are joined.
        axis: Non-negative axis.
    """
    store = call.store
    arrays = call.labels
    sizes = [spec.shape[axis] for spec in call.inputs]
    plain = all(array.shape[axis] == 1 for array in arrays)
    if plain:
        elsewhere = any(array.size > 1 for array in arrays)
        same = all(array is arrays[0] or not (array.any() or arrays[0].any()) for array in arrays)
        if elsewhere or same or None in sizes:
            shapes = [tuple(spec.shape) for spec in call.inputs]
            flat = [(*s[:axis], None, *s[axis + 1 :]) for s in shapes]
            return store.elementwise(list(zip(flat, arrays, strict=True)))
    if None in sizes:
        for array in arrays:
            store.freeze(array, f"a concatenation of unknown sizes at {call.path}")
        return store.constant(arrays[0].ndim, f"a concatenation of unknown sizes at {call.path}")
    shape = [max(array.shape[a] for array in arrays) for a in range(arrays[0].ndim)]
    parts = []
    for array, size in zip(arrays, sizes, strict=True):
        part = list(shape)
        part[axis] = size
        parts.append(np.broadcast_to(array, part))
    return np.concatenate(parts, axis=axis)
