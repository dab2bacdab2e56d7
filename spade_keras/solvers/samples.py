"""Batches whose samples are separate problems: their solutions and arithmetic."""

from dataclasses import dataclass
from typing import Any

from keras import ops

from spade_keras.errors import require

# The least divisor, so that 0 / 0 is 0; far below the squares of float32 images.
SMALLEST = 1e-30


@dataclass(frozen=True)
class Solution:
    """The result of an iterative solver: tensors of shape `(batch,)`, but for `x`.

    Attributes:
        x: The solution, of the shape of the start.
        residual: Relative residual of `x`; infinite where not even the start could be evaluated.
        iterations: Iterations the sample took before it stopped.
        converged: Whether the residual met the tolerance.
        finite: Whether all values were. A sample that meets infinity or NaN stops there, and `x` is
            the best iterate before.
        contraction: For fixed points, the largest ||T(a) - T(b)|| / ||a - b|| of successive
            iterates a and b: a lower bound of the Lipschitz constant of T near the path. At 1 or
            above, the fixed point need neither exist nor attract. Zero before a second iterate.
    """

    x: Any
    residual: Any
    iterations: Any
    converged: Any
    finite: Any
    contraction: Any = None


def inner(a: Any, b: Any) -> Any:
    """Returns <a, b> per sample, of shape `(batch,)`."""
    return ops.sum(a * b, axis=tuple(range(1, len(a.shape))))


def norm(a: Any) -> Any:
    """Returns ||a|| per sample, of shape `(batch,)`."""
    return ops.sqrt(inner(a, a))


def ratio(a: Any, b: Any) -> Any:
    """Returns a / b for b >= 0, and 0 / 0 = 0."""
    return a / ops.maximum(b, SMALLEST)


def spread(values: Any, like: Any) -> Any:
    """Shapes one value per sample so that it broadcasts against a batch."""
    return ops.reshape(values, (-1,) + (1,) * (len(like.shape) - 1))


def choose(chosen: Any, a: Any, b: Any) -> Any:
    """Returns the samples of `a` where `chosen` holds, one flag per sample, else those of `b`."""
    return ops.where(spread(chosen, a), a, b)


def check_stopping(tolerance: float, max_iterations: int) -> None:
    """Raises a ValueError if a stopping criterion is outside its range."""
    whole = type(max_iterations) is int and max_iterations >= 1
    rule = "`max_iterations` must be a positive integer."
    require(whole, rule, max_iterations=max_iterations)
    rule = "`tolerance` must not be negative; 0 for exactly `max_iterations` iterations."
    require(tolerance >= 0, rule, tolerance=tolerance)
