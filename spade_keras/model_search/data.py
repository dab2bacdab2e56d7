"""Held-out data for a search of any model: from an `.npz` file or from a function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.backend.batches import batches
from spade_keras.model_search.user_functions import import_function

_TARGETS = ("y", "targets")


def load_data(
    spec: str, model: keras.Model, *, folder: str | Path | None = None
) -> tuple[Any, Any]:
    """Loads inputs and, if there are any, targets.

    Args:
        spec: An `.npz` file, or "module:function".
        model: The model they are for: tells how the inputs are called.
        folder: Where the file or module lies; by default the current folder.

    Returns:
        Inputs in the structure that the model takes (an array, a list or a dict), with the samples
        on the first axis; and targets or None.

    Raises:
        ValueError: If they cannot be read or do not fit the model.
        UserCodeError: If the function raises.

    Note:
        An `.npz` file holds one array per input, under the input's name; the only input of a model
        may have any name, or is `x` beside other arrays. `y` or `targets` are the targets. A
        function returns the inputs, or a tuple of inputs and targets.
    """
    if is_file(spec):
        path = Path(folder or ".") / spec
        inputs, targets = _read(path, model)
    else:
        given = import_function(spec, "--data", folder)()
        inputs, targets = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        inputs = keras.tree.map_structure(np.asarray, inputs)
        targets = None if targets is None else keras.tree.map_structure(np.asarray, targets)
    _check(spec, inputs, targets)
    return inputs, targets


def is_file(spec: str) -> bool:
    """Whether data are named by a file, not by a function."""
    return spec.endswith(".npz") or Path(spec).exists()


def outputs_of(model: keras.Model, inputs: Any, batch_size: int) -> list[np.ndarray]:
    """Runs a model on every batch, without compiling it.

    Args:
        model: The model.
        inputs: Its inputs.
        batch_size: Samples per call.

    Returns:
        Each of its outputs for all samples.
    """
    parts = [
        [keras.ops.convert_to_numpy(x) for x in keras.tree.flatten(model(batch, training=False))]
        for batch in batches(inputs, batch_size)
    ]
    return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]


def _read(path: Path, model: keras.Model) -> tuple[Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"`--data` must be a readable .npz file. Received: --data={path}: {error}"
        ) from error
    names, structure = _inputs_of(model)
    targets = None
    for name in _TARGETS:
        if name in arrays and name not in names:
            targets = arrays.pop(name)
    return _arrange(path, arrays, names, structure), targets


def _inputs_of(model: keras.Model) -> tuple[list[str], Any]:
    """Names of a model's inputs and their structure; a subclassed model tells neither."""
    try:
        tensors = keras.tree.flatten(model.inputs)
    except (AttributeError, ValueError):
        return [], None
    try:
        structure = model.input
    except (AttributeError, ValueError):  # a Sequential model has inputs, but no node of its own
        structure = tensors[0] if len(tensors) == 1 else list(tensors)
    if isinstance(structure, Mapping):
        return list(structure), structure
    return [tensor.name for tensor in tensors], structure


def _arrange(path: Path, arrays: dict[str, np.ndarray], names: list[str], structure: Any) -> Any:
    """Puts the arrays of a file into the structure that the model takes."""
    found = ", ".join(arrays) or "no array"
    if not names:
        if list(arrays) in (["x"], ["arr_0"]):
            return next(iter(arrays.values()))
        if arrays:
            return arrays
        raise ValueError(f"`--data` must hold the model's inputs. Received: {path} with {found}")
    if len(names) == 1:
        only = next((arrays[name] for name in (names[0], "x") if name in arrays), None)
        if only is None and len(arrays) == 1:
            only = next(iter(arrays.values()))
        if only is None:
            raise ValueError(
                f"`--data` must hold the model's only input as `x` or {names[0]!r}, or nothing "
                f"else beside `y`. Received: {path} with {found}"
            )
        return keras.tree.pack_sequence_as(structure, [only])
    unnamed = [f"arr_{index}" for index in range(len(names))]
    wanted = unnamed if set(arrays) == set(unnamed) else names
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise ValueError(
            f"`--data` must hold one array per input of the model: {', '.join(names)}. Received: "
            f"{path} with {found}; missing: {', '.join(missing)}"
        )
    if isinstance(structure, Mapping):
        return {name: arrays[key] for name, key in zip(names, wanted, strict=True)}
    return [arrays[name] for name in wanted]


def _check(spec: str, inputs: Any, targets: Any) -> None:
    leaves = keras.tree.flatten(inputs)
    every = [*leaves, *([] if targets is None else keras.tree.flatten(targets))]
    lengths = {len(array) if array.ndim else 0 for array in every}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "`--data` must give arrays with equally many samples, at least one, on their first "
            f"axes. Received: --data={spec} with {sorted(lengths) or 'no'} samples"
        )
    for array in leaves:
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise ValueError(
                f"`--data` must give numbers. Received: --data={spec} with dtype {array.dtype}"
            )
        faulty = int(np.sum(~np.isfinite(array)))
        if faulty:
            raise ValueError(
                "`--data` must be finite. Received: "
                f"--data={spec} with {faulty} NaN or infinite entries"
            )
