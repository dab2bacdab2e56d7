"""The circumstances under which a time was measured, and under which alone it holds."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras import backend


def fingerprint(inputs: Any = None, *, mode: str | None = None) -> dict[str, Any]:
    """Describes the device, the software and the inputs.

    Args:
        inputs: Arrays, or a dict, list or tuple of them; their shapes and dtypes are recorded.
        mode: How the backend runs the model (`backend.modes`); None for its default.

    Returns:
        A dict of plain JSON values with the keys "device", "backend", "mode", "versions",
        "settings" (threads, precision, flags), "dtype" (the global policy) and "inputs" (a list
        with name, shape and dtype of each). A time is comparable, and a cached one valid, only
        where these are equal.
    """
    described = []
    if inputs is not None:
        for path, array in _named_leaves(inputs):
            dtype = keras.backend.standardize_dtype(array.dtype)
            dtype = keras.config.floatx() if dtype == "float64" else dtype  # as it is run
            described.append({"name": path, "shape": list(array.shape), "dtype": dtype})
    return {
        "device": backend.device().as_dict(),
        "backend": keras.backend.backend(),
        "mode": mode or backend.modes()[0],
        "versions": backend.versions(),
        "settings": backend.settings(),
        "dtype": keras.config.dtype_policy().name,
        "inputs": described,
    }


def _named_leaves(inputs: Any) -> list[tuple[str, Any]]:
    flat = keras.tree.flatten_with_path(inputs)
    return [("/".join(str(part) for part in path), array) for path, array in flat]
