"""Image transforms for equivariant learning, and how far they are from commuting with A^H A."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from keras import ops

from spade_keras.errors import require
from spade_keras.operators.linear_operator import LinearOperator

Transform = Callable[[Any], Any]


def _rotation(quarters: int) -> Transform:
    def rotate(image: Any) -> Any:
        height, width = image.shape[1:3]
        rule = "Rotations by 90 degrees need square images; pad them to a square."
        require(quarters == 2 or height == width, rule, height=height, width=width)
        if quarters == 2:  # TensorFlow's `rot90` scrambles images that are not square
            return ops.flip(image, axis=(1, 2))
        return ops.rot90(image, k=quarters, axes=(1, 2))

    return rotate


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
    "flip_vertical": (partial(ops.flip, axis=1),),
    "flip_horizontal": (partial(ops.flip, axis=2),),
    "shift": tuple(partial(ops.roll, shift=s, axis=(1, 2)) for s in ((1, 0), (0, 1), (1, 1))),
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

    `transform` is a function from image batch to image batch, or a name in `TRANSFORMS`, of whose
    members the largest value is taken. `x_shape` is that of an image batch, `(batch, height, width,
    channels)`. By default `parameters` are the operator's `example_parameters` and `image` is a
    phantom of random ellipses.

    Example:
        >>> from spade_keras.operators import Denoising
        >>> commutator(Denoising(), "flip_vertical", (1, 8, 8, 1))
        0.0

    Reference:
        Chen, Tachella and Davies, "Equivariant imaging: learning beyond the range space", 2021.
    """
    rule = f"`transform` must be a function or one of {sorted(TRANSFORMS)}."
    require(callable(transform) or transform in TRANSFORMS, rule, transform=transform)
    members = TRANSFORMS[transform] if isinstance(transform, str) else (transform,)
    if parameters is None:
        parameters = operator.example_parameters(x_shape, seed)
    x = ops.convert_to_tensor(_phantom(x_shape, seed) if image is None else image, "float32")
    normal = operator.normal(x, **parameters)

    def relative(member: Transform) -> float:
        after = ops.convert_to_numpy(member(normal))
        before = ops.convert_to_numpy(operator.normal(member(x), **parameters))
        return float(np.linalg.norm(after - before) / np.linalg.norm(after))

    return max(relative(member) for member in members)


def _phantom(x_shape: Sequence[int], seed: int) -> np.ndarray:
    """Images of random overlapping ellipses, whose spectra fall off like those of photographs."""
    batch, height, width, channels = x_shape
    rng = np.random.default_rng(seed)
    v, u, _ = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j, :1]
    images = np.zeros(x_shape)
    for _ in range(12):
        shape = (batch, 1, 1, 1)
        center_u, center_v = rng.uniform(-0.5, 0.5, (2, *shape))
        radius_u, radius_v = rng.uniform(0.1, 0.45, (2, *shape))
        inside = ((u - center_u) / radius_u) ** 2 + ((v - center_v) / radius_v) ** 2 < 1
        images += inside * rng.uniform(0.1, 1, (batch, 1, 1, channels))
    return images.astype("float32")
