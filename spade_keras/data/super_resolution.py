"""Simulated low-resolution images: blur, decimation, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from keras import ops

from spade_keras.operators.downsampling import Downsampling

_BATCH = 16


@dataclass(frozen=True)
class LowResolutionImages:
    """Images with their measurements; float32 arrays, the first axis being the image.

    Attributes:
        truth: `(images, height, width, channels)`.
        measurements: `(images, height / scale, width / scale, channels)`.
        kernel: `(images, kernel height, kernel width)`.
        noise_level: Standard deviation of the noise, `(images, 1, 1, 1)`.
    """

    truth: np.ndarray
    measurements: np.ndarray
    kernel: np.ndarray
    noise_level: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What a network may see: everything but the truth."""
        return {
            "measurements": self.measurements,
            "kernel": self.kernel,
            "noise_level": self.noise_level,
        }


def simulate_super_resolution(
    images: np.ndarray,
    kernels: np.ndarray,
    scale: int,
    *,
    noise_std: float | tuple[float, float] = 0.0,
    every_kernel: bool = False,
    seed: int = 0,
) -> LowResolutionImages:
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
            kernels), image by image; else each image is degraded by one, drawn at random.
        seed: Of everything random.

    Returns:
        `LowResolutionImages`.

    Raises:
        ValueError: If a shape or an argument is out of its range.

    Reference:
        Zhang et al., "Deep unfolding network for image super-resolution", 2020.
    """
    lowest, highest = noise_std if isinstance(noise_std, tuple) else (noise_std, noise_std)
    if images.ndim != 4 or kernels.ndim != 3:
        raise ValueError(
            "`images` must have the shape (images, height, width, channels) and `kernels` "
            "(kernels, height, width). "
            f"Received: images of shape {images.shape}, kernels of shape {kernels.shape}"
        )
    if scale < 1 or not 0 <= lowest <= highest:
        raise ValueError(
            "`scale` must be at least 1 and `noise_std` at least 0, or a range. "
            f"Received: scale={scale}, noise_std={noise_std}"
        )
    truth = modcrop(np.asarray(images, "float32"), scale)
    if 0 in truth.shape or min(truth.shape[1:3]) < max(kernels.shape[1:]):
        raise ValueError(
            f"`images` must be at least as large as the kernels, {kernels.shape[1:]}. "
            f"Received: images of {truth.shape[1:3]} after cropping to multiples of {scale}"
        )
    rng = np.random.default_rng(seed)
    if every_kernel:
        chosen = np.tile(np.arange(len(kernels)), len(truth))
        truth = np.repeat(truth, len(kernels), axis=0)
    else:
        chosen = rng.integers(len(kernels), size=len(truth))
    kernel = np.asarray(kernels, "float32")[chosen]
    level = rng.uniform(lowest, highest, (len(truth), 1, 1, 1))
    operator = Downsampling(scale)
    clean = np.concatenate(
        [
            ops.convert_to_numpy(operator.forward(x, kernel=k))
            for x, k in zip(_batches(truth), _batches(kernel), strict=True)
        ]
    )
    measurements = clean + level * rng.standard_normal(clean.shape)
    return LowResolutionImages(
        truth, measurements.astype("float32"), kernel, level.astype("float32")
    )


def modcrop(images: np.ndarray, multiple: int) -> np.ndarray:
    """Cuts rows and columns off the end, so that both sides are multiples of a number.

    Args:
        images: `(..., height, width, channels)`.
        multiple: Such as the scale.

    Example:
        >>> modcrop(np.zeros((7, 9, 3)), 4).shape
        (4, 8, 3)
    """
    height, width = (size // multiple * multiple for size in images.shape[-3:-1])
    return images[..., :height, :width, :]


def _batches(array: np.ndarray) -> list[np.ndarray]:
    return [array[start : start + _BATCH] for start in range(0, len(array), _BATCH)]
