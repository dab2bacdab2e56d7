"""Complex arithmetic on pairs of real tensors `(real, imaginary)`.

Keras ops have next to no support for complex dtypes, and gradients of complex variables differ
between backends. So complex values live in real tensors: outside in a last axis of two
channels, inside a computation as a pair.
"""

from __future__ import annotations

from typing import Any

from keras import ops

Pair = tuple[Any, Any]


def split(x: Any) -> Pair:
    """Splits the last axis, of length 2, into a float32 pair `(real, imaginary)`."""
    x = ops.cast(x, "float32")
    return x[..., 0], x[..., 1]


def join(pair: Pair) -> Any:
    """Stacks a pair `(real, imaginary)` on a new last axis of length 2."""
    return ops.stack(pair, axis=-1)


def multiply(a: Pair, b: Pair) -> Pair:
    """Returns a b."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def conjugate_multiply(a: Pair, b: Pair) -> Pair:
    """Returns conj(a) b."""
    return a[0] * b[0] + a[1] * b[1], a[0] * b[1] - a[1] * b[0]


def magnitude(x: Any, epsilon: float = 1e-12) -> Any:
    """Returns sqrt(re^2 + im^2 + epsilon) of a two-channel tensor.

    Args:
        x: Tensor of shape `(..., 2)`.
        epsilon: Keeps the gradient finite at zero, where that of a bare square root is NaN.

    Returns:
        Tensor of shape `(...)`.
    """
    real, imaginary = split(x)
    return ops.sqrt(real * real + imaginary * imaginary + epsilon)
