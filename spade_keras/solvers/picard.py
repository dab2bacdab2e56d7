"""Picard's fixed-point iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spade_keras.solvers.fixed_point import find_fixed_point
from spade_keras.solvers.solution import Solution


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
    ||T(x) - x|| <= tolerance ||T(x)||, or when T(x) is not a number; the others go on.

    Args:
        function: T, from and to the shape of `start`; it must not mix samples.
        start: First iterate, of shape `(batch, ...)`.
        damping: Share of the step taken, above 0.
        tolerance: Of the relative residual; 0 for exactly `max_iterations` evaluations.
        max_iterations: Most evaluations of T.

    Returns:
        A `Solution`: of all iterates the one of least residual, in float32. No gradient flows
        through it.

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


def check_damping(damping: float) -> None:
    """Checks the share of a step.

    Raises:
        ValueError: If it is not above 0.
    """
    if not damping > 0:
        raise ValueError(
            f"`damping` must be above 0; 1 takes the whole step. Received: damping={damping}"
        )
