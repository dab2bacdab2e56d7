"""Slices as batches for every backend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np


class SliceDataset(keras.utils.PyDataset):
    """Serves `inputs`, or `(inputs, targets)`, in batches, reshuffled after every epoch.

    Args:
        inputs: Dict of arrays with the slices on the first axis.
        targets: Array of targets, or None: then the truth cannot be seen at all.
        batch_size: Slices in a batch; the last batch of an unshuffled set may be smaller.
        shuffle_seed: Seed of the order; None keeps the given order. A shuffled set drops the last
            incomplete batch, so that all batches have one shape and compile once.

    Raises:
        ValueError: If the arrays differ in length or `batch_size` is not from 1 to that length.
    """

    def __init__(
        self,
        inputs: Mapping[str, np.ndarray],
        targets: np.ndarray | None = None,
        *,
        batch_size: int,
        shuffle_seed: int | None = None,
    ) -> None:
        super().__init__()
        lengths = {len(a) for a in inputs.values()} | (
            {len(targets)} if targets is not None else set()
        )
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
        self._inputs = dict(inputs)
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
        inputs = {name: array[chosen] for name, array in self._inputs.items()}
        # A one-tuple tells Keras that the dict is the input, not a dict of (x, y).
        return (inputs,) if self._targets is None else (inputs, self._targets[chosen])

    def on_epoch_end(self) -> None:
        """Draws the next epoch's order."""
        if self._rng is not None:
            self._order = self._rng.permutation(self._length)
