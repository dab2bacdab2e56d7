"""Example inputs for a model: from given shapes, from its own shapes, or from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


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
        return _read_arrays(arrays_file)
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


def _read_arrays(path: str | Path) -> Any:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"`{path}` cannot be read as an .npz file: {error}") from error
    unnamed = [f"arr_{index}" for index in range(len(arrays))]
    if list(arrays) == unnamed:
        values = list(arrays.values())
        return values[0] if len(values) == 1 else values
    return arrays
