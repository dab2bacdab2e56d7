"""Images that are measured directly."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from spade_keras.operators.linear_operator import LinearOperator
from spade_keras.operators.transforms import TRANSFORMS


@keras.saving.register_keras_serializable(package="spade_keras")
class Denoising(LinearOperator):
    """y = x: only noise stands between image and measurements.

    No transform is informative: all commute with the identity.

    Input shape:
        `x`: `(batch, height, width, channels)`.

    Output shape:
        That of `x`.

    Example:
        >>> import numpy as np
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
