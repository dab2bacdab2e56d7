"""Blur by a kernel per sample."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.backend import conjugate
from spade_keras.errors import require
from spade_keras.operators.fourier import (
    check_fits,
    image_from_spectrum,
    image_spectrum,
    transfer_function,
)
from spade_keras.operators.linear_operator import LinearOperator, Shape, Shapes

_BOUNDARIES = ("circular", "reflect", "valid")


@keras.saving.register_keras_serializable(package="spade_keras")
class Blur(LinearOperator):
    """y[n] = sum_m k[m] x[n - m + c], c = floor(size / 2): convolution with the sample's kernel.

    `boundary` is "circular": periodic, by FFT; "reflect": mirrored about the border pixels, which
    are not repeated, by convolution; or "valid": keeps only pixels whose whole neighborhood is
    inside the image, by convolution.

    Input shape:
        `x`: `(batch, height, width, channels)`; all channels get the same blur.
        `kernel`: `(batch or 1, rows, columns)`, no larger than the image.

    Output shape:
        That of `x`; for "valid" smaller by `rows - 1` and `columns - 1`.

    Example:
        >>> x, kernel = np.ones((2, 9, 7, 3), "float32"), np.full((2, 3, 3), 1 / 9, "float32")
        >>> tuple(Blur("valid").forward(x, kernel=kernel).shape)
        (2, 7, 5, 3)

    Reference:
        Hansen, Nagy and O'Leary, "Deblurring images: matrices, spectra and filtering", 2006.
    """

    parameter_names = ("kernel",)
    # For kernels that are not symmetric themselves.
    informative_transforms = ("rotate90", "scale")
    uninformative_transforms = ("shift",)
    settings = ("boundary",)

    def __init__(self, boundary: str = "circular", **kwargs: Any) -> None:
        rule = f"`boundary` must be one of {list(_BOUNDARIES)}."
        require(boundary in _BOUNDARIES, rule, boundary=boundary)
        super().__init__(**kwargs)
        self.boundary = boundary

    def forward(self, x: Any, *, kernel: Any) -> Any:  # type: ignore[override]
        """Returns k * x."""
        x = ops.cast(x, "float32")
        if self.boundary == "circular":
            return _filter(x, kernel, adjoint=False)
        check_fits(kernel, *ops.shape(x)[1:3])
        if self.boundary == "reflect":
            x = ops.pad(x, ((0, 0), *_margins(kernel), (0, 0)), mode="reflect")
        return _correlate(x, ops.flip(kernel, axis=(1, 2)))

    def adjoint(self, y: Any, *, kernel: Any) -> Any:  # type: ignore[override]
        """Returns the correlation of y with k, with the border folded back."""
        y = ops.cast(y, "float32")
        if self.boundary == "circular":
            return _filter(y, kernel, adjoint=True)
        rows, columns = ops.shape(kernel)[1:3]
        around = ((0, 0), (rows - 1, rows - 1), (columns - 1, columns - 1), (0, 0))
        x = _correlate(ops.pad(y, around), kernel)
        if self.boundary == "reflect":
            for axis, (before, after) in enumerate(_margins(kernel), start=1):
                x = _fold(x, axis, before, after)
        return x

    def measurement_shape(self, x_shape: Shape, parameter_shapes: Shapes) -> Shape:
        """Returns the image's shape, for "valid" without the border."""
        if self.boundary != "valid":
            return tuple(x_shape)
        pairs = zip(x_shape[1:3], parameter_shapes["kernel"][1:3], strict=True)
        sizes = (None if n is None or k is None else n - k + 1 for n, k in pairs)
        return (x_shape[0], *sizes, x_shape[3])

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes elongated Gaussian kernels of 7 x 7 pixels, one per sample."""
        return {"kernel": elongated_kernels(x_shape[0], 7, seed)}


def gaussian_kernel(
    std: float | tuple[float, float], angle_degrees: float = 0.0, *, size: int = 25
) -> np.ndarray:
    """A Gaussian, sampled at the pixels and scaled to sum 1.

    k(p) = c exp(-p^T R diag(std^2)^-1 R^T p / 2), p counted from the pixel at size // 2.

    `std` is in pixels, or a pair of those along both principal axes; `angle_degrees` lies between
    the columns' direction and the first principal axis. Returns a float32 array `(size, size)`.

    Example:
        >>> kernel = gaussian_kernel((4.0, 1.0), 30, size=15)
        >>> kernel.shape, round(float(kernel.sum()), 5)
        ((15, 15), 1.0)
    """
    first, second = (std, std) if isinstance(std, int | float) else std
    rule = "`std` must be positive and `size` at least 1."
    require(min(first, second) > 0 and size >= 1, rule, std=std, size=size)
    y, x = np.mgrid[:size, :size] - size // 2
    angle = np.deg2rad(angle_degrees)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    kernel = np.exp(-0.5 * ((along / first) ** 2 + (across / second) ** 2))
    return (kernel / kernel.sum()).astype("float32")


def elongated_kernels(batch: int, size: int, seed: int = 0) -> np.ndarray:
    """Gaussian kernels `(batch, size, size)`, 1.5-2.5 pixels along and 0.5-0.8 across."""
    rng = np.random.default_rng(seed)
    limits = ((0.0, 180.0), (1.5, 2.5), (0.5, 0.8))
    drawn = zip(*(rng.uniform(low, high, batch) for low, high in limits), strict=True)
    return np.stack([gaussian_kernel((along, across), a, size=size) for a, along, across in drawn])


def _filter(x: Any, kernel: Any, *, adjoint: bool) -> Any:
    _, height, width, channels = ops.shape(x)
    transfer = transfer_function(kernel, height, width)
    if adjoint:
        transfer = conjugate(transfer)
    return image_from_spectrum(image_spectrum(x) * transfer, channels)


def _margins(kernel: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Pixels that a blur needs before and after the image, for both axes."""
    rows, columns = ops.shape(kernel)[1:3]
    return (rows - 1 - rows // 2, rows // 2), (columns - 1 - columns // 2, columns // 2)


def _correlate(x: Any, kernel: Any) -> Any:
    """y[n] = sum_j k[j] x[n + j], where all of x[n + j] exist: samples become channels."""
    batch, height, width, channels = ops.shape(x)
    rows, columns = ops.shape(kernel)[1:3]
    kernel = ops.broadcast_to(ops.cast(kernel, "float32"), (batch, rows, columns))
    taps = ops.repeat(ops.transpose(kernel, (1, 2, 0)), channels, axis=-1)
    stacked = ops.reshape(ops.transpose(x, (1, 2, 0, 3)), (1, height, width, -1))
    blurred = ops.depthwise_conv(
        stacked, taps[..., None], padding="valid", data_format="channels_last"
    )
    height, width = height - rows + 1, width - columns + 1
    blurred = ops.reshape(blurred, (height, width, batch, channels))
    return ops.transpose(blurred, (2, 0, 1, 3))


def _fold(x: Any, axis: int, before: Any, after: Any) -> Any:
    """Adds the margins, mirrored, to the pixels they were copied from: adjoint of the padding."""
    x = ops.moveaxis(x, axis, 0)
    size = ops.shape(x)[0] - before - after
    others = [(0, 0)] * (len(x.shape) - 1)
    # The border pixel itself was not copied; hence the one pixel of distance.
    first = ops.pad(ops.flip(x[:before], axis=0), [(1, size - 1 - before), *others])
    last = ops.pad(ops.flip(x[before + size :], axis=0), [(size - 1 - after, 1), *others])
    return ops.moveaxis(x[before : before + size] + first + last, 0, axis)
