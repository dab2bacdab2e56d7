"""How fast a fixed point attracts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from spade_keras import backend
from spade_keras.solvers.samples import SMALLEST, norm, ratio, spread


def contraction_factor(
    function: Callable[[Any], Any],
    x: Any,
    *,
    iterations: int = 30,
    distance: float = 1e-2,
    seed: int = 0,
) -> Any:
    """Spectral radius of the Jacobian of T at x, by power iteration on differences.

        d <- s (T(x + d) - T(x)),    s such that ||d|| = distance ||x||

    At a fixed point this is the factor by which one application of T shrinks an error in the long
    run; T applied to x need not shrink it at once. Below 1 the point attracts.

    Args:
        function: T, from and to the shape of `x`; it must not mix samples.
        x: The point, of shape `(batch, ...)`.
        iterations: Applications of T, at least 3; the last third is averaged.
        distance: Length of d relative to that of x: small for a curved T, but not so small that
            rounding shows.
        seed: Of the first d, which is random.

    Returns:
        Tensor of shape `(batch,)`. No gradient flows through it.

    Raises:
        ValueError: If `iterations` is below 3 or `distance` not above 0.

    Example:
        >>> import numpy as np
        >>> rates = np.array([[0.1, -0.8, 0.3]], "float32")
        >>> x = np.ones((1, 3), "float32")
        >>> round(float(contraction_factor(lambda x: x * rates, x)[0]), 3)
        0.8

    Reference:
        Golub and Van Loan, "Matrix computations", 2013, section 7.3.
    """
    if iterations < 3:
        raise ValueError(f"`iterations` must be at least 3. Received: iterations={iterations}")
    if not distance > 0:
        raise ValueError(f"`distance` must be above 0. Received: distance={distance}")
    averaged = iterations // 3

    def estimate(x: Any) -> Any:
        size = distance * norm(x)
        size = ops.where(size > 0, size, ops.full_like(size, distance))
        value = ops.cast(function(x), "float32")

        def lengthen(d: Any) -> Any:
            return ops.reshape(d * spread(ratio(size, norm(d)), d), ops.shape(x))

        def step(k: Any, state: tuple[Any, Any]) -> tuple[Any, Any]:
            d, logarithm = state
            d = ops.cast(function(x + d), "float32") - value
            grown = ops.log(ops.maximum(norm(d) / size, SMALLEST))
            late = ops.cast(k >= iterations - averaged, "float32")
            return lengthen(d), logarithm + late * grown

        first = lengthen(keras.random.normal(ops.shape(x), seed=seed))
        _, logarithm = ops.fori_loop(0, iterations, step, (first, ops.zeros_like(size)))
        return ops.exp(logarithm / averaged)

    return backend.without_gradient(estimate, ops.cast(x, "float32"))
