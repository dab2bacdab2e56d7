"""Simulated low-resolution images: blur kernels, decimation, noise."""

from itertools import accumulate
from pathlib import Path

import numpy as np
from keras import ops
from scipy import io, ndimage

from spade_keras.backend.batches import batches
from spade_keras.data.reading import DataFile
from spade_keras.data.slices import MeasuredSlices
from spade_keras.errors import require
from spade_keras.operators.downsampling import Downsampling

_BATCH = 16


def motion_kernel(seed: int = 0, *, length: float = 20.0, size: int = 25) -> np.ndarray:
    """The path of a shaken camera, drawn at random, scaled to sum 1.

    The velocity is a random walk with friction; the path, of `length` pixels, is centered, shrunk
    if it would not fit, and smoothed by half a pixel. Returns a float32 array `(size, size)`.

    Example:
        >>> kernel = motion_kernel(3)
        >>> kernel.shape, round(float(kernel.sum()), 5)
        ((25, 25), 1.0)

    Reference:
        After Boracchi and Foi, "Modeling the performance of image restoration from motion blur",
        2012, in a simpler form.
    """
    rule = "`length` must be at least 0 and `size` at least 5."
    require(length >= 0 and size >= 5, rule, length=length, size=size)
    rng = np.random.default_rng(seed)
    direction = np.exp(2j * np.pi * rng.uniform())
    shakes = 0.1 * rng.standard_normal((512, 2)) @ np.array([1, 1j])
    steps = accumulate(shakes, lambda velocity, shake: 0.98 * velocity + shake, initial=direction)
    velocity = np.array(list(steps)[1:])
    path = np.cumsum(velocity) * (length / np.abs(velocity).sum())
    path -= (path.real.max() + path.real.min() + 1j * (path.imag.max() + path.imag.min())) / 2
    # Two pixels of margin hold the smoothing.
    reach = max(np.abs(path.real).max(), np.abs(path.imag).max(), 1e-9)
    path *= min(1.0, ((size - 1) // 2 - 2) / reach)
    kernel = np.zeros((size, size))
    rows, columns = path.imag + size // 2, path.real + size // 2
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    # Bilinear weights spread each point of the path over its four pixels.
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (1 - np.abs(rows - top - dy)) * (1 - np.abs(columns - left - dx))
        np.add.at(kernel, (top + dy, left + dx), weight)
    kernel = ndimage.gaussian_filter(kernel, 0.5, mode="constant")
    return (kernel / kernel.sum()).astype("float32")


def load_kernels(path: str | Path, *, key: str = "kernels") -> np.ndarray:
    """Reads blur kernels, such as the twelve that USRNet is evaluated with.

    A `.mat` file holds a cell array `(1, n)` of kernels, as KAIR and USRNet ship it, an `.npy` or
    `.npz` file an array `(n, height, width)`; `key` is its name in a `.mat` or `.npz` file. Kernels
    are taken as they are, float32: not moved to their center of mass, and not rescaled.

    Raises:
        BadFileError: If the file holds no kernels of one size, finite, at least 0, and of sum 1.
    """
    file = DataFile(Path(path).expanduser(), "Repair or replace the file.")
    with file.reading(key, "an array of kernels of one size"):
        if file.path.suffix.lower() == ".mat":
            arrays = io.loadmat(file.path)
            names = sorted(name for name in arrays if not name.startswith("__"))
            if key not in arrays:
                raise file.error(key, "an array of the file", f"the arrays {names}")
            found = arrays[key]
        else:
            found = file.read_array(key)[1]
        if found.dtype == object:
            found = np.stack([np.asarray(kernel, "float32") for kernel in found.ravel()])
        kernels = np.asarray(found, "float32")
    if kernels.ndim == 2:
        kernels = kernels[None]
    fits = kernels.ndim == 3 and 0 not in kernels.shape
    file.check_array(fits, key, "of shape (n, height, width)", kernels)
    file.check_finite(key, kernels)
    sums = kernels.sum(axis=(1, 2))
    if kernels.min() < 0 or np.abs(sums - 1).max() > 1e-3:
        received = f"minimum {kernels.min():g}, sums from {sums.min():g} to {sums.max():g}"
        raise file.error(key, "at least 0 and of sum 1 in every kernel", received)
    return kernels


def simulate_super_resolution(
    images: np.ndarray,
    kernels: np.ndarray,
    scale: int,
    *,
    noise_std: float | tuple[float, float] = 0.0,
    every_kernel: bool = False,
    seed: int = 0,
) -> MeasuredSlices:
    """Simulates y = (x * k) decimated by the scale, plus noise, for every image.

    The blur is circular and the upper-left pixel of each `scale x scale` block is kept, as
    `operators.Downsampling` does. Measurements are neither rounded nor clipped.

    Args:
        images: `(images, height, width, channels)`, scaled to [0, 1]; sides that are no multiple
            of the scale are cropped, see `modcrop`.
        kernels: `(kernels, height, width)`, each of sum 1.
        scale: 2, 3, 4, ...; 1 only blurs.
        noise_std: Standard deviation of the noise, or the range from which each image's is drawn.
        every_kernel: Whether every image is degraded by every kernel (the protocol of twelve
            kernels), image by image, instead of by one drawn at random.
        seed: Seed of everything random.

    Returns:
        `MeasuredSlices`: inputs `measurements` `(images, height / scale, width / scale, channels)`,
        `kernel` `(images, kernel height, kernel width)` and `noise_level` `(images, 1, 1, 1)`, the
        standard deviation of the noise; targets are the images.

    Reference:
        Zhang et al., "Deep unfolding network for image super-resolution", 2020.
    """
    lowest, highest = noise_std if isinstance(noise_std, tuple) else (noise_std, noise_std)
    rule = (
        "`images` must have the shape (images, height, width, channels) and `kernels` (kernels, "
        "height, width)."
    )
    ranks = images.ndim == 4 and kernels.ndim == 3
    require(ranks, rule, images_shape=images.shape, kernels_shape=kernels.shape)
    rule = "`scale` must be at least 1 and `noise_std` at least 0, or a range."
    require(scale >= 1 and 0 <= lowest <= highest, rule, scale=scale, noise_std=noise_std)
    targets = modcrop(np.asarray(images, "float32"), scale)
    fits = 0 not in targets.shape and min(targets.shape[1:3]) >= max(kernels.shape[1:])
    rule = f"`images` must be at least as large as the kernels, {kernels.shape[1:]}."
    require(fits, rule, size_cropped_to_multiples=targets.shape[1:3])
    rng = np.random.default_rng(seed)
    if every_kernel:
        chosen = np.tile(np.arange(len(kernels)), len(targets))
        targets = np.repeat(targets, len(kernels), axis=0)
    else:
        chosen = rng.integers(len(kernels), size=len(targets))
    kernel = np.asarray(kernels, "float32")[chosen]
    level = rng.uniform(lowest, highest, (len(targets), 1, 1, 1))
    operator = Downsampling(scale)
    clean = np.concatenate(
        [
            ops.convert_to_numpy(operator.forward(x, kernel=k))
            for x, k in batches((targets, kernel), _BATCH)
        ]
    )
    measurements = clean + level * rng.standard_normal(clean.shape)
    inputs = {"measurements": measurements, "kernel": kernel, "noise_level": level}
    return MeasuredSlices({name: a.astype("float32") for name, a in inputs.items()}, targets)


def modcrop(images: np.ndarray, multiple: int) -> np.ndarray:
    """Cuts rows and columns off the end of `(..., height, width, channels)` to a multiple.

    Example:
        >>> modcrop(np.zeros((7, 9, 3)), 4).shape
        (4, 8, 3)
    """
    height, width = (size // multiple * multiple for size in images.shape[-3:-1])
    return images[..., :height, :width, :]
