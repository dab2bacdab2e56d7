"""Anderson acceleration of a fixed-point iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from spade_keras.solvers.fixed_point import find_fixed_point
from spade_keras.solvers.samples import SMALLEST, Solution, check_damping, check_stopping


def anderson(
    function: Callable[[Any], Any],
    start: Any,
    *,
    memory: int = 5,
    ridge: float = 1e-4,
    damping: float = 1.0,
    tolerance: float = 1e-4,
    max_iterations: int = 50,
) -> Solution:
    """Fixed point x = T(x), each iterate mixed from the last ones, sample by sample.

        x <- sum_i w_i (x_i + damping g_i),    g_i = T(x_i) - x_i
        w = argmin ||sum_i w_i g_i||^2 + lambda ||w||^2    over weights of sum 1
        lambda = ridge trace(G G^T) / m

    On a linear T this is GMRES with a short memory. The ridge is relative to the gaps, so the
    iterates do not depend on the unit of x. A sample stops when ||T(x) - x|| <= tolerance ||T(x)||,
    or when T(x) is not finite; the others continue.

    Args:
        function: T, from and to the shape of `start`; it must not mix samples.
        start: First iterate, of shape `(batch, ...)`.
        memory: Iterates that are mixed, at least 1; 1 is Picard's iteration.
        ridge: Relative to the mean square of the gaps, above 0; more is more cautious.
        damping: Share of the gap that is taken, above 0.
        tolerance: Bound on the relative residual; 0 for exactly `max_iterations` evaluations.
        max_iterations: Most evaluations of T.

    Returns:
        A `Solution` with the iterate of least residual, in float32. No gradient flows through it.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import numpy as np
        >>> rates = np.array([[0.99, 0.5, -0.9]], "float32")
        >>> found = anderson(lambda x: x * rates + 1, np.zeros((1, 3), "float32"))
        >>> [round(float(value), 1) for value in found.x[0]], bool(found.converged[0])
        ([100.0, 2.0, 0.5], True)

    Reference:
        Walker and Ni, "Anderson acceleration for fixed-point iterations", 2011.
    """
    check_anderson(memory, ridge, damping, tolerance, max_iterations)

    def mix(points: Any, gaps: Any, count: Any) -> Any:
        weights = _weights(gaps, count, memory, ridge)
        return ops.sum((points + damping * gaps) * weights[..., None], axis=1)

    return find_fixed_point(
        function, start, mix, memory=memory, tolerance=tolerance, max_iterations=max_iterations
    )


def check_anderson(
    memory: int, ridge: float, damping: float, tolerance: float, max_iterations: int
) -> None:
    """Raises a ValueError if an argument of `anderson` is outside its range."""
    if type(memory) is not int or memory < 1:
        raise ValueError(f"`memory` must be a positive integer. Received: memory={memory}")
    if not ridge > 0:
        raise ValueError(
            "`ridge` must be above 0, since gaps may be linearly dependent; try 1e-4. "
            f"Received: ridge={ridge}"
        )
    check_damping(damping)
    check_stopping(tolerance, max_iterations)


def _weights(gaps: Any, count: Any, memory: int, ridge: float) -> Any:
    """Mixing weights per sample, `(batch, memory)`, zero for the gaps before the first."""
    # Sums of products instead of a matrix product, which a GPU would round to 10 bits.
    rows = [ops.sum(gaps * gaps[:, i : i + 1], axis=-1) for i in range(memory)]
    gram = ops.stack(rows, axis=1)
    identity = ops.eye(memory)
    # Relative to the gaps: an absolute ridge would swamp them at an image scale of 1e-2.
    trace = ops.sum(gram * identity, axis=(1, 2), keepdims=True)
    mean = ops.maximum(trace / ops.cast(count, "float32"), SMALLEST)
    present = ops.cast(ops.arange(memory) >= memory - count, "float32")
    weights = _solve_positive(gram / mean + ridge * identity, present, memory)
    return weights / ops.sum(weights, axis=1, keepdims=True)


def _solve_positive(matrix: Any, right: Any, size: int) -> Any:
    """Solves small symmetric positive definite systems by Gauss-Jordan elimination.

    A library's solver may raise on a singular matrix, for which a NaN in one sample is enough. The
    ridge bounds the pivots from below, so no pivot search is needed.
    """
    right = right[None, :, None] + ops.zeros_like(matrix[:, :, :1])
    system = ops.concatenate([matrix, right], axis=2)
    for j in range(size):
        pivot = system[:, j : j + 1] / system[:, j : j + 1, j : j + 1]
        others = system - system[:, :, j : j + 1] * pivot
        system = ops.concatenate([others[:, :j], pivot, others[:, j + 1 :]], axis=1)
    return system[:, :, size]
