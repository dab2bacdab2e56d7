"""Peak signal-to-noise ratio of magnitude images, as a Keras metric."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from spade_keras.operators.complex_pair import magnitude


@keras.saving.register_keras_serializable(package="spade_keras")
class PSNR(keras.metrics.MeanMetricWrapper):
    """Mean over images of 20 log10(data_range / RMSE), of the magnitudes of complex images.

    Convention `image`: the range is a given number, 1 for images scaled to [0, 1].

    Args:
        data_range: The largest possible value.
        name: Name of the metric.
        dtype: Of the accumulation; float32 unless told otherwise.

    Input shape:
        Target and prediction `(batch, height, width, channels)`: two channels are taken as real
        and imaginary part, any other number as it is.

    Raises:
        ValueError: If `data_range` is not positive.

    Example:
        >>> import numpy as np
        >>> metric = PSNR()
        >>> metric.update_state(np.zeros((1, 4, 4, 1)), np.full((1, 4, 4, 1), 0.1))
        >>> round(float(metric.result()), 3)
        20.0
    """

    def __init__(self, data_range: float = 1.0, name: str = "psnr_db", dtype: Any = None) -> None:
        if not data_range > 0:
            raise ValueError(f"`data_range` must be positive. Received: data_range={data_range}")
        super().__init__(psnr_per_image, name=name, dtype=dtype, data_range=data_range)
        self.data_range = data_range
        self._direction = "up"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"data_range": self.data_range, "name": self.name, "dtype": self.dtype}


def psnr_per_image(target: Any, prediction: Any, data_range: float = 1.0) -> Any:
    """Returns the PSNR in dB of every image, shape `(batch,)`; arguments as in `PSNR`."""
    difference = _real(target) - _real(prediction)
    axes = tuple(range(1, len(difference.shape)))
    # Identical images would give infinity; the floor reads as 120 dB at range 1.
    error = ops.maximum(ops.mean(difference * difference, axis=axes), 1e-12)
    return (10 / math.log(10)) * (2 * math.log(data_range) - ops.log(error))


def _real(image: Any) -> Any:
    image = ops.cast(image, "float32")
    return magnitude(image) if image.shape[-1] == 2 else image
