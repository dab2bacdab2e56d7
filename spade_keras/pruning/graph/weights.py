"""The weights a plan is made from: found by path, fetched once, as NumPy arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import keras
import numpy as np

from spade_keras.pruning.groups import Slot
from spade_keras.pruning.parts import parts_of, prefix_of


def layers_by_path(model: Any) -> dict[str, keras.Layer]:
    """Every layer of a model by its path, the names joined by `/` through nested layers.

    The keys of a network's `priors` come first in the path; the order is that of the model.
    """
    parts = parts_of(model).items()
    return {path: layer for key, part in parts for path, layer in _walk(part, prefix_of(key))}


def _walk(layer: Any, prefix: str) -> Iterator[tuple[str, keras.Layer]]:
    is_model = isinstance(layer, keras.Model)
    for child in layer.layers if is_model else layer._flatten_layers(False, recursive=False):
        path = prefix + child.name
        yield path, child
        yield from _walk(child, f"{path}/")


class WeightTable:
    """Weights of a model, or of a network with `priors`, each fetched from the device once."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._variables: dict[str, list[Any]] = {}
        self._arrays: dict[int, np.ndarray] = {}
        self._sums: dict[tuple[int, int, str], np.ndarray] = {}
        self._memo: dict[Any, Any] = {}

    @cached_property
    def layers(self) -> dict[str, keras.Layer]:
        """Layers of the model by path."""
        return layers_by_path(self.model)

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Calls `make` once per key, for work shared by all groups, such as gradients."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def variable(self, slot: Slot) -> Any:
        """The Keras variable a slot points into."""
        if slot.layer not in self._variables:
            self._variables[slot.layer] = getattr(self.layers.get(slot.layer), "weights", [])
        variables = self._variables[slot.layer]
        if slot.weight_index >= len(variables):
            raise ValueError(
                f"The model has no weight {slot.weight!r} (number {slot.weight_index}) in a layer "
                f"{slot.layer!r}. Analyze the model again: its layers changed."
            )
        return variables[slot.weight_index]

    def array(self, slot: Slot) -> np.ndarray:
        """The whole weight as an array of at least float32."""
        variable = self.variable(slot)
        if id(variable) not in self._arrays:
            array = np.asarray(keras.ops.convert_to_numpy(variable))
            wide = array.dtype in (np.float32, np.float64)
            self._arrays[id(variable)] = array if wide else array.astype(np.float32)
        return self._arrays[id(variable)]

    def sums(
        self, slot: Slot, name: str, function: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Sum of an elementwise `function(weight)` over each channel's slice, shape `(width,)`.

        Sums over the other axes are made once per weight, axis and name of the function, so
        several slots into one weight, as after a concatenation, cost one pass.
        """
        array = self.array(slot)
        key = (id(self.variable(slot)), slot.axis, name)
        if key not in self._sums:
            self._sums[key] = _sum_others(function(array), slot.axis)
        return self._sums[key][slot.positions].sum(axis=1)

    def rows(self, slot: Slot) -> np.ndarray:
        """The slice of every channel as one row, shape `(width, elements)`."""
        front = np.moveaxis(self.array(slot), slot.axis, 0)
        return front[slot.positions].reshape(len(slot.positions), -1)


def _sum_others(array: np.ndarray, axis: int) -> np.ndarray:
    # Summing along memory first is several times faster than one `np.sum` over all axes.
    shape = array.shape
    cube = array.reshape(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    rows = cube[:, :, 0] if cube.shape[2] == 1 else cube.sum(axis=2)
    return rows.sum(axis=0).astype(np.float64)
