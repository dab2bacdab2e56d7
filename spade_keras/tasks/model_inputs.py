"""Inputs for a model: examples to time it with, and held-out data to judge candidates by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.files import read_npz
from spade_keras.search.user_code import load_function

_TARGETS = ("y", "targets")


def example_inputs(
    model: Any, shapes: Sequence[str] = (), arrays_file: str | Path | None = None
) -> Any:
    """Makes inputs to time or export a model with: standard normal, float32, or read from a file.

    Args:
        model: A loaded Keras model.
        shapes: "1,256,256,2" for each input in order, or "name=1,256,256,2" for a model that takes
            a dict. Without any, the model's own shapes with a batch of 1.
        arrays_file: An `.npz` file that holds the inputs; excludes `shapes`.

    Returns:
        An array, a list of arrays, or a dict of arrays.
    """
    if arrays_file is not None:
        if shapes:
            raise ValueError("Give either shapes or a file of inputs, not both.")
        arrays = read_npz(arrays_file)
        named = list(arrays) != _unnamed(len(arrays))
    else:
        parsed = [parse_shape(text) for text in shapes] or _own_shapes(model)
        named = all(name for name, _ in parsed)
        if not named and any(name for name, _ in parsed):
            raise ValueError(
                f"Either every shape has a name or none has. Received: {' '.join(shapes)}"
            )
        rng = np.random.default_rng(0)
        arrays = {
            name or str(index): rng.standard_normal(shape).astype("float32")
            for index, (name, shape) in enumerate(parsed)
        }
    if named:
        return arrays
    values = list(arrays.values())
    return values[0] if len(values) == 1 else values


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Reads the name, empty if none is given, and the shape of an input from the command line.

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


def load_data(spec: str, model: Any, *, folder: str | Path | None = None) -> tuple[Any, Any]:
    """Loads inputs, in the structure that a model takes, and targets or None; samples first.

    An `.npz` file holds one array per input, under the input's name; the only input of a model may
    have any name, or is `x` beside other arrays. `y` or `targets` are the targets. A function
    returns the inputs, or a tuple of inputs and targets.

    Args:
        spec: An `.npz` file, or "module:function".
        model: The model they are for.
        folder: Where the file or module lies; by default the current folder.

    Raises:
        ValueError: If they cannot be read or do not fit the model.
        UserCodeError: If the function raises.
    """
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
    """Refuses held-out data of different lengths, or that are no finite numbers.

    Args:
        inputs: Arrays, in any structure, samples first.
        targets: The same; None: there are none.
        given: The argument they came from, for the message, such as "--data=x.npz".
    """
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
        if faulty := int(np.sum(~np.isfinite(array))):
            raise ValueError(
                f"`{name}` must be finite. Received: {given} with {faulty} NaN or infinite entries"
            )


def _unnamed(count: int) -> list[str]:
    """The names that `numpy.savez` gives to arrays without one."""
    return [f"arr_{index}" for index in range(count)]


def _tensors(model: Any) -> list[Any]:
    """The inputs of a model; a subclassed one does not know them."""
    try:
        return keras.tree.flatten(model.inputs)
    except (AttributeError, ValueError):
        return []


def _own_shapes(model: Any) -> list[tuple[str, tuple[int, ...]]]:
    shapes = [("", (1, *tensor.shape[1:])) for tensor in _tensors(model)]
    if not shapes or any(size is None for _, shape in shapes for size in shape):
        raise ValueError(
            "The model does not fix its input sizes: pass one --shape per input, as in "
            "--shape 1,256,256,2, or --inputs FILE.npz."
        )
    return shapes


def _inputs_of(model: Any) -> tuple[list[str], Any]:
    """Names of a model's inputs and their structure."""
    tensors = _tensors(model)
    try:
        structure = model.input
    except (AttributeError, ValueError):  # a Sequential model has inputs, but no node of its own
        structure = tensors[0] if len(tensors) == 1 else tensors
    if isinstance(structure, Mapping):
        return list(structure), structure
    return [tensor.name for tensor in tensors], structure


def _arrange(path: Path, arrays: dict[str, np.ndarray], names: list[str], structure: Any) -> Any:
    """Puts the arrays of a file into the structure that the model takes."""
    received = f"Received: {path} with {', '.join(arrays) or 'no array'}"
    values = list(arrays.values())
    if not names:
        if not arrays:
            raise ValueError(f"`--data` must hold the model's inputs. {received}")
        return values[0] if list(arrays) in (["x"], ["arr_0"]) else arrays
    if len(names) == 1:
        chosen = [arrays[name] for name in (names[0], "x") if name in arrays]
        if not chosen and len(arrays) != 1:
            raise ValueError(
                f"`--data` must hold the model's only input as `x` or {names[0]!r}, or nothing "
                f"else beside `y`. {received}"
            )
        return keras.tree.pack_sequence_as(structure, (chosen or values)[:1])
    wanted = _unnamed(len(names)) if set(arrays) == set(_unnamed(len(names))) else names
    if missing := [name for name in wanted if name not in arrays]:
        raise ValueError(
            f"`--data` must hold one array per input of the model: {', '.join(names)}. {received}; "
            f"missing: {', '.join(missing)}"
        )
    if isinstance(structure, Mapping):
        return {name: arrays[key] for name, key in zip(names, wanted, strict=True)}
    return [arrays[name] for name in wanted]
