"""The largest eigenvalue of a linear map, and the spectral radius of a nonlinear one."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from spade_keras import backend
from spade_keras.errors import require
from spade_keras.solvers.samples import SMALLEST, inner, norm, ratio, spread


def power_iteration(
    function: Callable[[Any], Any],
    start: Any,
    *,
    iterations: int = 200,
    tolerance: float = 1e-3,
) -> Any:
    """Largest eigenvalue of a self-adjoint, positive semi-definite map, sample by sample.

        v <- B v / ||B v||,    lambda = <v, B v>

    It ends when ||B v - lambda v|| <= tolerance lambda in all samples, or after that many
    `iterations`: an eigenvalue is then within that distance, and lambda, whose error is of second
    order, usually much closer. Up to rounding, lambda is never above the largest eigenvalue.

    `function` is v -> B v, from and to shape `(batch, ...)`; it must not mix samples. `start`, the
    first v, is best random, so that no eigenvector is missing in it. Returns a tensor of shape
    `(batch,)`, without gradient.

    Example:
        >>> import numpy as np
        >>> scale = np.array([[3.0, 1.0], [0.5, 2.0]], "float32")
        >>> start = np.ones((2, 2), "float32")
        >>> [round(float(value), 3) for value in power_iteration(lambda v: scale * v, start)]
        [3.0, 2.0]

    Reference:
        Golub and Van Loan, "Matrix computations", 2013, section 8.2.
    """
    require(iterations >= 1, "`iterations` must be at least 1.", iterations=iterations)
    require(tolerance >= 0, "`tolerance` must not be negative.", tolerance=tolerance)
    start = ops.stop_gradient(ops.cast(start, "float32"))

    def unit(v: Any) -> Any:
        return v / ops.maximum(spread(norm(v), v), SMALLEST)  # a map that is zero stays zero

    def unsettled(_: Any, eigenvalue: Any, residual: Any) -> Any:
        return ops.any(residual > tolerance * eigenvalue)

    def step(v: Any, _: Any, __: Any) -> tuple[Any, Any, Any]:
        image = function(v)
        eigenvalue = inner(v, image)
        return unit(image), eigenvalue, norm(image - spread(eigenvalue, v) * v)

    # Infinite at first, so that no tolerance is met.
    unknown = inner(ops.zeros_like(start), start)
    state = (unit(start), unknown, unknown + float("inf"))
    _, eigenvalue, _ = ops.while_loop(unsettled, step, state, maximum_iterations=iterations)
    return ops.stop_gradient(eigenvalue)


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
    run. Below 1 the point attracts.

    `function` is T, from and to the shape of `x`, `(batch, ...)`; it must not mix samples. Of its
    `iterations` applications, at least 3, the last third is averaged. `distance` is small for a
    curved T, but well above rounding; the first d is random. Returns a tensor of shape `(batch,)`,
    without gradient.

    Example:
        >>> import numpy as np
        >>> rates = np.array([[0.1, -0.8, 0.3]], "float32")
        >>> x = np.ones((1, 3), "float32")
        >>> round(float(contraction_factor(lambda x: x * rates, x)[0]), 3)
        0.8

    Reference:
        Golub and Van Loan, "Matrix computations", 2013, section 7.3.
    """
    require(iterations >= 3, "`iterations` must be at least 3.", iterations=iterations)
    require(distance > 0, "`distance` must be above 0.", distance=distance)
    averaged = iterations // 3

    def estimate(x: Any) -> Any:
        size = distance * norm(x)
        size = ops.where(size > 0, size, ops.full_like(size, distance))  # at x = 0
        value = ops.cast(function(x), "float32")

        # Differences of one length: infinitesimal ones would be rounded away in float32.
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
