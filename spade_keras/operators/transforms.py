"""Image transforms for equivariant learning, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

Transform = Callable[[Any], Any]


def _rotation(quarters: int) -> Transform:
    def rotate(image: Any) -> Any:
        height, width = image.shape[1:3]
        if quarters % 2 and height != width:
            raise ValueError(
                "Rotations by 90 degrees need square images; pad them to a square. "
                f"Received: height={height}, width={width}"
            )
        if quarters == 2:  # `rot90` mixes up images that are not square under TensorFlow
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
"""Image transforms by the names that operators use; each entry is a family of equal shapes."""
