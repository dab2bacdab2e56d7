"""Real images in the Fourier domain: two channels to a complex plane, kernels as their transfer."""

from __future__ import annotations

from typing import Any

from keras import ops

from spade_keras.backend.fourier import fft, to_complex, to_real


def image_spectrum(x: Any) -> Any:
    """Transforms a real image, two channels at a time.

    A real kernel acts alike on the real and the imaginary part of a complex image. So channels
    travel in pairs, which halves the work; a last one without a partner is paired with zeros.

    Args:
        x: float32 tensor of shape `(batch, height, width, channels)`.

    Returns:
        complex64 tensor of shape `(batch, planes, height, width)`, `planes = ceil(channels / 2)`.
    """
    batch, height, width, channels = ops.shape(x)
    if channels % 2:
        x = ops.concatenate([x, ops.zeros_like(x[..., :1])], axis=-1)
    planes = to_complex(ops.reshape(x, (batch, height, width, (channels + 1) // 2, 2)))
    return fft(ops.transpose(planes, (0, 3, 1, 2)))


def image_from_spectrum(spectrum: Any, channels: int) -> Any:
    """Inverts `image_spectrum`.

    Args:
        spectrum: complex64 tensor of shape `(batch, planes, height, width)`.
        channels: Channels of the image.

    Returns:
        float32 tensor of shape `(batch, height, width, channels)`.
    """
    planes = ops.transpose(fft(spectrum, inverse=True), (0, 2, 3, 1))
    batch, height, width, count = ops.shape(planes)
    pairs = ops.reshape(to_real(planes), (batch, height, width, 2 * count))
    return pairs[..., :channels]


def transfer_function(kernel: Any, height: Any, width: Any) -> Any:
    """Transform of a kernel whose origin is at floor(size / 2): USRNet's `p2o`.

    Args:
        kernel: float32 tensor of shape `(batch, rows, columns)`, no larger than the image.
        height: Of the image.
        width: Of the image.

    Returns:
        complex64 tensor of shape `(batch, 1, height, width)`.

    Raises:
        ValueError: If the kernel is larger than the image.
    """
    check_fits(kernel, height, width)
    rows, columns = ops.shape(kernel)[1:3]
    padded = ops.pad(
        ops.cast(kernel, "float32"), ((0, 0), (0, height - rows), (0, width - columns))
    )
    origin_first = ops.roll(ops.roll(padded, -(rows // 2), axis=1), -(columns // 2), axis=2)
    return fft(ops.cast(origin_first, "complex64"))[:, None]


def check_fits(kernel: Any, height: Any, width: Any) -> None:
    """Raises a ValueError if the kernel is larger than the image, where both sizes are known."""
    for axis, size in ((1, height), (2, width)):
        length = kernel.shape[axis]
        if isinstance(length, int) and isinstance(size, int) and length > size:
            raise ValueError(
                "`kernel` must be no larger than the image. Crop the kernel or use a larger image. "
                f"Received: kernel.shape={tuple(kernel.shape)}, height={height}, width={width}"
            )
