"""Data files: entries read on demand, and bad files reported or skipped."""

import contextlib
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from spade_keras.errors import BadFileError, SpadeError, require
from spade_keras.files import read_npz

_T = TypeVar("_T")


class LazyArray:
    """Entries along a first axis, read when indexed like an array, never held as a whole.

    `keras.tree` treats it as a leaf, so `SliceDataset` and batching handle it like an array.
    `read(i)` returns entry `i`; it must be picklable where several processes read. `entry_shape`
    has None where the entries differ.

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
        try:
            chosen = np.arange(self._length)[index]
        except IndexError as error:
            raise IndexError(f"{error}. Received: index={index!r}") from None
        if isinstance(index, tuple) or chosen.ndim > 1:
            raise IndexError(
                "An index must be an integer, a slice, or one row of integers or booleans: only "
                f"the first axis is read lazily. Received: index={index!r}"
            )
        if not chosen.ndim:
            return self._read(int(chosen))
        if not chosen.size:
            return np.zeros((0, *(size or 0 for size in self.shape[1:])), self.dtype)
        entries = [self._read(i) for i in chosen.tolist()]
        shapes = {entry.shape for entry in entries}
        rule = "Entries of different shapes do not fit into one batch. Crop the data to one shape "
        require(len(shapes) == 1, rule + "or use batch_size=1.", shapes=sorted(shapes))
        return np.stack(entries)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads everything."""
        require(copy is not False, "A lazy array cannot be taken without a copy.", copy=copy)
        return self[:].astype(self.dtype if dtype is None else dtype, copy=False)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"


@dataclass(frozen=True)
class DataFile:
    """A file that is being read, and the next step that its errors advise."""

    path: Path
    remedy: str

    def error(
        self, key: str, expected: str, received: str, remedy: str | None = None
    ) -> BadFileError:
        """Returns the error to raise; see `BadFileError`."""
        return BadFileError(self.path, key, expected, received, remedy or self.remedy)

    @contextlib.contextmanager
    def reading(self, key: str, expected: str) -> Iterator[None]:
        """Turns any exception of a reader into a `BadFileError`.

        Decompressors, parsers and tokenizers raise exceptions of all kinds on damaged files.
        """
        try:
            yield
        except SpadeError:
            raise
        except Exception as error:
            received = str(error) or type(error).__name__
            if self.path.is_file() and not self.path.stat().st_size:
                received = "an empty file"
            raise self.error(key, expected, received) from error

    def check_array(self, fits: bool, key: str, expected: str, array: Any) -> None:
        """Raises `BadFileError` with the type and shape of an array that does not fit."""
        if not fits:
            raise self.error(key, expected, f"{array.dtype} of shape {array.shape}")

    def check_finite(self, key: str, values: np.ndarray) -> None:
        """Raises `BadFileError` if an array, real or complex, holds NaN or infinity."""
        finite = np.isfinite(values)
        if not finite.all():
            bad = int(finite.size - np.count_nonzero(finite))
            raise self.error(key, "finite", f"{bad} of {finite.size} values NaN or infinite")

    def read_array(self, key: str | None = None) -> tuple[str, np.ndarray]:
        """Reads the array of an `.npy` file, or the one named `key` (None: the only one) of `.npz`.

        Returns its name too, "content" in an `.npy` file.
        """
        with self.reading(key or "content", "an .npy or .npz file of arrays"):
            if not zipfile.is_zipfile(self.path):
                return "content", np.load(self.path, allow_pickle=False)
            arrays = read_npz(self.path)
        if key is None and len(arrays) == 1:
            return next(iter(arrays.items()))
        if key in arrays:
            return str(key), arrays[str(key)]
        remedy = "Pass the name of one of its arrays as `key`."
        received = f"the arrays {list(arrays)}"
        raise self.error(key or "key", "an array of the file", received, remedy)


def read_all(
    files: Iterable[Path], read: Callable[[Path], _T], *, skip_bad: bool
) -> tuple[list[_T], dict[str, str]]:
    """Returns the results of `read`, and file -> reason for the bad files that it skipped."""
    good: list[_T] = []
    skipped: dict[str, str] = {}
    for file in files:
        try:
            good.append(read(file))
        except BadFileError as error:
            if not skip_bad:
                raise
            skipped[str(file)] = str(error)
    if not good:
        reasons = "; ".join(skipped.values()) or "there are no files"
        raise SpadeError(f"No file can be used. Check the path. Received: {reasons}")
    return good, skipped


def list_files(path: str | Path | Sequence[str | Path], suffixes: Iterable[str]) -> list[Path]:
    """Lists one file, given files, or those in a folder and below with a suffix, by name."""
    if not isinstance(path, str | Path):
        return [Path(file).expanduser() for file in path]
    path = Path(path).expanduser()
    endings = tuple(suffixes)
    if path.is_file():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.lower().endswith(endings))
    if not files:
        raise SpadeError(
            f"`path` must be a file or a folder with files ending in {', '.join(endings)}. "
            f"Received: path={path}, which {'holds none' if path.is_dir() else 'does not exist'}"
        )
    return files
