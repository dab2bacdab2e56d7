"""Centered unitary two-dimensional Fourier transform of complex pairs.

With c = floor(N / 2) along an axis of N samples the centered transform is

    X[k] = N^-1/2 sum_n x[n] exp(-2 pi i (k - c)(n - c) / N)
         = D_k[k] N^-1/2 sum_n (D_x[n] x[n]) exp(-2 pi i k n / N)

with the phase ramps D_x[n] = exp(2 pi i c n / N) and D_k[k] = exp(2 pi i c (k - c) / N). So it is
the plain transform between two pointwise products, equal to `fftshift(fft2(ifftshift(x)))` for
even and odd sizes, and the ramps can be folded into whatever is multiplied there anyway.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from spade_keras.operators.complex_pair import Pair, conjugate_multiply, multiply


def fft2c(x: Pair) -> Pair:
    """Centered unitary 2-D FFT over the last two axes.

    Args:
        x: Pair of float32 tensors of shape `(..., height, width)`.

    Returns:
        Pair of float32 tensors of the same shape.
    """
    height, width = ops.shape(x[0])[-2:]
    spectrum = ops.fft2(multiply(x, space_ramp(height, width)))
    real, imaginary = multiply(spectrum, frequency_ramp(height, width))
    root = _root(height, width)
    return real / root, imaginary / root


def ifft2c(x: Pair) -> Pair:
    """Inverse, and adjoint, of `fft2c`; same shapes."""
    height, width = ops.shape(x[0])[-2:]
    image = ops.ifft2(conjugate_multiply(frequency_ramp(height, width), x))
    real, imaginary = conjugate_multiply(space_ramp(height, width), image)
    root = _root(height, width)
    return real * root, imaginary * root


def fft_rows(x: Pair) -> Pair:
    """Plain, unscaled 1-D FFT over the last axis."""
    return ops.fft(x)


def ifft_rows(x: Pair) -> Pair:
    """Inverse of `fft_rows`, by the FFT of the pair with its halves exchanged."""
    imaginary, real = ops.fft((x[1], x[0]))
    width = ops.cast(ops.shape(x[0])[-1], "float32")
    return real / width, imaginary / width


def space_ramp(height: Any, width: Any) -> Pair:
    """D_x of both axes: pair of shape `(height, width)`, real for even sizes."""
    return _outer(_ramp(height, offset=False), _ramp(width, offset=False))


def width_ramp(width: Any) -> Pair:
    """D_x of the last axis alone: pair of shape `(1, width)`."""
    real, imaginary = _ramp(width, offset=False)
    return ops.convert_to_tensor(real)[None], ops.convert_to_tensor(imaginary)[None]


def frequency_ramp(height: Any, width: Any) -> Pair:
    """D_k of both axes: pair of shape `(height, width)`."""
    return _outer(_ramp(height, offset=True), _ramp(width, offset=True))


def _root(height: Any, width: Any) -> Any:
    if isinstance(height, int) and isinstance(width, int):
        return math.sqrt(height * width)
    return ops.sqrt(ops.cast(height * width, "float32"))


def _ramp(size: Any, *, offset: bool) -> Pair:
    # The phase is reduced modulo the size in integers, so float32 loses nothing at large sizes.
    if isinstance(size, int):
        n = np.arange(size)
        center = size // 2
        turns = ((n - center * offset) * center) % size / size
        # Exact +-1 and 0 for even sizes.
        angle = np.round(np.exp(2j * np.pi * turns), 15)
        return angle.real.astype("float32"), angle.imag.astype("float32")
    n = ops.arange(size, dtype="int32")
    center = size // 2
    turns = ops.mod((n - center * int(offset)) * center, size)
    angle = 2 * math.pi * ops.cast(turns, "float32") / ops.cast(size, "float32")
    return ops.cos(angle), ops.sin(angle)


def _outer(a: Pair, b: Pair) -> Pair:
    real, imaginary = multiply((a[0][:, None], a[1][:, None]), (b[0][None, :], b[1][None, :]))
    return ops.convert_to_tensor(real), ops.convert_to_tensor(imaginary)
