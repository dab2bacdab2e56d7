"""Files that do not hold what they should: told by name, or skipped and listed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from spade_keras.errors import BadFileError, SpadeError

_T = TypeVar("_T")

_REMEDY = "Repair or remove the file, or pass skip_bad=True to leave it out."


@contextlib.contextmanager
def reading(file: str | Path, key: str, expected: str, remedy: str = _REMEDY) -> Iterator[None]:
    """Turns whatever a reader raises on a damaged file into a `BadFileError`.

    Such readers raise what their decompressors, parsers and tokenizers do, which is anything.

    Args:
        file: What is read.
        key: The part that is read.
        expected: What should be there.
        remedy: What to do next.
    """
    try:
        yield
    except SpadeError:
        raise
    except Exception as error:
        received = str(error) or type(error).__name__
        if isinstance(file, Path) and file.is_file() and not file.stat().st_size:
            received = "an empty file"
        raise BadFileError(file, key, expected, received, remedy) from error


def check_finite(file: str | Path, key: str, values: np.ndarray) -> None:
    """Raises `BadFileError` if an array holds NaN or infinity.

    Args:
        file: Where the array comes from.
        key: The array's name there.
        values: Numbers, real or complex.
    """
    finite = np.isfinite(values)
    if not finite.all():
        bad = int(finite.size - np.count_nonzero(finite))
        raise BadFileError(file, key, "finite", f"{bad} of {finite.size} values NaN or infinite")


def read_all(
    files: Iterable[Path], read: Callable[[Path], _T], *, skip_bad: bool
) -> tuple[list[_T], dict[str, str]]:
    """Reads files, and leaves out the bad ones if that is wanted.

    Args:
        files: The files.
        read: Reads one; raises `BadFileError` if it is bad.
        skip_bad: Whether to skip bad files rather than to raise.

    Returns:
        What was read, and file -> reason of those skipped.

    Raises:
        BadFileError: If a file is bad and `skip_bad` is False.
        SpadeError: If no file is left.
    """
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


def list_files(path: str | Path, suffixes: Iterable[str]) -> list[Path]:
    """Lists a file, or the files of a folder and its subfolders, in the order of their names.

    Args:
        path: A file or a folder.
        suffixes: Endings of the files to take from a folder, in lower case.

    Raises:
        SpadeError: If there are none.
    """
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
