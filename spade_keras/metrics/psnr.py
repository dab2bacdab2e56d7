"""Peak signal-to-noise ratio of images, as a Keras metric."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from spade_keras.metrics.conventions import get_convention, metric_name
from spade_keras.metrics.prepared_images import prepare


@keras.saving.register_keras_serializable(package="spade_keras")
class PSNR(keras.metrics.MeanMetricWrapper):
    """Mean of 20 log10(data_range / RMSE), by default over images with a given data range.

    Args:
        data_range: The largest possible value, for the convention `image`.
        name: Name of the metric; None: `psnr_db`, followed by the convention if that is another.
        dtype: Of the accumulation; float32 unless told otherwise.
        convention: A key of `metrics.CONVENTIONS`. With `fastmri`, a batch is taken for a volume:
            the number is the convention's where every batch holds one volume.
        border: Pixels to cut off every side; for `sr_y` the scale.

    Input shape:
        Target and prediction `(batch, height, width, channels)`: two channels are taken as real
        and imaginary part, any other number as it is.

    Raises:
        ValueError: If `data_range` is not positive, `border` negative or the convention unknown.

    Example:
        >>> import numpy as np
        >>> metric = PSNR()
        >>> metric.update_state(np.zeros((1, 4, 4, 1)), np.full((1, 4, 4, 1), 0.1))
        >>> round(float(metric.result()), 3)
        20.0
    """

    def __init__(
        self,
        data_range: float = 1.0,
        name: str | None = None,
        dtype: Any = None,
        *,
        convention: str = "image",
        border: int = 0,
    ) -> None:
        check_settings(data_range, border)
        if name is None:
            name = "psnr_db" if convention == "image" else metric_name("psnr_db", convention)
        self._settings = {"data_range": data_range, "convention": convention, "border": border}
        super().__init__(psnr_per_image, name=name, dtype=dtype, **self._settings)
        self.data_range = data_range
        self.convention = get_convention(convention).name
        self._direction = "up"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype, **self._settings}


def psnr_per_image(
    target: Any,
    prediction: Any,
    data_range: float = 1.0,
    convention: str = "image",
    border: int = 0,
) -> Any:
    """Returns the PSNR in dB of every image `(batch,)`, or of the one volume `(1,)`.

    Identical images would give infinity; they read as 120 dB. Arguments as in `PSNR`.
    """
    target, prediction = prepare(target, prediction, convention, data_range, border)
    error = ops.maximum(mean_per_item((target - prediction) ** 2, convention), 1e-12)
    return (-10 / math.log(10)) * ops.log(error)


def mean_per_item(values: Any, convention: str) -> Any:
    """Means over every image `(batch,)`, or over the whole batch `(1,)` where that is a volume."""
    means = ops.mean(values, axis=tuple(range(1, len(values.shape))))
    return ops.mean(means, keepdims=True) if get_convention(convention).per_volume else means


def check_settings(data_range: float, border: int) -> None:
    """Raises `ValueError` if a setting of a metric is out of its range."""
    if not data_range > 0:
        raise ValueError(f"`data_range` must be positive. Received: data_range={data_range}")
    if border < 0:
        raise ValueError(f"`border` must be at least 0. Received: border={border}")
