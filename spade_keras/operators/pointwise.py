"""Images measured pixel by pixel: with missing pixels, or with noise alone."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.operators.equivariance import TRANSFORMS
from spade_keras.operators.linear_operator import LinearOperator


@keras.saving.register_keras_serializable(package="spade_keras")
class Inpainting(LinearOperator):
    """y = M x: the pixels that the mask keeps, zero elsewhere.

    Images have the shape `(batch, height, width, channels)`, `mask`, 1 where a pixel is known,
    `(batch, height, width, 1)` or that of the images.

    Example:
        >>> x, mask = np.ones((1, 1, 3, 2), "float32"), np.array([1.0, 0.0, 1.0])
        >>> y = Inpainting().forward(x, mask=mask.reshape(1, 1, 3, 1))
        >>> [float(value) for value in y[0, 0, :, 0]]
        [1.0, 0.0, 1.0]
    """

    parameter_names = ("mask",)
    informative_transforms = ("rotate90", "flip_vertical", "flip_horizontal", "shift")

    def forward(self, x: Any, *, mask: Any) -> Any:  # type: ignore[override]
        """Returns M x."""
        return ops.cast(x, "float32") * ops.cast(mask, "float32")

    def adjoint(self, y: Any, *, mask: Any) -> Any:  # type: ignore[override]
        """Returns M y: a diagonal is its own adjoint."""
        return self.forward(y, mask=mask)

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes a mask that keeps half of the pixels."""
        drawn = np.random.default_rng(seed).uniform(size=(*x_shape[:3], 1))
        return {"mask": (drawn < 0.5).astype("float32")}


@keras.saving.register_keras_serializable(package="spade_keras")
class Denoising(LinearOperator):
    """y = x, `(batch, height, width, channels)`: the measurements are the image with noise.

    No transform is informative: all commute with the identity.

    Example:
        >>> tuple(Denoising().forward(np.ones((1, 4, 3, 2), "float16")).shape)
        (1, 4, 3, 2)
    """

    uninformative_transforms = tuple(TRANSFORMS)

    def forward(self, x: Any) -> Any:  # type: ignore[override]
        """Returns x, in float32."""
        return ops.cast(x, "float32")

    def adjoint(self, y: Any) -> Any:  # type: ignore[override]
        """Returns y, in float32."""
        return ops.cast(y, "float32")
