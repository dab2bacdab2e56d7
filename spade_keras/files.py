"""Reading and writing files: whole or not at all, and never running code they carry.

Nothing here imports keras before it is needed.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np

_KERAS_PARTS = ("config.json", "metadata.json", "model.weights.h5")


def write_atomic(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Writes a file so that it holds either its old content or all of the new one.

    Args:
        path: The file; its folder must exist, as for all functions below.
        write: Writes the new content to the path it is given, which has the same suffix.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".file-", suffix=path.suffix)
    os.close(handle)
    written = Path(name)
    try:
        write(written)
        fsync(written)
        mask = os.umask(0)
        os.umask(mask)
        written.chmod(0o666 & ~mask)
        written.replace(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Writes bytes as `write_atomic` does."""
    write_atomic(path, lambda written: written.write_bytes(data))


def write_json_atomic(path: str | Path, content: Any) -> None:
    """Writes JSON (indented, keys in the given order) as `write_atomic` does.

    `content` may hold what `jsonable` takes.
    """
    text = json.dumps(content, indent=2, default=jsonable)
    write_bytes_atomic(path, f"{text}\n".encode())


def save_model(model: keras.Model, path: str | Path) -> None:
    """Saves a model to a `.keras` file as `write_atomic` does."""
    write_atomic(path, model.save)


def load_model(path: str | Path) -> keras.Model:
    """Loads a `.keras` file without running code it may carry.

    Everything that spade-keras saves loads: its own layers and networks are imported first.

    Args:
        path: The file. Classes of your own must have been imported and registered with Keras.

    Returns:
        The model, not compiled.

    Raises:
        ValueError: If the file is missing, damaged, of another kind, or holds code.
    """
    import keras

    _check_archive(Path(path))
    for package in ("spade_keras.networks", "spade_keras.pruning"):  # They register our classes.
        importlib.import_module(package)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        # Keras wraps the cause of a failed nested layer in a text about the outer one.
        reason = str(error).rpartition("Exception encountered:")[2].strip().split("\n")[0]
        raise ValueError(
            f"`path` must be a .keras file that loads in safe mode. Received: path={path}. "
            f"Keras says: {reason} For classes of your own, import the module that registers "
            "them with `keras.saving.register_keras_serializable`; Lambda layers with Python "
            "code must be replaced by layers."
        ) from error


def read_npz(path: str | Path, *, required: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Reads the arrays of an `.npz` file by name: the `required` ones, or all if there are none.

    Raises:
        ValueError: If it cannot be read as such, or lacks a required array.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            arrays = {name: file[name] for name in names if not required or name in required}
    # Damaged archives raise exceptions of all kinds.
    except Exception as error:
        raise ValueError(
            f"`{path}` cannot be read as an .npz file of arrays: {error}. Write one with "
            "numpy.savez(path, name=array, ...)."
        ) from error
    if not set(required) <= set(arrays):
        raise ValueError(
            f"`{path}` must hold the arrays {', '.join(required)}. Write one with "
            f"numpy.savez(path, name=array, ...). Received: {sorted(names)}"
        )
    return arrays


@contextlib.contextmanager
def complete_folder(target: Path, marker: str) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `target` if the block ends without an error.

    Every file is flushed to the disk before the folder gets its name, so that neither a killed
    process nor a power cut leaves half of it there. An older `target` is replaced.

    Args:
        target: The folder to make.
        marker: A file that an older `target` must hold to be replaced, so that a wrong path
            cannot delete a folder of something else; an empty one is replaced as well.
    """
    if target.exists() and not (target / marker).exists():
        if not target.is_dir() or any(target.iterdir()):
            raise ValueError(
                f"`folder` must be new, empty or an earlier export (with a {marker}). "
                f"Received: folder={target}. Choose another folder."
            )
        target.rmdir()
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fresh = workspace / "fresh"
        fresh.mkdir()
        yield fresh
        for path in (*fresh.rglob("*"), fresh):
            fsync(path)
        if target.exists():
            target.rename(workspace / "old")
        fresh.rename(target)
        fsync(target.parent)
    finally:
        shutil.rmtree(workspace)


def jsonable(value: Any) -> Any:
    """Returns a path, pydantic model or NumPy value as JSON values: `default` of `json.dumps`."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(
        f"`{type(value).__name__}` cannot be written as JSON. Received: {value!r}. "
        f"Pass numbers, strings, lists, dicts, paths or NumPy arrays."
    )


def fsync(path: str | Path) -> None:
    """Flushes a file or folder to the disk."""
    windows = os.name == "nt"
    if windows and os.path.isdir(path):
        return  # Windows cannot open folders.
    number = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _check_archive(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"`path` must be an existing .keras file. Received: path={path}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"`path` must be a .keras file. Received: path={path}, which is of another kind or "
            "cut off. Save the model again with `model.save('model.keras')`."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            missing = sorted(set(_KERAS_PARTS) - set(archive.namelist()))
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        missing, damaged = [], str(error)
    if missing or damaged:
        fault = f"in which {damaged} is damaged" if damaged else f"which lacks {missing}"
        raise ValueError(f"`path` must be a whole .keras file. Received: path={path}, {fault}.")
