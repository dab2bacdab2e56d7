"""Samples with a class each, from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spade_keras.errors import SpadeError


def load_labeled_arrays(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the arrays `x` and `y` of an `.npz` file.

    Args:
        path: The file. `x` holds the samples on its first axis, `y` their classes 0, 1, 2, ...

    Returns:
        float32 samples and int32 classes.

    Raises:
        SpadeError: If the file cannot be read or its arrays do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in ("x", "y")}
            names = file.files
    except (OSError, ValueError, AttributeError, TypeError, EOFError) as error:
        raise SpadeError(
            f"`{path}` cannot be read as an .npz file of arrays: {error}. Write one with "
            "numpy.savez(path, x=samples, y=classes)."
        ) from error
    if set(arrays) != {"x", "y"}:
        raise SpadeError(
            f"`{path}` must hold the arrays x (samples) and y (classes). Received: {sorted(names)}"
        )
    x, y = arrays["x"], np.squeeze(arrays["y"])
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y):
        raise SpadeError(
            f"`x` must hold samples on its first axis, and `y` one class for each, in `{path}`. "
            f"Received: x of shape {x.shape}, y of shape {arrays['y'].shape}"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
        raise SpadeError(
            f"`y` must hold the classes 0, 1, 2, ... as integers, in `{path}`. "
            f"Received: {y.dtype} from {y.min()} to {y.max()}"
        )
    x = x.astype("float32")
    if not np.isfinite(x).all():
        raise SpadeError(f"`x` must be finite, in `{path}`. Received: NaN or infinity")
    return x, y.astype("int32")
