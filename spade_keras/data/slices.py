"""Slices in memory, in batches, and split for training, validation and test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import keras
import numpy as np

from spade_keras.data.masks import true_acceleration
from spade_keras.errors import require
from spade_keras.files import read_npz


@dataclass(frozen=True)
class MeasuredSlices:
    """Slices, or images, with their measurements; float32 arrays, the slice on the first axis.

    `inputs` are those of a network, by name; `targets` are true images, None where they are
    unknown. The measurements were divided by `scale`.
    """

    inputs: dict[str, np.ndarray]
    targets: np.ndarray | None = None
    scale: float = 1.0

    def __len__(self) -> int:
        return len(self.inputs["measurements"])

    @property
    def true_acceleration(self) -> float:
        """Points over sampled points, of undersampled k-space."""
        return true_acceleration(self.inputs["mask"])

    def save(self, path: str | Path) -> None:
        """Writes inputs and targets to one `.npz` file."""
        targets = {} if self.targets is None else {"targets": self.targets}
        np.savez(path, **self.inputs, **targets)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote."""
        arrays = read_npz(path)
        return cls(targets=arrays.pop("targets", None), inputs=arrays)


class SliceDataset(keras.utils.PyDataset):
    """Serves `inputs`, or `(inputs, targets)`, in batches, reshuffled after every epoch.

    `inputs` is an array, or a dict of arrays, with the slices on the first axis. A `shuffle_seed`
    of None keeps their order, and the last batch may be smaller. A shuffled set drops the last
    incomplete batch, so that all batches have one shape and compile once.
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
        require(len(lengths) == 1, "All arrays must have one length.", lengths=sorted(lengths))
        self._length = lengths.pop()
        rule = f"`batch_size` must be from 1 to the number of slices, {self._length}."
        require(1 <= batch_size <= self._length, rule, batch_size=batch_size)
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


class Split(NamedTuple):
    """Disjoint parts of some samples: to train on, to select by and to report on.

    Each is a slice or an array of ascending indices.
    """

    train: Any
    validation: Any
    test: Any


def slab_split(slices: int, *, validation: int, test: int, gap: int) -> Split:
    """Puts the validation slab at the bottom, the test slab at the top, training between.

    A slab split is not a subject split: it shows that a network generalizes along one brain.
    `gap` slices are left out on either side of the training slab.

    Example:
        >>> slab_split(20, validation=4, test=3, gap=2).train
        slice(6, 15, None)
    """
    train = slice(validation + gap, slices - test - gap)
    fits = min(validation, test) >= 1 and gap >= 0 and train.start < train.stop
    rule = (
        "Validation and test slabs need at least 1 slice each, the gap at least 0, and "
        f"{slices} slices must leave some to train on."
    )
    require(fits, rule, validation=validation, test=test, gap=gap)
    return Split(train, slice(0, validation), slice(slices - test, slices))


def random_split(samples: int, *, validation: int, test: int, seed: int = 0) -> Split:
    """Draws the validation and test samples at random; the rest is to train on.

    Example:
        >>> [len(part) for part in random_split(10, validation=2, test=3)]
        [5, 2, 3]
    """
    fits = min(validation, test) >= 1 and validation + test < samples
    rule = f"Validation and test need at least 1 sample each, and {samples} samples must leave some"
    rule += " to train on."
    require(fits, rule, validation=validation, test=test)
    order = np.random.default_rng(seed).permutation(samples)
    parts = np.split(order, [samples - validation - test, samples - test])
    return Split(*(np.sort(part) for part in parts))


def group_split(groups: Sequence[str], *, validation: int, test: int, seed: int = 0) -> Split:
    """Draws whole groups at random, such as all volumes of a patient: `validation` and `test` many.

    `groups` is the group of every sample; their order does not matter.

    Example:
        >>> split = group_split(["a", "a", "b", "c"], validation=1, test=1)
        >>> sum(len(part) for part in split)
        4
    """
    names, members = np.unique(np.asarray(groups, str), return_inverse=True)
    parts = random_split(len(names), validation=validation, test=test, seed=seed)
    return Split(*(np.flatnonzero(np.isin(members, part)) for part in parts))
