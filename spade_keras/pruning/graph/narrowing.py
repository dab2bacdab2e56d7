"""Tensors and weights narrowed to the labels that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.graph.analysis import Analysis
from spade_keras.pruning.graph.labels import Labels, Shape, SlotRecord, along_axis
from spade_keras.pruning.graph.partition import partition
from spade_keras.pruning.graph.trace import Graph

Read = Callable[[Any], np.ndarray]


def read_from(values: Mapping[int, np.ndarray]) -> Read:
    """Reads variables from `values`, by their `id`; those it lacks keep their own."""

    def read(variable: Any) -> np.ndarray:
        known = values.get(id(variable))
        return np.asarray(keras.ops.convert_to_numpy(variable)) if known is None else known

    return read


class Narrowing:
    """Shapes, kept positions and kept weights of a model whose groups keep some channels.

    `read` gives the value of a variable of the original.
    """

    def __init__(self, analysis: Analysis, kept: Mapping[str, Sequence[int]], read: Read) -> None:
        self.labels = analysis.labels
        self.read = read
        self.alive = partition(analysis).alive(kept)
        self.slots: dict[int, list[tuple[SlotRecord, np.ndarray]]] = {}
        for record in analysis.store.slots:
            flags = self.alive[record.labels]
            if not flags.all():
                self.slots.setdefault(id(record.variable), []).append((record, flags))

    def value(self, variable: Any) -> np.ndarray:
        """The kept part of one of the original's variables."""
        array = np.asarray(self.read(variable))
        for record, flags in self.slots.get(id(variable), ()):
            array = np.compress(flags, array, axis=record.axis)
        return array

    def new_shape(self, variable: Any) -> tuple[int, ...]:
        """Shape of one of the original's variables under the plan."""
        shape = list(variable.shape)
        for record, flags in self.slots.get(id(variable), ()):
            shape[record.axis] = int(flags.sum())
        return tuple(shape)

    def kept(self, tensor: Any, axis: int) -> np.ndarray:
        """Kept positions along an axis of an original tensor."""
        labels = self.labels[id(tensor)]
        if labels.shape[axis] == 1:
            size = tensor.shape[axis]
            return np.arange(1 if size is None else size)
        return np.flatnonzero(self._alive_along(labels, axis))

    def shape(self, tensor: Any) -> Shape:
        """Shape of an original tensor under the plan."""
        labels = self.labels[id(tensor)]
        if labels.size == 1:
            return tuple(tensor.shape)
        return tuple(
            size if labels.shape[axis] == 1 else int(self._alive_along(labels, axis).sum())
            for axis, size in enumerate(tensor.shape)
        )

    def spares(self, graph: Graph, variables: Sequence[Any]) -> bool:
        """True when the plan changes neither these variables nor a tensor of the graph."""
        if any(id(variable) in self.slots for variable in variables):
            return False
        tensors = [*graph.inputs, *(x for call in graph.calls for x in call.outputs)]
        return all(self.alive[self.labels[id(tensor)]].all() for tensor in tensors)

    def _alive_along(self, labels: Labels, axis: int) -> np.ndarray:
        return np.asarray(along_axis(self.alive[labels], axis).any(axis=0))
