"""Arithmetic on batches whose samples are problems of their own."""

from __future__ import annotations

from typing import Any

from keras import ops

# The least divisor, so that 0 / 0 is 0. Far below what squares of float32 images come to.
SMALLEST = 1e-30


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
    """Checks when a solver shall stop.

    Raises:
        ValueError: If `max_iterations` is not a positive integer or `tolerance` is negative.
    """
    if (
        isinstance(max_iterations, bool)
        or not isinstance(max_iterations, int)
        or max_iterations < 1
    ):
        raise ValueError(
            "`max_iterations` must be a positive integer. "
            f"Received: max_iterations={max_iterations}"
        )
    if not tolerance >= 0:
        raise ValueError(
            "`tolerance` must not be negative; 0 for exactly `max_iterations` iterations. "
            f"Received: tolerance={tolerance}"
        )
