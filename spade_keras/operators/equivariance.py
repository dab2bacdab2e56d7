"""How far an image transform is from commuting with A^H A."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from spade_keras.operators.examples import phantom
from spade_keras.operators.linear_operator import LinearOperator
from spade_keras.operators.transforms import TRANSFORMS, Transform


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

    Where it is zero, equivariance under T tells a network nothing that its measurements do not:
    what A misses of x, it misses of T x as well. From 0.05 on a transform counts as informative.

    Args:
        operator: The operator A.
        transform: A name in `TRANSFORMS`, of whose members the largest value is taken, or a
            function from image batch to image batch.
        x_shape: Shape of the image batch, `(batch, height, width, channels)`.
        parameters: The operator's other arguments; by default its `example_parameters`.
        image: The image batch x; by default a phantom of random ellipses.
        seed: Of the phantom and of the example parameters.

    Returns:
        The relative norm of the commutator.

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
