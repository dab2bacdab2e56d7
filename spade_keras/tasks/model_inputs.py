"""Inputs for a model: examples to time it with, and held-out data to judge candidates by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spade_keras.files import read_npz
from spade_keras.search.user_code import load_function

_TARGETS = ("y", "targets")


def example_inputs(
    model: Any, shapes: Sequence[str] = (), arrays_file: str | Path | None = None
) -> Any:
    """Makes inputs to time or export a model with.

    Args:
        model: A loaded Keras model.
        shapes: "1,256,256,2" for each input in order, or "name=1,256,256,2" for a model that takes
            a dict. Without any, the model's own shapes with a batch of 1.
        arrays_file: An `.npz` file that holds the inputs; excludes `shapes`.

    Returns:
        An array, a list of arrays, or a dict of arrays: standard normal, float32, unless read from
        the file.

    Raises:
        ValueError: If the shapes are malformed, do not fit, or are needed and missing.
    """
    if arrays_file is not None:
        if shapes:
            raise ValueError("Give either shapes or a file of inputs, not both.")
        arrays = read_npz(arrays_file)
        if list(arrays) == [f"arr_{index}" for index in range(len(arrays))]:
            values = list(arrays.values())
            return values[0] if len(values) == 1 else values
        return arrays
    parsed = [parse_shape(text) for text in shapes] or _own_shapes(model)
    rng = np.random.default_rng(0)
    arrays = {
        name or str(index): rng.standard_normal(shape).astype("float32")
        for index, (name, shape) in enumerate(parsed)
    }
    if all(name for name, _ in parsed):
        return arrays
    if any(name for name, _ in parsed):
        raise ValueError(f"Either every shape has a name or none has. Received: {' '.join(shapes)}")
    values = list(arrays.values())
    return values[0] if len(values) == 1 else values


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Reads a shape given on the command line.

    Args:
        text: "1,256,256,2" or "name=1,256,256,2".

    Returns:
        The name, empty if none is given, and the shape.

    Raises:
        ValueError: If the text reads otherwise or a size is below 1.

    Example:
        >>> parse_shape("image=1,8,8,2")
        ('image', (1, 8, 8, 2))
    """
    name, equals, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1 or (equals and not name):
        raise ValueError(
            f"A shape must read 1,256,256,2 or name=1,256,256,2, batch first, every size at least "
            f"1. Received: {text}"
        )
    return name, shape


def _own_shapes(model: Any) -> list[tuple[str, tuple[int, ...]]]:
    import keras

    try:
        inputs = keras.tree.flatten(model.inputs)
    except (AttributeError, ValueError):
        inputs = []
    shapes = [("", (1, *tensor.shape[1:])) for tensor in inputs]
    if not shapes or any(size is None for _, shape in shapes for size in shape):
        raise ValueError(
            "The model does not fix its input sizes: pass one --shape per input, as in "
            "--shape 1,256,256,2, or --inputs FILE.npz."
        )
    return shapes


def load_data(spec: str, model: Any, *, folder: str | Path | None = None) -> tuple[Any, Any]:
    """Loads inputs and, if there are any, targets.

    Args:
        spec: An `.npz` file, or "module:function".
        model: The model they are for, whose inputs name the arrays.
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
    import keras

    if is_file(spec):
        path = Path(folder or ".") / spec
        arrays = read_npz(path)
        names, structure = _inputs_of(model)
        found = [name for name in _TARGETS if name in arrays and name not in names]
        targets = [arrays.pop(name) for name in found][-1] if found else None
        inputs = _arrange(path, arrays, names, structure)
    else:
        given = load_function(spec, argument="--data", folder=folder)()
        inputs, targets = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        inputs = keras.tree.map_structure(np.asarray, inputs)
        targets = None if targets is None else keras.tree.map_structure(np.asarray, targets)
    check_data(inputs, targets, f"--data={spec}")
    return inputs, targets


def is_file(spec: str) -> bool:
    """Whether data are named by a file, not by a function."""
    return spec.endswith(".npz") or Path(spec).exists()


def check_data(inputs: Any, targets: Any, given: str) -> None:
    """Refuses held-out data that no model can be judged by.

    Args:
        inputs: Arrays, in any structure, samples first.
        targets: The same; None: there are none.
        given: The argument they came from, for the message, such as "--data=x.npz".

    Raises:
        ValueError: If they are of different lengths, not numbers, or not finite.
    """
    import keras

    name = given.partition("=")[0]
    leaves = keras.tree.flatten(inputs)
    every = [*leaves, *([] if targets is None else keras.tree.flatten(targets))]
    lengths = {len(array) if array.ndim else 0 for array in every}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"`{name}` must give arrays with equally many samples, at least one, on their first "
            f"axes. Received: {given} with {sorted(lengths) or 'no'} samples"
        )
    for array in leaves:
        if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
            raise ValueError(
                f"`{name}` must give numbers. Received: {given} with dtype {array.dtype}"
            )
        faulty = int(np.sum(~np.isfinite(array)))
        if faulty:
            raise ValueError(
                f"`{name}` must be finite. Received: {given} with {faulty} NaN or infinite entries"
            )


def _inputs_of(model: Any) -> tuple[list[str], Any]:
    """Names of a model's inputs and their structure; a subclassed model knows neither."""
    import keras

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
    import keras

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
