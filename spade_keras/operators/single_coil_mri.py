"""Cartesian magnetic resonance imaging with one receiver coil."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.backend.fourier import fft, to_complex, to_real
from spade_keras.operators.examples import column_mask
from spade_keras.operators.fourier import convention
from spade_keras.operators.linear_operator import LinearOperator


@keras.saving.register_keras_serializable(package="spade_keras")
class SingleCoilMRI(LinearOperator):
    """y = M F x: Fourier transform and sampling mask, of one coil that sees all alike.

    Args:
        fft: The convention of the Fourier transform; see `CartesianMRI`.
        **kwargs: Of `keras.layers.Layer`, such as `name`.

    Input shape:
        `x`: `(batch, height, width, 2)`, complex image as two channels.
        `mask`: `(batch, 1 or height, width)`, 1 where sampled, or a real weight.

    Output shape:
        `(batch, height, width, 2)`, zero where not sampled.

    Raises:
        ValueError: If `fft` is unknown.

    Example:
        >>> import numpy as np
        >>> x = np.ones((1, 8, 6, 2), "float32")
        >>> y = SingleCoilMRI().forward(x, mask=np.ones((1, 1, 6), "float32"))
        >>> tuple(y.shape), round(float(y[0, 4, 3, 0]), 3)
        ((1, 8, 6, 2), 6.928)

    Reference:
        Lustig, Donoho and Pauly, "Sparse MRI", 2007.
    """

    parameter_names = ("mask",)
    informative_transforms = ("rotate90",)
    uninformative_transforms = ("flip_vertical", "shift")

    def __init__(self, fft: str = "fastmri", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.fft = fft
        self._convention = convention(fft)

    def forward(self, x: Any, *, mask: Any) -> Any:  # type: ignore[override]
        """Returns M F x."""
        height, width = ops.shape(x)[1:3]
        spectrum = fft(self._convention.modulate(to_complex(x)))
        return to_real(spectrum * self._convention.forward_weights(mask, height, width))

    def adjoint(self, y: Any, *, mask: Any) -> Any:  # type: ignore[override]
        """Returns F^H M y."""
        height, width = ops.shape(y)[1:3]
        weights = self._convention.adjoint_weights(mask, height, width)
        image = fft(to_complex(y) * weights, inverse=True)
        return to_real(self._convention.demodulate(image))

    def normal(self, x: Any, *, mask: Any) -> Any:  # type: ignore[override]
        """Returns F^H M^2 F x, by plain FFTs; along the width alone for a mask of one row."""
        height, width = ops.shape(x)[1:3]
        axes = 1 if mask.shape[1] == 1 else 2
        weights = self._convention.normal_weights(mask, height, width)
        spectrum = fft(to_complex(x), axes=axes) * weights
        return to_real(fft(spectrum, axes=axes, inverse=True))

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes a mask that keeps about every third column."""
        return {"mask": column_mask(x_shape, seed, centered=self._convention.centered)}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "fft": self.fft}
