"""Slices as batches for every backend."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np


class SliceDataset(keras.utils.PyDataset):
    """Serves `inputs`, or `(inputs, targets)`, in batches, reshuffled after every epoch.

    Args:
        inputs: An array, or a dict of arrays, with the slices on the first axis.
        targets: Array of targets, or None: then the truth cannot be seen at all.
        batch_size: Slices in a batch; the last batch of an unshuffled set may be smaller.
        shuffle_seed: Seed of the order; None keeps the given order. A shuffled set drops the last
            incomplete batch, so that all batches have one shape and compile once.

    Raises:
        ValueError: If the arrays differ in length or `batch_size` is not from 1 to that length.
    """

    def __init__(
        self,
        inputs: Any,
        targets: np.ndarray | None = None,
        *,
        batch_size: int,
        shuffle_seed: int | None = None,
    ) -> None:
        super().__init__()
        arrays = keras.tree.flatten((inputs, targets))
        lengths = {len(array) for array in arrays if array is not None}
        if len(lengths) != 1:
            raise ValueError(
                f"All arrays must have one length. Received: lengths {sorted(lengths)}"
            )
        self._length = lengths.pop()
        if not 1 <= batch_size <= self._length:
            raise ValueError(
                f"`batch_size` must be from 1 to the number of slices, {self._length}. "
                f"Received: batch_size={batch_size}"
            )
        self._inputs = inputs
        self._targets = targets
        self._batch_size = batch_size
        self._rng = None if shuffle_seed is None else np.random.default_rng(shuffle_seed)
        self._order = np.arange(self._length)
        self.on_epoch_end()

    def __len__(self) -> int:
        if self._rng is not None:
            return self._length // self._batch_size
        return math.ceil(self._length / self._batch_size)

    def __getitem__(self, index: int) -> Any:
        chosen = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        inputs = keras.tree.map_structure(lambda array: array[chosen], self._inputs)
        # A one-tuple tells Keras that a dict is the input, not a dict of (x, y).
        return (inputs,) if self._targets is None else (inputs, self._targets[chosen])

    def on_epoch_end(self) -> None:
        """Draws the next epoch's order."""
        if self._rng is not None:
            self._order = self._rng.permutation(self._length)
