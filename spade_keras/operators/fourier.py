"""Conventions of the two-dimensional Fourier transform, and the centered unitary one.

With c = floor(N / 2) along an axis of N samples the centered transform is

    X[k] = sum_n x[n] exp(-2 pi i (k - c)(n - c) / N)
         = D_k[k] sum_n (D_x[n] x[n]) exp(-2 pi i k n / N)

with the phase ramps D_x[n] = exp(2 pi i c n / N) and D_k[k] = exp(2 pi i c (k - c) / N). So it is
the plain transform between two pointwise products, equal to `fftshift(fft2(ifftshift(x)))` for
even and odd sizes, and the ramps can be folded into whatever is multiplied there anyway.

D_x before the transform is a cyclic shift by c after it. Around a diagonal mask both ramps cancel
but for that shift, which is cheapest given to the mask.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from spade_keras.backend.fourier import conjugate, fft, to_complex, to_real
from spade_keras.operators.complex_pair import Pair, join, multiply, split


@dataclass(frozen=True)
class FFTConvention:
    """Where a transform has its zero frequency, and how it is scaled.

    The methods give what surrounds the plain transform F (unscaled) and its inverse F^-1 so that
    A = W_a F D and A^H = D^H F^-1 W_b hold, and A^H A = F^-1 W_n F.

    Attributes:
        centered: Whether origin and zero frequency are at floor(N / 2) instead of 0.
        unitary: Whether it is divided by the square root of the number of samples, so that its
            inverse is its adjoint; else forward is unscaled.
    """

    centered: bool
    unitary: bool

    def modulate(self, z: Any) -> Any:
        """Returns D z, for a complex tensor of shape `(..., height, width)`."""
        if not self.centered:
            return z
        return z * _ramps(*ops.shape(z)[-2:], offset=False)

    def demodulate(self, z: Any) -> Any:
        """Returns D^H z."""
        if not self.centered:
            return z
        return z * conjugate(_ramps(*ops.shape(z)[-2:], offset=False))

    def forward_weights(self, mask: Any, height: Any, width: Any) -> Any:
        """Returns W_a for a mask of shape `(..., 1 or height, 1 or width)`, complex."""
        scale = 1 / _root(height, width) if self.unitary else 1.0
        return self._weights(ops.cast(mask, "float32") * scale, height, width)

    def adjoint_weights(self, mask: Any, height: Any, width: Any) -> Any:
        """Returns W_b for a mask of shape `(..., 1 or height, 1 or width)`, complex."""
        root = _root(height, width)
        scale = root if self.unitary else root * root
        return conjugate(self._weights(ops.cast(mask, "float32") * scale, height, width))

    def normal_weights(self, mask: Any, height: Any, width: Any) -> Any:
        """Returns W_n for a mask of shape `(..., 1 or height, 1 or width)`, complex."""
        mask = ops.cast(mask, "float32")
        weights = mask * mask
        if not self.unitary:
            weights = weights * _root(height, width) ** 2
        if self.centered:
            # Where the mask has length 1 along an axis, a shift changes nothing.
            weights = ops.roll(weights, (-(height // 2), -(width // 2)), axis=(-2, -1))
        return ops.cast(weights, "complex64")

    def _weights(self, mask: Any, height: Any, width: Any) -> Any:
        mask = ops.cast(mask, "complex64")
        return mask * _ramps(height, width, offset=True) if self.centered else mask


FFT_CONVENTIONS: dict[str, FFTConvention] = {
    "fastmri": FFTConvention(centered=True, unitary=True),
    "modl": FFTConvention(centered=False, unitary=True),
    "calgary": FFTConvention(centered=False, unitary=False),
    "usrnet": FFTConvention(centered=False, unitary=False),
}
"""By the code base or data set that uses it; fastMRI's is also that of sigpy and deepinv."""


def convention(name: str) -> FFTConvention:
    """Looks up a convention.

    Args:
        name: A key of `FFT_CONVENTIONS`.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in FFT_CONVENTIONS:
        raise ValueError(f"`fft` must be one of {sorted(FFT_CONVENTIONS)}. Received: fft={name!r}")
    return FFT_CONVENTIONS[name]


def fft2c(x: Pair) -> Pair:
    """Centered unitary 2-D FFT over the last two axes.

    Args:
        x: Pair of float32 tensors of shape `(..., height, width)`.

    Returns:
        Pair of float32 tensors of the same shape.
    """
    height, width = ops.shape(x[0])[-2:]
    rule = FFT_CONVENTIONS["fastmri"]
    spectrum = fft(rule.modulate(to_complex(join(x))))
    return split(to_real(spectrum * rule.forward_weights(1.0, height, width)))


def ifft2c(x: Pair) -> Pair:
    """Inverse, and adjoint, of `fft2c`; same shapes."""
    height, width = ops.shape(x[0])[-2:]
    rule = FFT_CONVENTIONS["fastmri"]
    weighted = to_complex(join(x)) * rule.adjoint_weights(1.0, height, width)
    return split(to_real(rule.demodulate(fft(weighted, inverse=True))))


def _root(height: Any, width: Any) -> Any:
    if isinstance(height, int) and isinstance(width, int):
        return math.sqrt(height * width)
    return ops.sqrt(ops.cast(height * width, "float32"))


def _ramps(height: Any, width: Any, *, offset: bool) -> Any:
    """D_k (with offset) or D_x of both axes: complex tensor of shape `(height, width)`."""
    if isinstance(height, int) and isinstance(width, int):
        return ops.convert_to_tensor(_known_ramps(height, width, offset))
    rows, columns = _ramp(height, offset), _ramp(width, offset)
    pair = multiply((rows[0][:, None], rows[1][:, None]), (columns[0][None], columns[1][None]))
    return to_complex(join(pair))


@functools.lru_cache(maxsize=32)
def _known_ramps(height: int, width: int, offset: bool) -> np.ndarray:
    def ramp(size: int) -> np.ndarray:
        n = np.arange(size)
        turns = ((n - size // 2 * offset) * (size // 2)) % size / size
        # Exactly +-1 for even sizes, where D_x alternates.
        return np.round(np.exp(2j * np.pi * turns), 15)

    return np.outer(ramp(height), ramp(width)).astype("complex64")


def _ramp(size: Any, offset: bool) -> Pair:
    # The phase is reduced modulo the size in integers, so float32 loses nothing at large sizes.
    n = ops.arange(size, dtype="int32")
    center = size // 2
    turns = ops.mod((n - center * int(offset)) * center, size)
    angle = 2 * math.pi * ops.cast(turns, "float32") / ops.cast(size, "float32")
    return ops.cos(angle), ops.sin(angle)
