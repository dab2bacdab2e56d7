"""Blur kernels: Gaussians, motion, and sets of them from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import io, ndimage

from spade_keras.data.bad_files import check_finite, reading
from spade_keras.errors import BadFileError


def gaussian_kernel(
    std: float | tuple[float, float], angle_degrees: float = 0.0, *, size: int = 25
) -> np.ndarray:
    """A Gaussian, sampled at the pixels and scaled to sum 1.

    k(p) = c exp(-p^T R diag(std^2)^-1 R^T p / 2), with p from the central pixel at size // 2.

    Args:
        std: Standard deviation in pixels, or those along both principal axes.
        angle_degrees: Between the columns' direction and the first principal axis.
        size: Side of the kernel.

    Returns:
        float32 array `(size, size)`.

    Raises:
        ValueError: If `std` or `size` is not positive.

    Example:
        >>> kernel = gaussian_kernel((4.0, 1.0), 30, size=15)
        >>> kernel.shape, round(float(kernel.sum()), 5)
        ((15, 15), 1.0)
    """
    first, second = (std, std) if isinstance(std, int | float) else std
    if min(first, second) <= 0 or size < 1:
        raise ValueError(
            f"`std` must be positive and `size` at least 1. Received: std={std}, size={size}"
        )
    y, x = np.mgrid[:size, :size] - size // 2
    angle = np.deg2rad(angle_degrees)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((along / first) ** 2 + (across / second) ** 2))
    return (kernel / kernel.sum()).astype("float32")


def motion_kernel(seed: int = 0, *, length: float = 20.0, size: int = 25) -> np.ndarray:
    """The path of a shaken camera, drawn at random, scaled to sum 1.

    The velocity is a random walk with friction; the path is centered, shrunk if it would not fit,
    and smoothed by half a pixel.

    Args:
        seed: Of the path.
        length: Length of the path in pixels.
        size: Side of the kernel.

    Returns:
        float32 array `(size, size)`.

    Raises:
        ValueError: If `length` is negative or `size` below 5.

    Example:
        >>> kernel = motion_kernel(3)
        >>> kernel.shape, round(float(kernel.sum()), 5)
        ((25, 25), 1.0)

    Reference:
        After Boracchi and Foi, "Modeling the performance of image restoration from motion blur",
        2012, in a simpler form.
    """
    if length < 0 or size < 5:
        raise ValueError(
            "`length` must be at least 0 and `size` at least 5. "
            f"Received: length={length}, size={size}"
        )
    rng = np.random.default_rng(seed)
    steps = 512
    direction = np.exp(2j * np.pi * rng.uniform())
    velocity = np.empty(steps, complex)
    for step in range(steps):
        shake = 0.1 * (rng.standard_normal() + 1j * rng.standard_normal())
        direction = 0.98 * direction + shake
        velocity[step] = direction
    path = np.cumsum(velocity) * (length / np.abs(velocity).sum())
    path -= (path.real.max() + path.real.min() + 1j * (path.imag.max() + path.imag.min())) / 2
    # Two pixels of margin hold the smoothing.
    reach = max(np.abs(path.real).max(), np.abs(path.imag).max(), 1e-9)
    path *= min(1.0, ((size - 1) // 2 - 2) / reach)
    kernel = np.zeros((size, size))
    rows, columns = path.imag + size // 2, path.real + size // 2
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (1 - np.abs(rows - top - dy)) * (1 - np.abs(columns - left - dx))
        np.add.at(kernel, (top + dy, left + dx), weight)
    kernel = ndimage.gaussian_filter(kernel, 0.5, mode="constant")
    return (kernel / kernel.sum()).astype("float32")


def load_kernels(path: str | Path, *, key: str = "kernels") -> np.ndarray:
    """Reads blur kernels, such as the twelve that USRNet is evaluated with.

    Args:
        path: A `.mat` file with a cell array `(1, n)` of kernels, as KAIR and USRNet ship it, or
            an `.npy` or `.npz` file with an array `(n, height, width)`.
        key: The array of a `.mat` or `.npz` file.

    Returns:
        float32 array `(n, height, width)`. Kernels are taken as they are: not moved to their
        center of mass, and not rescaled.

    Raises:
        BadFileError: If the file holds no kernels of one size, finite, at least 0, and of sum 1.
    """
    path = Path(path).expanduser()
    with reading(path, key, "an array of kernels of one size"):
        found = _read(path, key)
        if found.dtype == object:
            found = np.stack([np.asarray(kernel, "float32") for kernel in found.ravel()])
        kernels = np.asarray(found, "float32")
    if kernels.ndim == 2:
        kernels = kernels[None]
    if kernels.ndim != 3 or 0 in kernels.shape:
        raise BadFileError(path, key, "of shape (n, height, width)", f"shape {kernels.shape}")
    check_finite(path, key, kernels)
    sums = kernels.sum(axis=(1, 2))
    if kernels.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        raise BadFileError(
            path,
            key,
            "at least 0 and of sum 1 in every kernel",
            f"minimum {kernels.min():g}, sums from {sums.min():g} to {sums.max():g}",
        )
    return kernels


def _read(path: Path, key: str) -> np.ndarray:
    if path.suffix.lower() == ".mat":
        arrays = io.loadmat(path)
    else:
        arrays = np.load(path, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            return arrays
    names = sorted(name for name in arrays if not name.startswith("__"))
    if key not in names:
        raise BadFileError(path, key, "an array of the file", f"the arrays {names}")
    return arrays[key]
