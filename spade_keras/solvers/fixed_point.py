"""Fixed-point iterations: Anderson's acceleration, and Picard's, which is its plain case."""

import functools
from collections.abc import Callable
from typing import Any

from keras import ops

from spade_keras import backend
from spade_keras.errors import require
from spade_keras.solvers.samples import SMALLEST, Solution, check_stopping, choose, norm, ratio

# Differences of float32 values below this share of them are rounding noise.
_RESOLVED = 1e-4


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

    On a linear T this is GMRES with a short memory. The iterates do not depend on the unit of x. A
    sample stops when ||T(x) - x|| <= tolerance ||T(x)||, or when T(x) is not finite; the others
    continue. A tolerance of 0 takes exactly `max_iterations` evaluations of T.

    Args:
        function: T, from and to the shape of `start`; it must not mix samples.
        start: First iterate, of shape `(batch, ...)`.
        memory: Iterates that are mixed, at least 1; 1 is Picard's iteration.
        ridge: Relative to the mean square of the gaps, above 0; more is more cautious.
        damping: Share of the gap that is taken, above 0.
        tolerance: Bound on the relative residual.
        max_iterations: Most evaluations of T.

    Returns:
        A `Solution` with the iterate of least residual, in float32. No gradient flows through it.

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

    def solve(start: Any) -> tuple[Any, ...]:
        return _iterate(function, start, mix, memory, tolerance, max_iterations)

    x, residual, iterations, finite, contraction = backend.without_gradient(
        solve, ops.cast(start, "float32")
    )
    return Solution(x, residual, iterations, residual <= tolerance, finite, contraction)


picard = functools.partial(anderson, memory=1)
"""Fixed point x = T(x) by repeated application, x <- x + damping (T(x) - x): converges where T is a
contraction, at the rate of its contraction factor. Arguments and result are those of `anderson`."""


def check_anderson(
    memory: int, ridge: float, damping: float, tolerance: float, max_iterations: int
) -> None:
    """Raises a ValueError if an argument of `anderson` is outside its range."""
    whole = type(memory) is int and memory >= 1
    require(whole, "`memory` must be a positive integer.", memory=memory)
    rule = "`ridge` must be above 0, since gaps may be linearly dependent; try 1e-4."
    require(ridge > 0, rule, ridge=ridge)
    require(damping > 0, "`damping` must be above 0; 1 takes the whole step.", damping=damping)
    check_stopping(tolerance, max_iterations)


def _iterate(
    function: Callable[[Any], Any],
    start: Any,
    mix: Callable[[Any, Any, Any], Any],
    memory: int,
    tolerance: float,
    max_iterations: int,
) -> tuple[Any, ...]:
    """Iterates; `mix` proposes the next iterate from the last ones, zero before the first."""
    shape = ops.shape(start)
    flat = ops.reshape(start, (shape[0], -1))
    flat_shape = ops.shape(flat)
    nothing = ops.repeat(ops.zeros_like(flat)[:, None], memory, axis=1)
    zero = ops.zeros_like(flat[:, 0])

    def unfinished(k: Any, x: Any, active: Any, *_: Any) -> Any:
        return ops.any(active)

    def advance(
        k: Any, x: Any, active: Any, points: Any, gaps: Any, best: Any, records: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        least, iterations, finite, contraction = records
        value = ops.cast(function(ops.reshape(x, shape)), "float32")
        value = ops.reshape(value, flat_shape)
        gap = value - x
        residual = ratio(norm(gap), norm(value))
        # The norm too: a finite gap over an infinite norm would pass as a residual of 0.
        sound = ops.isfinite(residual) & ops.isfinite(norm(value))
        better = active & sound & (residual < least)
        slope = _slope(x, gap, points[:, -1], gaps[:, -1])
        contraction = ops.where(
            active & sound & (k > 0), ops.maximum(contraction, slope), contraction
        )
        records = (
            ops.where(better, residual, least),
            iterations + ops.cast(active, "int32"),
            finite & (sound | ops.logical_not(active)),
            contraction,
        )
        best = choose(better, x, best)
        active = active & sound
        if tolerance > 0:
            active = active & (residual > tolerance)
        points = ops.concatenate([points[:, 1:], x[:, None]], axis=1)
        gaps = ops.concatenate([gaps[:, 1:], gap[:, None]], axis=1)
        proposal = mix(points, gaps, ops.minimum(k + 1, memory))
        # A sample that stopped stays there, so that it does not depend on the rest of the batch.
        x = ops.reshape(choose(active, proposal, x), flat_shape)
        return k + 1, x, active, points, gaps, ops.reshape(best, flat_shape), records

    everywhere = ops.ones_like(zero, dtype="bool")
    records = (zero + float("inf"), ops.cast(zero, "int32"), everywhere, zero)
    state = (ops.zeros((), "int32"), flat, everywhere, nothing, nothing, flat, records)
    state = ops.while_loop(unfinished, advance, state, maximum_iterations=max_iterations)
    best, (least, iterations, finite, contraction) = state[5], state[6]
    return ops.reshape(best, shape), least, iterations, finite, contraction


def _slope(x: Any, gap: Any, x_before: Any, gap_before: Any) -> Any:
    """Returns ||T(a) - T(b)|| / ||a - b||, 0 where a and b are equal up to rounding."""
    step = x - x_before
    size = norm(step)
    slope = ratio(norm(gap - gap_before + step), size)
    return ops.where(size > _RESOLVED * norm(x), slope, ops.zeros_like(slope))


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
