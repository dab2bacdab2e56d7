"""Coil images and their k-space as complex arrays, and the simulated acquisition of slices."""

from collections.abc import Sequence

import numpy as np
from scipy import fft

from spade_keras.data.masks import equispaced
from spade_keras.data.slices import MeasuredSlices
from spade_keras.errors import require


def fft2c(x: np.ndarray, axes: Sequence[int] = (-2, -1)) -> np.ndarray:
    """Returns fftshift(FFT(ifftshift(x))), unitary, over some axes; complex64 stays complex64."""
    return fft.fftshift(fft.fftn(fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def ifft2c(x: np.ndarray, axes: Sequence[int] = (-2, -1)) -> np.ndarray:
    """Inverse, and adjoint, of `fft2c`."""
    return fft.fftshift(fft.ifftn(fft.ifftshift(x, axes), axes=axes, norm="ortho"), axes)


def root_sum_of_squares(coil_images: np.ndarray) -> np.ndarray:
    """Combines `(..., coils, height, width)` to magnitudes `(..., height, width)`."""
    return np.sqrt(np.sum(np.abs(coil_images) ** 2, axis=-3))


def center_crop(stack: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crops, or pads with zeros, the last two axes around the center."""
    for axis, size in ((-2, height), (-1, width)):
        excess = stack.shape[axis] - size
        before = abs(excess) // 2
        if excess >= 0:
            stack = np.take(stack, range(before, before + size), axis=axis)
        else:
            padding = [(0, 0)] * stack.ndim
            padding[axis] = (before, -excess - before)
            stack = np.pad(stack, padding)
    return stack


def to_channels(x: np.ndarray) -> np.ndarray:
    """Turns a complex array into a float32 one with a last axis (real, imaginary)."""
    return np.stack([x.real, x.imag], axis=-1).astype("float32")


def simulate_multicoil(
    magnitudes: np.ndarray,
    *,
    coils: int = 4,
    acceleration: int = 4,
    acs_lines: int = 8,
    noise_std: float = 0.01,
    seed: int = 0,
) -> MeasuredSlices:
    """Simulates y = M (F S x + noise) for every slice, each with its own phase, coils and mask.

    `magnitudes` are `(slices, height, width)`, scaled to about [0, 1]. Masks are `equispaced`, with
    an offset of their own. `noise_std` is the standard deviation of real and imaginary part of the
    noise in every sample of the unitary k-space, in the unit of the image.

    Returns:
        `MeasuredSlices`: inputs `measurements` `(slices, coils, height, width, 2)`, zero where not
        sampled, `mask` `(slices, 1, width)` and `sensitivities` as the measurements, of unit sum of
        squares over coils; targets are complex images `(slices, height, width, 2)`.
    """
    rule = "`magnitudes` must have the shape (slices, height, width)."
    require(magnitudes.ndim == 3, rule, shape=magnitudes.shape)
    rule = "`coils` must be at least 1 and `noise_std` at least 0."
    require(coils >= 1 and noise_std >= 0, rule, coils=coils, noise_std=noise_std)
    rng = np.random.default_rng(seed)
    slices, height, width = magnitudes.shape
    phase = np.stack([smooth_phase(height, width, rng) for _ in range(slices)])
    images = magnitudes * np.exp(1j * phase)
    maps = np.stack([coil_sensitivities(coils, height, width, rng) for _ in range(slices)])
    sampling = {"acceleration": acceleration, "acs_lines": acs_lines}
    offsets = [int(rng.integers(acceleration)) for _ in range(slices)]
    mask = np.stack([equispaced((height, width), **sampling, offset=offset) for offset in offsets])
    kspace = to_channels(fft2c(images[:, None] * maps))
    noise = noise_std * rng.standard_normal(kspace.shape)
    measurements = ((kspace + noise) * mask[:, None, ..., None]).astype("float32")
    inputs = {"measurements": measurements, "mask": mask, "sensitivities": to_channels(maps)}
    return MeasuredSlices(inputs, to_channels(images))


def coil_sensitivities(coils: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth maps `(coils, height, width)` of coils around the object, unit sum of squares.

    A map falls off with the distance from its coil, and its phase is a random slope.
    """
    y, x = _grid(height, width)
    angle = 2 * np.pi * (np.arange(coils) + rng.uniform(0, 1)) / coils
    radius = rng.uniform(1.1, 1.4, coils)
    dy = y - (radius * np.sin(angle))[:, None, None]
    dx = x - (radius * np.cos(angle))[:, None, None]
    slope_y, slope_x = rng.uniform(-1, 1, (2, coils, 1, 1))
    phase = rng.uniform(0, 2 * np.pi, (coils, 1, 1)) + slope_y * y + slope_x * x
    # The constant keeps a map smooth where its coil is near.
    maps = np.exp(1j * phase) / (0.3 + dy**2 + dx**2)
    return (maps / np.sqrt(np.sum(np.abs(maps) ** 2, axis=0))).astype("complex64")


def smooth_phase(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random quadratic phase in radians, `(height, width)`."""
    y, x = _grid(height, width)
    terms = np.stack([np.ones_like(x * y), x + 0 * y, y + 0 * x, x * y, x**2 + 0 * y, y**2 + 0 * x])
    return np.tensordot(rng.uniform(-1, 1, len(terms)), terms, axes=1)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
