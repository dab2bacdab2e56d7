"""Fourier transforms of complex tensors, and the way there from real ones and back.

`keras.ops.fft2` takes and returns pairs of real tensors, which costs several copies of the data on
each side of a transform. Here values stay complex between transforms. What comes in and goes out
of an operator, and every weight, is real: gradients of complex *variables* differ between
backends, those of real tensors through complex values do not.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import keras

__all__ = ["conjugate", "fft", "to_complex", "to_real"]


def _implementation() -> ModuleType:
    return importlib.import_module(f"{__name__}.{keras.backend.backend()}")


def to_complex(x: Any) -> Any:
    """Reads the last axis, (real, imaginary), as complex numbers.

    Args:
        x: Real tensor of shape `(..., 2)`, or a complex tensor of shape `(...)`, which stays as it
            is.

    Returns:
        complex64 tensor of shape `(...)`, for `keras.ops` to add, multiply, sum and conjugate.
    """
    if keras.backend.standardize_dtype(x.dtype).startswith("complex"):
        return x
    return _implementation().to_complex(keras.ops.cast(x, "float32"))


def to_real(z: Any) -> Any:
    """Writes complex numbers as a last axis (real, imaginary).

    Args:
        z: complex64 tensor of shape `(...)`.

    Returns:
        float32 tensor of shape `(..., 2)`.
    """
    return _implementation().to_real(z)


def conjugate(z: Any) -> Any:
    """Conjugates, without a copy where the backend can put it off until the next product."""
    return _implementation().conjugate(z)


def fft(z: Any, *, axes: int = 2, inverse: bool = False) -> Any:
    """Plain Fourier transform over the last axes: zero frequency first, forward unscaled.

    Args:
        z: complex64 tensor of shape `(..., height, width)`.
        axes: How many of the last axes, 1 or 2.
        inverse: Whether to transform back, which divides by the number of samples.

    Returns:
        complex64 tensor of the same shape.
    """
    return _implementation().fft(z, axes, inverse)
