"""Conventions of the two-dimensional Fourier transform; spectra of real images and kernels.

With c = floor(N / 2) along an axis of N samples the centered transform is

    X[k] = sum_n x[n] exp(-2 pi i (k - c)(n - c) / N)
         = D_k[k] sum_n (D_x[n] x[n]) exp(-2 pi i k n / N)

with the phase ramps D_x[n] = exp(2 pi i c n / N) and D_k[k] = exp(2 pi i c (k - c) / N). So it is
the plain transform between two pointwise products, equal to `fftshift(fft2(ifftshift(x)))` for
even and odd sizes, and the ramps can be folded into factors that are multiplied there anyway.

D_x before the transform is a cyclic shift by c after it. Around a diagonal mask both ramps cancel
except for that shift, which is cheapest to apply to the mask.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from spade_keras.backend import conjugate, fft, to_complex, to_real
from spade_keras.errors import require


@dataclass(frozen=True)
class FFTConvention:
    """Place of the zero frequency and scale of a transform.

    The methods give the factors around the plain transform F (unscaled) and its inverse F^-1 with
    which A = W_a F D and A^H = D^H F^-1 W_b hold, and A^H A = F^-1 W_n F.

    `centered`: origin and zero frequency are at floor(N / 2) instead of 0. `unitary`: forward is
    divided by the root of the number of samples, so that its inverse is its adjoint; else it is
    unscaled.
    """

    centered: bool
    unitary: bool

    def modulate(self, z: Any) -> Any:
        """Returns D z, for a complex tensor of shape `(..., height, width)`."""
        return z * _ramps(*ops.shape(z)[-2:], offset=False) if self.centered else z

    def demodulate(self, z: Any) -> Any:
        """Returns D^H z."""
        return z * conjugate(_ramps(*ops.shape(z)[-2:], offset=False)) if self.centered else z

    def forward_weights(self, mask: Any, height: Any, width: Any) -> Any:
        """Returns W_a, complex, for a mask `(..., 1 or height, 1 or width)`."""
        scale = 1 / _root(height, width) if self.unitary else 1.0
        return self._weights(ops.cast(mask, "float32") * scale, height, width)

    def adjoint_weights(self, mask: Any, height: Any, width: Any) -> Any:
        """Returns W_b for such a mask."""
        root = _root(height, width)
        scale = root if self.unitary else root * root
        return conjugate(self._weights(ops.cast(mask, "float32") * scale, height, width))

    def normal_weights(self, mask: Any, height: Any, width: Any) -> Any:
        """Returns W_n for such a mask."""
        mask = ops.cast(mask, "float32")
        weights = mask * mask
        if not self.unitary:
            weights = weights * _root(height, width) ** 2
        if self.centered:
            # A mask of length 1 along an axis is not changed by a shift.
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


def image_spectrum(x: Any) -> Any:
    """Transforms a real image, two channels at a time: `(batch, planes, height, width)`.

    A real kernel acts alike on the real and the imaginary part of a complex image. So channels
    are transformed in pairs, which halves the work; an odd last one is paired with zeros.
    """
    batch, height, width, channels = ops.shape(x)
    if channels % 2:
        x = ops.concatenate([x, ops.zeros_like(x[..., :1])], axis=-1)
    planes = to_complex(ops.reshape(x, (batch, height, width, (channels + 1) // 2, 2)))
    return fft(ops.transpose(planes, (0, 3, 1, 2)))


def image_from_spectrum(spectrum: Any, channels: int) -> Any:
    """Inverts `image_spectrum` for an image of that many channels."""
    planes = ops.transpose(fft(spectrum, inverse=True), (0, 2, 3, 1))
    batch, height, width, count = ops.shape(planes)
    pairs = ops.reshape(to_real(planes), (batch, height, width, 2 * count))
    return pairs[..., :channels]


def transfer_function(kernel: Any, height: Any, width: Any) -> Any:
    """Transform of kernels with their origin at floor(size / 2), `(batch, 1, height, width)`."""
    check_fits(kernel, height, width)
    rows, columns = ops.shape(kernel)[1:3]
    kernel = ops.cast(kernel, "float32")
    padded = ops.pad(kernel, ((0, 0), (0, height - rows), (0, width - columns)))
    origin_first = ops.roll(padded, (-(rows // 2), -(columns // 2)), axis=(1, 2))
    return fft(ops.cast(origin_first, "complex64"))[:, None]


def check_fits(kernel: Any, height: Any, width: Any) -> None:
    """Raises a ValueError if the kernel is larger than the image, where both sizes are known."""
    rule = "`kernel` must be no larger than the image. Crop the kernel or use a larger image."
    shape = tuple(kernel.shape)
    for length, size in zip(shape[1:], (height, width), strict=True):
        if isinstance(length, int) and isinstance(size, int):
            require(length <= size, rule, kernel_shape=shape, height=height, width=width)


def _root(height: Any, width: Any) -> Any:
    return ops.sqrt(ops.cast(height * width, "float32"))


def _ramps(height: Any, width: Any, *, offset: bool) -> Any:
    """D_k (with offset) or D_x of both axes: complex tensor of shape `(height, width)`."""
    if isinstance(height, int) and isinstance(width, int):
        return to_complex(ops.convert_to_tensor(_known_ramps(height, width, offset)))
    return to_complex(_phases(ops, height, width, offset))


@functools.lru_cache(maxsize=32)
def _known_ramps(height: int, width: int, offset: bool) -> np.ndarray:
    return _phases(np, height, width, offset).astype("float32")


def _phases(library: Any, height: Any, width: Any, offset: bool) -> Any:
    """Real and imaginary part of the ramps, `(height, width, 2)`, by NumPy or `keras.ops`."""

    def turns(size: Any) -> Any:
        center = size // 2
        n = library.arange(size, dtype="int32")
        # Reduced modulo the size in integers, so float32 loses nothing at large sizes.
        return library.divide(library.mod((n - center * int(offset)) * center, size), size)

    angle = 2 * math.pi * (turns(height)[:, None] + turns(width))
    return library.stack([library.cos(angle), library.sin(angle)], axis=-1)
