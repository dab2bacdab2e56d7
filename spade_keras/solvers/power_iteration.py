"""The largest eigenvalue of a positive semi-definite linear map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops


def power_iteration(
    function: Callable[[Any], Any],
    start: Any,
    *,
    iterations: int = 200,
    tolerance: float = 1e-3,
) -> Any:
    """Largest eigenvalue of a self-adjoint, positive semi-definite map, sample by sample.

        v <- B v / ||B v||,    lambda = <v, B v>

    Every sample of the batch is a problem of its own. It ends when ||B v - lambda v|| is at most
    `tolerance` times lambda in all of them: an eigenvalue is then within that distance, and lambda,
    whose error is of second order, usually much closer. What is returned is never above the
    largest eigenvalue, but for rounding.

    Args:
        function: v -> B v, from and to shape `(batch, ...)`. B must not mix samples.
        start: First v, of shape `(batch, ...)`; random, so that no eigenvector is missing in it.
        iterations: Most applications of B.
        tolerance: Of the relative residual.

    Returns:
        Tensor of shape `(batch,)`. No gradient flows through it.

    Raises:
        ValueError: If `iterations` is below 1 or `tolerance` negative.

    Example:
        >>> import numpy as np
        >>> scale = np.array([[3.0, 1.0], [0.5, 2.0]], "float32")
        >>> start = np.ones((2, 2), "float32")
        >>> [round(float(value), 3) for value in power_iteration(lambda v: scale * v, start)]
        [3.0, 2.0]

    Reference:
        Golub and Van Loan, "Matrix computations", 2013, section 8.2.
    """
    if iterations < 1:
        raise ValueError(f"`iterations` must be at least 1. Received: iterations={iterations}")
    if tolerance < 0:
        raise ValueError(f"`tolerance` must not be negative. Received: tolerance={tolerance}")
    start = ops.stop_gradient(ops.cast(start, "float32"))
    axes = tuple(range(1, len(start.shape)))

    def inner(a: Any, b: Any) -> Any:
        return ops.sum(a * b, axis=axes, keepdims=True)

    def unit(v: Any) -> Any:
        return v / ops.maximum(ops.sqrt(inner(v, v)), 1e-30)  # a map that is zero stays zero

    def unsettled(_: Any, eigenvalue: Any, residual: Any) -> Any:
        return ops.any(residual > tolerance * eigenvalue)

    def step(v: Any, _: Any, __: Any) -> tuple[Any, Any, Any]:
        image = function(v)
        eigenvalue = inner(v, image)
        rest = image - eigenvalue * v
        return unit(image), eigenvalue, ops.sqrt(inner(rest, rest))

    # Infinite at first, which no tolerance meets.
    unknown = ops.sum(ops.zeros_like(start), axis=axes, keepdims=True)
    _, eigenvalue, _ = ops.while_loop(
        unsettled,
        step,
        (unit(start), unknown, unknown + float("inf")),
        maximum_iterations=iterations,
    )
    return ops.stop_gradient(ops.reshape(eigenvalue, (-1,)))
