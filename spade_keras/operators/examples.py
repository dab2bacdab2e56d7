"""Random masks, coil maps, kernels and images to try an operator with, all float32.

`x_shape` is the shape of the image batch, `(batch, height, width, channels)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def column_mask(x_shape: Sequence[int], seed: int = 0, *, centered: bool = True) -> np.ndarray:
    """Keeps the central tenth of the columns, and a random quarter of the others.

    Of shape `(batch, 1, width)`, with the zero frequency in the middle if `centered`, else first.
    """
    batch, _, width = x_shape[:3]
    mask = np.random.default_rng(seed).uniform(size=(batch, 1, width)) < 0.25
    margin = max(1, width // 10) // 2
    mask[..., width // 2 - margin : width // 2 + margin + 1] = True
    if not centered:
        mask = np.fft.ifftshift(mask, axes=-1)
    return mask.astype("float32")


def pixel_mask(x_shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Keeps a random half of the pixels: `(batch, height, width, 1)`."""
    drawn = np.random.default_rng(seed).uniform(size=(*x_shape[:3], 1))
    return (drawn < 0.5).astype("float32")


def coil_maps(x_shape: Sequence[int], seed: int = 0, coils: int = 4) -> np.ndarray:
    """Smooth maps of coils around the image, `(batch, coils, height, width, 2)`, of power 1."""
    batch, height, width = x_shape[:3]
    rng = np.random.default_rng(seed)
    v, u = _coordinates(height, width)
    around = 2 * np.pi * np.arange(coils) / coils + rng.uniform(0, 2 * np.pi, (batch, 1))
    distance = np.hypot(
        u - 1.2 * np.cos(around)[..., None, None], v - 1.2 * np.sin(around)[..., None, None]
    )
    turn = rng.uniform(0, 2 * np.pi, (batch, coils, 1, 1))
    maps = np.exp(-0.5 * distance**2 + 1j * (turn + distance))
    maps /= np.sqrt(np.sum(np.abs(maps) ** 2, axis=1, keepdims=True))
    return np.stack([maps.real, maps.imag], axis=-1).astype("float32")


def elongated_kernels(batch: int, size: int, seed: int = 0) -> np.ndarray:
    """Gaussian kernels `(batch, size, size)` of sum 1, 1.5-2.5 pixels along and 0.5-0.8 across."""
    rng = np.random.default_rng(seed)
    n = np.arange(size) - size // 2
    row, column = np.meshgrid(n, n, indexing="ij")
    angle = rng.uniform(0, np.pi, (batch, 1, 1))
    along = (np.cos(angle) * row + np.sin(angle) * column) / rng.uniform(1.5, 2.5, (batch, 1, 1))
    across = (np.cos(angle) * column - np.sin(angle) * row) / rng.uniform(0.5, 0.8, (batch, 1, 1))
    kernels = np.exp(-0.5 * (along**2 + across**2))
    return (kernels / kernels.sum(axis=(1, 2), keepdims=True)).astype("float32")


def phantom(x_shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Images of random overlapping ellipses, whose spectra fall off like those of photographs."""
    batch, height, width, channels = x_shape
    rng = np.random.default_rng(seed)
    v, u = _coordinates(height, width)
    images = np.zeros(x_shape)
    for _ in range(12):
        shape = (batch, 1, 1, 1)
        center_u, center_v = rng.uniform(-0.5, 0.5, (2, *shape))
        radius_u, radius_v = rng.uniform(0.1, 0.45, (2, *shape))
        inside = ((u[..., None] - center_u) / radius_u) ** 2 + (
            (v[..., None] - center_v) / radius_v
        ) ** 2 < 1
        images += inside * rng.uniform(0.1, 1, (batch, 1, 1, channels))
    return images.astype("float32")


def _coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns in [-1, 1], each of shape `(height, width)`."""
    v, u = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return v, u
