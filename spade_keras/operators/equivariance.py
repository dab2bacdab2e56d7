"""Image transforms for equivariant learning, and how far they are from commuting with A^H A."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from spade_keras.operators.examples import phantom
from spade_keras.operators.linear_operator import LinearOperator

Transform = Callable[[Any], Any]


def _rotation(quarters: int) -> Transform:
    def rotate(image: Any) -> Any:
        height, width = image.shape[1:3]
        if quarters % 2 and height != width:
            raise ValueError(
                "Rotations by 90 degrees need square images; pad them to a square. "
                f"Received: height={height}, width={width}"
            )
        if quarters == 2:  # TensorFlow's `rot90` scrambles images that are not square
            return ops.flip(ops.flip(image, axis=1), axis=2)
        return ops.rot90(image, k=quarters, axes=(1, 2))

    return rotate


def _flip(axis: int) -> Transform:
    return lambda image: ops.flip(image, axis=axis)


def _shift(rows: int, columns: int) -> Transform:
    return lambda image: ops.roll(ops.roll(image, rows, axis=1), columns, axis=2)


def _scaling(factor: float) -> Transform:
    def resample(image: Any) -> Any:
        height, width = ops.shape(image)[1:3]
        rows, columns = _linear_resampling(height, factor), _linear_resampling(width, factor)
        return ops.einsum("ih,bhwc,jw->bijc", rows, image, columns)

    return resample


def _linear_resampling(size: Any, factor: float) -> Any:
    """Matrix that enlarges a row about its middle by linear interpolation; zero outside."""
    n = ops.cast(ops.arange(size), "float32")
    middle = (ops.cast(size, "float32") - 1) / 2
    source = (n - middle) / factor + middle
    return ops.relu(1 - ops.abs(source[:, None] - n[None]))


TRANSFORMS: dict[str, tuple[Transform, ...]] = {
    "rotate90": (_rotation(1), _rotation(2), _rotation(3)),
    "flip_vertical": (_flip(1),),
    "flip_horizontal": (_flip(2),),
    "shift": (_shift(1, 0), _shift(0, 1), _shift(1, 1)),
    "scale": (_scaling(0.8), _scaling(1.25)),
}
"""Families of image transforms, by the names that operators use."""


def commutator(
    operator: LinearOperator,
    transform: str | Transform,
    x_shape: Sequence[int],
    parameters: Mapping[str, Any] | None = None,
    *,
    image: Any = None,
    seed: int = 0,
) -> float:
    """Measures ||T A^H A x - A^H A T x|| / ||T A^H A x||.

    If it is zero, equivariance under T teaches a network nothing beyond its measurements: A loses
    the same part of T x as of x. From 0.05 on a transform counts as informative.

    Args:
        operator: The operator A.
        transform: A name in `TRANSFORMS`, of whose members the largest value is taken, or a
            function from image batch to image batch.
        x_shape: Shape of the image batch, `(batch, height, width, channels)`.
        parameters: The operator's other arguments; by default its `example_parameters`.
        image: The image batch x; by default a phantom of random ellipses.
        seed: Seed of the phantom and of the example parameters.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> from spade_keras.operators import Denoising
        >>> commutator(Denoising(), "flip_vertical", (1, 8, 8, 1))
        0.0

    Reference:
        Chen, Tachella and Davies, "Equivariant imaging: learning beyond the range space", 2021.
    """
    if isinstance(transform, str) and transform not in TRANSFORMS:
        raise ValueError(
            f"`transform` must be a function or one of {sorted(TRANSFORMS)}. "
            f"Received: transform={transform!r}"
        )
    members = TRANSFORMS[transform] if isinstance(transform, str) else (transform,)
    if parameters is None:
        parameters = operator.example_parameters(x_shape, seed)
    x = ops.convert_to_tensor(phantom(x_shape, seed) if image is None else image, "float32")
    normal = operator.normal(x, **parameters)

    def relative(member: Transform) -> float:
        after = ops.convert_to_numpy(member(normal))
        before = ops.convert_to_numpy(operator.normal(member(x), **parameters))
        return float(np.linalg.norm(after - before) / np.linalg.norm(after))

    return max(relative(member) for member in members)
