"""Normalized mean squared error of images, as a Keras metric."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from spade_keras.metrics.conventions import get_convention, metric_name
from spade_keras.metrics.prepared_images import prepare
from spade_keras.metrics.psnr import check_settings, mean_per_item


@keras.saving.register_keras_serializable(package="spade_keras")
class NMSE(keras.metrics.MeanMetricWrapper):
    """Mean of ||prediction - target||^2 / ||target||^2 over images or volumes.

    Args:
        convention: A key of `metrics.CONVENTIONS`; with `fastmri` a batch is taken for a volume,
            as by `PSNR`.
        border: Pixels to cut off every side; for `sr_y` the scale.
        name: Name of the metric; None: `nmse_` and the convention.
        dtype: Of the accumulation; float32 unless told otherwise.

    Input shape:
        As of `PSNR`.

    Raises:
        ValueError: If `border` is negative or the convention unknown.

    Example:
        >>> import numpy as np
        >>> metric = NMSE()
        >>> metric.update_state(np.full((1, 4, 4, 1), 2.0), np.full((1, 4, 4, 1), 1.0))
        >>> metric.name, round(float(metric.result()), 3)
        ('nmse_image', 0.25)
    """

    def __init__(
        self,
        convention: str = "image",
        border: int = 0,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_settings(1.0, border)
        name = name or metric_name("nmse", convention)
        self._settings = {"convention": convention, "border": border}
        super().__init__(nmse_per_image, name=name, dtype=dtype, **self._settings)
        self.convention = get_convention(convention).name
        self._direction = "down"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype, **self._settings}


def nmse_per_image(target: Any, prediction: Any, convention: str = "image", border: int = 0) -> Any:
    """Returns the NMSE of every image `(batch,)`, or of the one volume `(1,)`."""
    target, prediction = prepare(target, prediction, convention, 1.0, border)
    error = mean_per_item((target - prediction) ** 2, convention)
    return error / ops.maximum(mean_per_item(target**2, convention), 1e-30)
