"""The centered unitary Fourier transform of complex NumPy arrays; see `operators.fourier`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft


def fft2c(x: np.ndarray, axes: Sequence[int] = (-2, -1)) -> np.ndarray:
    """Returns fftshift(FFT(ifftshift(x))), unitary, over some axes; complex64 stays complex64."""
    return fft.fftshift(fft.fftn(fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def ifft2c(x: np.ndarray, axes: Sequence[int] = (-2, -1)) -> np.ndarray:
    """Inverse, and adjoint, of `fft2c`."""
    return fft.fftshift(fft.ifftn(fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def root_sum_of_squares(coil_images: np.ndarray) -> np.ndarray:
    """Combines `(..., coils, height, width)` to magnitudes `(..., height, width)`."""
    return np.sqrt(np.sum(np.abs(coil_images) ** 2, axis=-3))
