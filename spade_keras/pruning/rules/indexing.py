"""Operations that take, drop, repeat or reorder positions: split, slice, pad, roll, tile."""
# ruff: noqa: D102

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.labels import Labels
from spade_keras.pruning.graph.trace import copy_operation
from spade_keras.pruning.rules.rule import (
    Arguments,
    Change,
    ChannelCall,
    ChannelRule,
    resized,
    spread,
)


class SplitRule(ChannelRule):
    """`ops.split` and `ops.array_split`: every part keeps its remaining positions."""

    def propagate(self, call: ChannelCall) -> list[Labels]:
        labels = call.labels[0]
        axis = call.operation.axis % labels.ndim
        if labels.shape[axis] == 1:
            return [labels] * len(call.outputs)
        sizes = [int(output.shape[axis]) for output in call.outputs]
        return np.split(labels, np.cumsum(sizes)[:-1], axis=axis)

    def resize(self, change: Change) -> Any:
        operation = change.operation
        if change.unchanged or not hasattr(operation, "indices_or_sections"):
            return copy_operation(operation)
        sizes = [new[operation.axis] for _, new in change.outputs]
        cuts = tuple(int(x) for x in np.cumsum(sizes)[:-1])
        return copy_operation(operation, indices_or_sections=cuts)


class IndexingRule(ChannelRule):
    """Positions given as a second argument move to where the channels now are."""

    positions: str
    """Name of that argument."""

    def given(self, args: tuple, kwargs: dict[str, Any]) -> Any:
        """The positions of a call."""
        return args[1] if len(args) > 1 else kwargs[self.positions]

    def moved(self, given: Any, change: Change) -> Any:
        """The positions in the narrower tensor."""
        raise NotImplementedError

    def arguments(self, args: tuple, kwargs: dict[str, Any], change: Change) -> Arguments:
        old, new = change.inputs[0]
        if old == new:
            return args, kwargs
        return (args[0], self.moved(self.given(args, kwargs), change)), {}


class GetItemRule(IndexingRule):
    """`tensor[...]` with integers, slices, `None` and an ellipsis."""

    positions = "key"

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        labels, shape = call.labels[0], call.shape()
        pieces: list[Any] = []
        for axis, key in _expand(self.given(call.args, call.kwargs), labels.ndim):
            varies = key is not None and labels.shape[axis] > 1
            if varies and isinstance(key, int):
                taken = np.take(labels, [key], axis=axis)
                call.store.freeze(taken, f"a single channel taken at {call.path}")
            elif varies:
                _keep_step(call, key, axis, int(shape[axis] or 1))
            elif key is not None:
                key = 0 if isinstance(key, int) else slice(None)
            pieces.append(key)
        result = labels[tuple(pieces)]
        if result.size == 1 and result.any() and 1 in call.outputs[0].shape:
            call.store.freeze(result, f"a single channel taken at {call.path}")
            return np.zeros_like(result)
        return result

    def moved(self, given: Any, change: Change) -> Any:
        old, new = change.inputs[0]
        pieces = []
        for axis, piece in _expand(given, len(old)):
            if piece is not None and old[axis] != new[axis]:
                piece = _moved_piece(piece, int(old[axis] or 1), change.kept(0, axis))
            pieces.append(piece)
        return tuple(pieces)


def _keep_step(call: ChannelCall, key: slice, axis: int, size: int) -> None:
    """A step other than 1 stays right only if whole periods are removed."""
    step = key.step or 1
    if step == 1:
        return
    labels = np.moveaxis(call.labels[0], axis, 0)
    if step > 1 and size % step == 0 and (key.start or 0) < step and key.stop is None:
        rows = labels.reshape(size // step, step, -1)
        call.store.tie(rows[:, :1], rows[:, 1:])
    elif not (step == -1 and key.start is None and key.stop is None):
        call.store.freeze(labels, f"a slice with a step at {call.path}")


def _moved_piece(piece: Any, size: int, kept: np.ndarray) -> Any:
    """An index or slice, counted in kept positions."""
    if isinstance(piece, int):
        return int(np.searchsorted(kept, piece % size))
    if (piece.step or 1) != 1:
        return piece
    start, stop, _ = piece.indices(size)
    return slice(int(np.searchsorted(kept, start)), int(np.searchsorted(kept, stop)))


def _expand(key: Any, rank: int) -> list[tuple[int, Any]]:
    """Pairs of axis and key with the ellipsis spelled out; the axis of None is -1."""
    keys = list(key) if isinstance(key, (tuple, list)) else [key]
    if not any(k is Ellipsis for k in keys):
        keys.append(Ellipsis)
    fill = rank - sum(k is not None and k is not Ellipsis for k in keys)
    found: list[tuple[int, Any]] = []
    axis = 0
    for item in keys:
        if item is None:
            found.append((-1, None))
            continue
        pieces = [slice(None)] * fill if item is Ellipsis else [item]
        found += [(axis + i, piece) for i, piece in enumerate(pieces)]
        axis += len(pieces)
    return found


class TakeRule(IndexingRule):
    """`ops.take` with constant indices: those of removed channels are dropped."""

    positions = "indices"

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        labels, axis = call.labels[0], call.operation.axis
        indices = self.given(call.args, call.kwargs)
        if axis is None or isinstance(indices, keras.KerasTensor) or len(call.inputs) > 1:
            return call.freeze_all(f"indices that depend on the data at {call.path}")
        axis = axis % labels.ndim
        indices = np.asarray(keras.ops.convert_to_numpy(indices))
        if labels.shape[axis] == 1:
            shape = labels.shape[:axis] + (1,) * indices.ndim + labels.shape[axis + 1 :]
            return labels.reshape(shape)
        taken = np.take(labels, indices, axis=axis)
        if indices.ndim != 1 or indices.size == 1:
            call.store.freeze(taken, f"single channels taken at {call.path}")
        return taken

    def moved(self, given: Any, change: Change) -> Any:
        axis = change.operation.axis
        old, new = change.inputs[0]
        if axis is None or old[axis] == new[axis]:
            return given
        indices = np.asarray(keras.ops.convert_to_numpy(given)) % old[axis]
        kept = change.kept(0, axis)
        moved = np.searchsorted(kept, indices[np.isin(indices, kept)])
        return moved.reshape(-1) if indices.ndim else moved[0]


class SliceRule(IndexingRule):
    """`ops.slice` with constant bounds."""

    positions = "start_indices"

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        labels = call.labels[0]
        starts = self.given(call.args, call.kwargs)
        if isinstance(starts, keras.KerasTensor) or len(call.inputs) > 1:
            return call.freeze_all(f"bounds that depend on the data at {call.path}")
        key = []
        for axis, start in enumerate(np.asarray(keras.ops.convert_to_numpy(starts)).tolist()):
            size = call.outputs[0].shape[axis]
            whole = labels.shape[axis] == 1
            key.append(slice(None) if whole else slice(start, start + int(size)))
        return labels[tuple(key)]

    def resize(self, change: Change) -> Any:
        shape = resized(change.operation.shape, *change.outputs[0])
        return copy_operation(change.operation, shape=shape)

    def moved(self, given: Any, change: Change) -> Any:
        moved = np.asarray(keras.ops.convert_to_numpy(given)).tolist()
        for axis, (old, new) in enumerate(zip(*change.inputs[0], strict=True)):
            if old != new:
                moved[axis] = int(np.searchsorted(change.kept(0, axis), moved[axis]))
        return moved


class PadRule(ChannelRule):
    """`ops.pad`: padding of a channel axis has labels, and shrinks with what it is added to."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        labels = call.labels[0]
        mode = call.operation.mode
        for axis, counts in enumerate(_widths(call.operation, labels.ndim)):
            if labels.shape[axis] == 1 or not any(counts):
                continue
            if mode != "constant":
                return call.freeze_all(f"{mode} padding of channels at {call.path}")
            shape = list(labels.shape)
            parts = []
            for count in counts:
                shape[axis] = count
                fresh = spread(call.store.new(count), axis, labels.ndim)
                parts.append(np.broadcast_to(fresh, shape))
            labels = np.concatenate([parts[0], labels, parts[1]], axis=axis)
        return labels

    def resize(self, change: Change) -> Any:
        operation = change.operation
        old, new = change.outputs[0]
        if old == new:
            return copy_operation(operation)
        widths = _widths(operation, len(old))
        for axis, (before, _) in enumerate(widths):
            if old[axis] != new[axis]:
                kept = change.kept(0, axis, "outputs")
                front = int((kept < before).sum())
                inside = change.inputs[0][1][axis] or 0
                widths[axis] = (front, len(kept) - front - inside)
        return copy_operation(operation, pad_width=tuple(widths))


def _widths(operation: Any, rank: int) -> list[tuple[int, int]]:
    widths = [tuple(pair) for pair in operation.pad_width]
    return [widths[0]] * rank if len(widths) == 1 else widths


class RollRule(ChannelRule):
    """`ops.roll`: a shift of channels shrinks with the channels it carries over the end."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        operation, labels = call.operation, call.labels[0]
        if isinstance(operation.axis, int):
            return np.roll(labels, operation.shift, axis=operation.axis)
        if labels.size > 1:
            return call.freeze_all(f"a roll over several axes at {call.path}")
        return labels

    def resize(self, change: Change) -> Any:
        operation = change.operation
        axis = operation.axis
        old, new = change.inputs[0]
        if axis is None or old[axis] == new[axis]:
            return copy_operation(operation)
        shift = operation.shift % old[axis]
        kept = change.kept(0, axis)
        return copy_operation(operation, shift=int((kept >= old[axis] - shift).sum()))


class RepeatRule(ChannelRule):
    """`ops.repeat` and `ops.tile`: copies carry the labels of the original."""

    def propagate(self, call: ChannelCall) -> Labels | list[Labels]:
        operation, labels = call.operation, call.labels[0]
        repeats = operation.repeats
        if hasattr(operation, "axis"):
            if not isinstance(repeats, int) or operation.axis is None:
                return call.freeze_all(f"an uneven repeat at {call.path}")
            if labels.shape[operation.axis] == 1:
                return labels
            return np.repeat(labels, repeats, axis=operation.axis)
        repeats = [repeats] if isinstance(repeats, int) else list(repeats)
        rank = max(labels.ndim, len(repeats))
        labels = labels.reshape((1,) * (rank - labels.ndim) + labels.shape)
        repeats = [1] * (rank - len(repeats)) + repeats
        factors = [r if s > 1 else 1 for r, s in zip(repeats, labels.shape, strict=True)]
        return np.tile(labels, factors)
