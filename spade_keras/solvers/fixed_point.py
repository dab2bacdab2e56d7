"""Fixed-point iterations: the loop that all solvers share, and Picard's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from spade_keras import backend
from spade_keras.solvers.samples import Solution, check_damping, check_stopping, choose, norm, ratio

# Differences of float32 values below this share of them are rounding noise.
_RESOLVED = 1e-4


def picard(
    function: Callable[[Any], Any],
    start: Any,
    *,
    damping: float = 1.0,
    tolerance: float = 1e-4,
    max_iterations: int = 50,
) -> Solution:
    """Fixed point x = T(x) by repeated application, sample by sample.

        x <- x + damping (T(x) - x)

    Converges where T is a contraction, at the rate of its contraction factor. A sample stops when
    ||T(x) - x|| <= tolerance ||T(x)||, or when T(x) is not finite; the others continue.

    Args:
        function: T, from and to the shape of `start`; it must not mix samples.
        start: First iterate, of shape `(batch, ...)`.
        damping: Share of the step taken, above 0.
        tolerance: Bound on the relative residual; 0 for exactly `max_iterations` evaluations.
        max_iterations: Most evaluations of T.

    Returns:
        A `Solution` with the iterate of least residual, in float32. No gradient flows through it.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> import numpy as np
        >>> found = picard(lambda x: 0.5 * x + 1, np.zeros((2, 3), "float32"), tolerance=1e-3)
        >>> [round(float(value), 2) for value in found.x[0]], round(float(found.contraction[0]), 2)
        ([2.0, 2.0, 2.0], 0.5)
    """
    check_damping(damping)

    def mix(points: Any, gaps: Any, count: Any) -> Any:
        return points[:, -1] + damping * gaps[:, -1]

    return find_fixed_point(
        function, start, mix, memory=1, tolerance=tolerance, max_iterations=max_iterations
    )


def find_fixed_point(
    function: Callable[[Any], Any],
    start: Any,
    mix: Callable[[Any, Any, Any], Any],
    *,
    memory: int,
    tolerance: float,
    max_iterations: int,
) -> Solution:
    """Iterates to x = T(x), with the next iterate proposed from a history of the last ones.

    See `picard` for the other arguments.

    Args:
        function: T.
        start: First iterate.
        mix: Called as `mix(points, gaps, count)` with the last iterates x_i and T(x_i) - x_i, both
            `(batch, memory, size)`, newest last, and their number; the rest is zero. Returns the
            next iterate, `(batch, size)`.
        memory: Length of the history.
        tolerance: Bound on the relative residual.
        max_iterations: Most evaluations of T.
    """
    check_stopping(tolerance, max_iterations)

    def solve(start: Any) -> tuple[Any, ...]:
        return _solve(function, start, mix, memory, tolerance, max_iterations)

    x, residual, iterations, finite, contraction = backend.without_gradient(
        solve, ops.cast(start, "float32")
    )
    return Solution(x, residual, iterations, residual <= tolerance, finite, contraction)


def _solve(
    function: Callable[[Any], Any],
    start: Any,
    mix: Callable[[Any, Any, Any], Any],
    memory: int,
    tolerance: float,
    max_iterations: int,
) -> tuple[Any, ...]:
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
