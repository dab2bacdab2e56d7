"""Integer labels that identify a channel in all tensors and weights it occurs in.

A tensor of shape `(batch, height, width, channels)` has a label array of shape
`(1, 1, 1, channels)`: an axis of size 1 says that all positions along it share their labels.
Label 0 marks a width that never changes. Labels that are tied are kept or removed together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Labels = np.ndarray
Shape = tuple[int | None, ...]


@dataclass
class SlotRecord:
    """Labels along one axis of one weight, one per position.

    `role` is `"producer"`, `"consumer"` or `"parameter"`; `unit` a suffix of the group's name where
    the pruned units are not channels, such as heads.
    """

    path: str
    layer: Any
    variable: Any
    axis: int
    labels: Labels
    role: str
    unit: str = ""


@dataclass
class BlockRecord:
    """Channels in equal blocks, each of which must keep equally many."""

    path: str
    labels: Labels
    count: int


class LabelStore:
    """Makes labels, and records ties, freezes, slots and blocks."""

    def __init__(self) -> None:
        self.size = 1
        self.edges: list[tuple[Labels, Labels]] = []
        self.frozen: list[tuple[Labels, str]] = []
        self.slots: list[SlotRecord] = []
        self.blocks: list[BlockRecord] = []
        self._vectors: dict[tuple[int, int, int], tuple[Labels, Labels]] = {}
        self._slot_at: dict[tuple[int, int], SlotRecord] = {}

    def new(self, count: int) -> Labels:
        """Fresh labels for `count` channels."""
        labels = np.arange(self.size, self.size + count)
        self.size += count
        return labels

    def tie(self, first: Labels, second: Labels) -> None:
        """Couples two label arrays element by element; label 0 freezes its partner."""
        if first is second:
            return
        first, second = np.broadcast_arrays(first, second)
        a, b = first.ravel(), second.ravel()
        zero = (a == 0) | (b == 0)
        if zero.any():
            self.freeze(np.maximum(a, b)[zero], "coupled with a width that never changes")
            a, b = a[~zero], b[~zero]
        if a.size:
            self.edges.append((a, b))

    def freeze(self, labels: Labels, reason: str) -> None:
        """Forbids the removal of every channel in `labels`."""
        self.frozen.append((np.ravel(labels), reason))

    def constant(self, rank: int, reason: str | None = None) -> Labels:
        """Labels of a tensor whose width never changes; a reason freezes labels tied to it."""
        if reason is None:
            return np.zeros((1,) * rank, dtype=np.int64)
        label = self.new(1)
        self.freeze(label, reason)
        return label.reshape((1,) * rank)

    def attach(self, record: SlotRecord) -> Labels:
        """Adds a slot; a weight seen before (a shared layer) ties the labels instead."""
        key = (id(record.variable), record.axis)
        known = self._slot_at.get(key)
        if known is not None:
            self.tie(known.labels, record.labels)
            return known.labels
        self._slot_at[key] = record
        self.slots.append(record)
        return record.labels

    def known(self, variable: Any, axis: int) -> Labels | None:
        """Labels already given to an axis of a weight."""
        record = self._slot_at.get((id(variable), axis))
        return None if record is None else record.labels

    def elementwise(self, tensors: Sequence[tuple[Shape, Labels]]) -> Labels:
        """Labels of a broadcasting element-wise result; ties axes that must shrink together.

        An axis of size 1 that is stretched (a gate) neither ties nor freezes the wide side.
        """
        first = tensors[0][1]
        if all(labels is first for _, labels in tensors):
            return first
        rank = max(len(shape) for shape, _ in tensors)
        shapes = [(1,) * (rank - len(shape)) + tuple(shape) for shape, _ in tensors]
        arrays = [
            x if x.ndim == rank else x.reshape((1,) * (rank - x.ndim) + x.shape) for _, x in tensors
        ]
        varying = [{a for a in range(rank) if x.shape[a] > 1} for x in arrays]
        union = set().union(*varying)
        if not union:
            # No operand has channels: the one that is not stretched has the result's width.
            def wide(k: int) -> tuple[int, bool]:
                return sum(size != 1 for size in shapes[k]), bool(arrays[k].any())

            return arrays[max(range(len(arrays)), key=wide)]
        result = next((x for x, axes in zip(arrays, varying, strict=True) if axes == union), None)
        if result is None:
            reason = "an outer product of two channel axes"
            for array in arrays:
                self.freeze(array, reason)
            return self.constant(rank, reason)
        for shape, array in zip(shapes, arrays, strict=True):
            # One label over a stretched axis is a gate; over a whole axis it is a fixed width.
            if array.size > 1 or any(shape[axis] != 1 for axis in union):
                self.tie(result, array)
        return result

    def along(self, labels: Labels, axis: int, size: int) -> Labels:
        """One label per position of an axis of that size, with labels across other axes tied.

        An axis along which nothing differs has no labels of its own: zeros.
        """
        key = (id(labels), axis % labels.ndim, size)
        if key not in self._vectors:
            # The array is kept as well, so that its id is not given to another one.
            self._vectors[key] = (labels, self._along(labels, axis, size))
        return self._vectors[key][1]

    def _along(self, labels: Labels, axis: int, size: int) -> Labels:
        if labels.size > 1 and labels.shape[axis] == 1:
            return np.zeros(size, dtype=np.int64)
        rows = along_axis(labels, axis)
        if len(rows) > 1:
            self.tie(rows[:1], rows[1:])
        return np.repeat(rows[0], size) if len(rows[0]) == 1 and size > 1 else rows[0]

    def collapse(self, labels: Labels, axes: Iterable[int]) -> Labels:
        """Ties the labels along `axes`, so that those axes carry none of their own."""
        for axis in axes:
            if labels.shape[axis] > 1:
                head = np.take(labels, [0], axis=axis)
                self.tie(head, np.delete(labels, 0, axis=axis))
                labels = head
        return labels


def along_axis(labels: np.ndarray, axis: int) -> np.ndarray:
    """The array as rows along one axis, shape `(other positions, size of the axis)`."""
    return np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])


def reshape(labels: Labels, before: Shape, after: Shape) -> Labels | None:
    """Labels of a reshaped tensor, or None when unknown sizes (None) hide their places."""
    # Leading and trailing axes of equal size stay as they are, unknown sizes included.
    limit = min(len(before), len(after))
    left = next((i for i in range(limit) if before[i] != after[i]), limit)
    rest = range(limit - left)
    right = next((i for i in rest if before[-1 - i] != after[-1 - i]), limit - left)
    head, tail = labels.shape[:left], labels.shape[len(before) - right :]
    middle_in = before[left : len(before) - right]
    middle_out = after[left : len(after) - right]
    uniform = [labels.shape[left + i] == 1 for i in range(len(middle_in))]
    if all(uniform):
        return labels.reshape((*head, *(1 for _ in middle_out), *tail))
    if None in middle_in or None in middle_out:
        return None
    # Between them, runs of axes with equal products reshape independently: only those that
    # carry labels must be spelled out.
    full = list(labels.shape)
    middle: list[int] = []
    for inputs, outputs in _segments([s or 1 for s in middle_in], [s or 1 for s in middle_out]):
        if all(uniform[i] for i in inputs):
            middle += [1] * len(outputs)
        else:
            for i in inputs:
                full[left + i] = middle_in[i] or 1
            middle += outputs
    return squeeze_uniform(np.broadcast_to(labels, full).reshape((*head, *middle, *tail)))


def squeeze_uniform(labels: Labels) -> Labels:
    """Reduces axes along which the labels do not differ to size 1."""
    for axis in range(labels.ndim):
        if labels.shape[axis] > 1:
            head = np.take(labels, [0], axis=axis)
            if (labels == head).all():
                labels = head
    return labels


def _segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes with equal products: (axes before, sizes after)."""
    found = []
    i = j = 0
    while i < len(before) or j < len(after):
        inputs: list[int] = []
        outputs: list[int] = []
        size_in = size_out = 1
        while size_in != size_out or not (outputs or (inputs and j == len(after))):
            # Grow the smaller product; at a tie the next input axis comes first.
            if i < len(before) and (size_in <= size_out or j == len(after)):
                size_in *= before[i]
                inputs.append(i)
                i += 1
            else:
                size_out *= after[j]
                outputs.append(after[j])
                j += 1
        found.append((inputs, outputs))
    return found
