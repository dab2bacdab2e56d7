"""Blur and decimation: the forward model of super-resolution."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.backend import conjugate
from spade_keras.errors import require
from spade_keras.operators.blur import elongated_kernels
from spade_keras.operators.fourier import image_from_spectrum, image_spectrum, transfer_function
from spade_keras.operators.linear_operator import LinearOperator, Shape, Shapes


@keras.saving.register_keras_serializable(package="spade_keras")
class Downsampling(LinearOperator):
    """y = (k * x) taken at the upper left pixel of every scale x scale block; circular blur.

    Computed in the Fourier domain, where decimation is the mean of the scale^2 blocks of the
    spectrum, and its adjoint their repetition.

    Input shape:
        `x`: `(batch, height, width, channels)`; height and width are multiples of `scale`.
        `kernel`: `(batch or 1, rows, columns)`, its origin at floor(size / 2).

    Output shape:
        `(batch, height / scale, width / scale, channels)`.

    Example:
        >>> x, kernel = np.ones((2, 9, 6, 3), "float32"), np.full((2, 3, 3), 1 / 9, "float32")
        >>> tuple(Downsampling(3).forward(x, kernel=kernel).shape)
        (2, 3, 2, 3)

    Reference:
        Zhang, Van Gool and Timofte, "Deep unfolding network for image super-resolution", 2020.
    """

    parameter_names = ("kernel",)
    informative_transforms = ("shift", "scale")
    settings = ("scale",)

    def __init__(self, scale: int = 2, **kwargs: Any) -> None:
        whole = type(scale) is int and scale >= 1
        require(whole, "`scale` must be an integer of at least 1.", scale=scale)
        super().__init__(**kwargs)
        self.scale = scale

    def forward(self, x: Any, *, kernel: Any) -> Any:  # type: ignore[override]
        """Returns the decimated blur of x."""
        x = ops.cast(x, "float32")
        transfer = self._transfer(x, kernel)
        return image_from_spectrum(self._fold(transfer * image_spectrum(x)), x.shape[-1])

    def adjoint(self, y: Any, *, kernel: Any) -> Any:  # type: ignore[override]
        """Returns y filled up with zeros and correlated with the kernel."""
        y = ops.cast(y, "float32")
        height, width = ops.shape(y)[1:3]
        transfer = transfer_function(kernel, height * self.scale, width * self.scale)
        return self._backproject(transfer, image_spectrum(y), y.shape[-1])

    def normal(self, x: Any, *, kernel: Any) -> Any:  # type: ignore[override]
        """Returns A^H A x, without the transforms of the small image."""
        x = ops.cast(x, "float32")
        transfer = self._transfer(x, kernel)
        small = self._fold(transfer * image_spectrum(x))
        return self._backproject(transfer, small, x.shape[-1])

    def proximal(self, z: Any, y: Any, weight: Any, *, kernel: Any) -> Any:
        """Solves argmin_x ||A x - y||^2 + weight ||x - z||^2 in closed form.

            x = z + A^H (A A^H + weight)^-1 (y - A z)

        A A^H is diagonal in the Fourier domain of the small image. This is USRNet's data step in a
        form that does not divide by `weight`, so that small ones cost no digits.

        `z` has the shape of the image, `y` that of the measurements; `weight` is a positive scalar
        or a tensor of shape `(batch, 1, 1, 1)`.
        """
        z, y = ops.cast(z, "float32"), ops.cast(y, "float32")
        transfer = self._transfer(z, kernel)
        power = self._fold(transfer * conjugate(transfer))
        missing = image_spectrum(y) - self._fold(transfer * image_spectrum(z))
        # Not by a cast, for whose gradient TensorFlow prints a warning in every graph.
        weight = ops.cast(weight, "float32")
        weight = ops.view_as_complex(ops.stack([weight, ops.zeros_like(weight)], axis=-1))
        missing = missing / (power + weight)
        return z + self._backproject(transfer, missing, z.shape[-1])

    def measurement_shape(self, x_shape: Shape, parameter_shapes: Shapes) -> Shape:
        """Returns `(batch, height / scale, width / scale, channels)`."""
        self._check_sizes(x_shape)
        batch, *sizes, channels = x_shape
        return (batch, *(None if n is None else n // self.scale for n in sizes), channels)

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes elongated Gaussian kernels of 7 x 7 pixels, one per sample."""
        return {"kernel": elongated_kernels(x_shape[0], 7, seed)}

    def _transfer(self, x: Any, kernel: Any) -> Any:
        self._check_sizes(x.shape)
        return transfer_function(kernel, *ops.shape(x)[1:3])

    def _check_sizes(self, x_shape: Shape) -> None:
        for name, size in zip(("height", "width"), x_shape[1:3], strict=True):
            if isinstance(size, int):
                rule = f"The image's {name} must be a multiple of the scale, {self.scale}. Crop it "
                rule += f"to {size - size % self.scale}."
                require(size % self.scale == 0, rule, **{name: size})

    def _fold(self, spectrum: Any) -> Any:
        """Decimates: the mean of the blocks."""
        batch, planes, height, width = ops.shape(spectrum)
        s = self.scale
        blocks = ops.reshape(spectrum, (batch, planes, s, height // s, s, width // s))
        return ops.mean(blocks, axis=(2, 4))

    def _backproject(self, transfer: Any, small: Any, channels: int) -> Any:
        """Fills up with zeros, repeating the spectrum, and correlates."""
        repeated = ops.tile(small, (1, 1, self.scale, self.scale))
        return image_from_spectrum(conjugate(transfer) * repeated, channels)
