"""Complex images as real tensors with a last axis of two channels, real and imaginary."""

from typing import Any

from keras import ops


def magnitude(x: Any, epsilon: float = 1e-12) -> Any:
    """Returns sqrt(re^2 + im^2 + epsilon) of a tensor of shape `(..., 2)`.

    `epsilon` keeps the gradient finite at zero, where that of a bare square root is NaN.
    """
    x = ops.cast(x, "float32")
    real, imaginary = x[..., 0], x[..., 1]
    return ops.sqrt(real * real + imaginary * imaginary + epsilon)
