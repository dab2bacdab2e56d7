"""Arrays whose entries are read when they are asked for."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


class LazyArray:
    """Entries along a first axis, each read on indexing: indexed like an array, never held whole.

    `keras.tree` takes it for a leaf, so that `SliceDataset` and batching serve it like an array.

    Args:
        read: Returns entry `i`, for i from 0 to `length - 1`. Must be picklable for data sets that
            are read by several processes.
        length: Number of entries.
        entry_shape: Shape of an entry; None where it differs from entry to entry.
        dtype: Type of the entries.

    Example:
        >>> squares = LazyArray(lambda i: np.full(2, i * i), 5, (2,), "int64")
        >>> squares.shape, squares[1:3].tolist(), squares[-1].tolist()
        ((5, 2), [[1, 1], [4, 4]], [16, 16])
    """

    def __init__(
        self,
        read: Callable[[int], np.ndarray],
        length: int,
        entry_shape: Sequence[int | None],
        dtype: Any = "float32",
    ) -> None:
        self._read = read
        self.shape: tuple[int | None, ...] = (length, *entry_shape)
        self.dtype = np.dtype(dtype)
        self._length = length

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self._read(i) for i in range(self._length))

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return self._stack(range(*index.indices(self._length)))
        if np.ndim(index) == 0:
            try:
                position = operator.index(index)
            except TypeError:
                raise IndexError(
                    "An index must be an integer, a slice, or an array of integers or booleans. "
                    f"Received: index={index!r}"
                ) from None
            return self._read(self._check(position))
        if isinstance(index, tuple):
            raise IndexError(
                "Only the first axis is read lazily. Index it first, and its entries afterward. "
                f"Received: index={index!r}"
            )
        chosen = np.asarray(index)
        if chosen.dtype == bool:
            if chosen.shape != (self._length,):
                raise IndexError(
                    f"A boolean index must have the length {self._length}. "
                    f"Received: shape {chosen.shape}"
                )
            chosen = np.flatnonzero(chosen)
        if chosen.ndim != 1 or (chosen.size and not np.issubdtype(chosen.dtype, np.integer)):
            raise IndexError(
                "An index array must be one row of integers. "
                f"Received: shape {chosen.shape} of {chosen.dtype}"
            )
        return self._stack([self._check(int(i)) for i in chosen])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads everything."""
        if copy is False:
            raise ValueError("A lazy array cannot be taken without a copy. Received: copy=False")
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"

    def _check(self, index: int) -> int:
        if not -self._length <= index < self._length:
            raise IndexError(
                f"An index must be in [-{self._length}, {self._length}). Received: index={index}"
            )
        return index % self._length

    def _stack(self, indices: Sequence[int]) -> np.ndarray:
        entries = [self._read(i) for i in indices]
        if not entries:
            return np.zeros((0, *(size or 0 for size in self.shape[1:])), self.dtype)
        shapes = {entry.shape for entry in entries}
        if len(shapes) > 1:
            raise ValueError(
                "Entries of different shapes do not fit into one batch. Crop the data to one shape "
                f"or use batch_size=1. Received: shapes {sorted(shapes)}"
            )
        return np.stack(entries)
