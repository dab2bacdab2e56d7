"""Cartesian magnetic resonance imaging with one or more receiver coils."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from spade_keras.operators.complex_pair import conjugate_multiply, join, multiply, split
from spade_keras.operators.fourier import (
    fft2c,
    fft_rows,
    ifft2c,
    ifft_rows,
    space_ramp,
    width_ramp,
)
from spade_keras.operators.linear_operator import LinearOperator


@keras.saving.register_keras_serializable(package="spade_keras")
class CartesianMRI(LinearOperator):
    """y_c = M F S_c x for every coil c: coil maps, centered unitary FFT, sampling mask.

    Input shape:
        `x`: `(batch, height, width, 2)`, complex image as two channels.
        `mask`: `(batch, 1 or height, width)`, 1 where sampled.
        `sensitivities`: `(batch, coils, height, width, 2)`. With sum_c |S_c|^2 <= 1 the norm of A
        is at most 1.

    Output shape:
        `(batch, coils, height, width, 2)`, zero where not sampled.

    Example:
        >>> import numpy as np
        >>> operator = CartesianMRI()
        >>> x = np.ones((1, 8, 6, 2), "float32")
        >>> mask = np.ones((1, 1, 6), "float32")
        >>> maps = np.ones((1, 4, 8, 6, 2), "float32")
        >>> tuple(operator.forward(x, mask=mask, sensitivities=maps).shape)
        (1, 4, 8, 6, 2)

    Reference:
        Pruessmann et al., "SENSE: sensitivity encoding for fast MRI", 1999.
    """

    parameter_names = ("mask", "sensitivities")
    informative_transforms = ("rotate90",)

    def forward(self, x: Any, *, mask: Any, sensitivities: Any) -> Any:  # type: ignore[override]
        """Returns M F S x."""
        real, imaginary = split(x)
        coil_images = multiply(split(sensitivities), (real[:, None], imaginary[:, None]))
        return join(fft2c(coil_images)) * _per_coil(mask)[..., None]

    def adjoint(self, y: Any, *, mask: Any, sensitivities: Any) -> Any:  # type: ignore[override]
        """Returns S^H F^-1 M y, of shape `(batch, height, width, 2)`."""
        coil_images = ifft2c(split(ops.cast(y, "float32") * _per_coil(mask)[..., None]))
        return join(_sum_coils(conjugate_multiply(split(sensitivities), coil_images)))

    def normal(self, x: Any, *, mask: Any, sensitivities: Any) -> Any:  # type: ignore[override]
        """Returns S^H F^-1 M F S x, by plain FFTs.

        The mask is diagonal, so the ramps and scales on the frequency side cancel around it; those
        on the image side are folded into the coil maps. Where the mask has one row, the transform
        of the rows' axis cancels around it as well: half the work.
        """
        height, width = ops.shape(x)[1:3]
        by_columns = mask.shape[1] == 1
        ramp = width_ramp(width) if by_columns else space_ramp(height, width)
        maps = multiply(split(sensitivities), ramp)
        real, imaginary = split(x)
        coil_images = multiply(maps, (real[:, None], imaginary[:, None]))
        spectrum = fft_rows(coil_images) if by_columns else ops.fft2(coil_images)
        sampled = _per_coil(mask)
        spectrum = spectrum[0] * sampled, spectrum[1] * sampled
        coil_images = ifft_rows(spectrum) if by_columns else ops.ifft2(spectrum)
        return join(_sum_coils(conjugate_multiply(maps, coil_images)))


def _per_coil(mask: Any) -> Any:
    return ops.cast(mask, "float32")[:, None]


def _sum_coils(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    return ops.sum(pair[0], axis=1), ops.sum(pair[1], axis=1)
