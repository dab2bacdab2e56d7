"""Structural similarity of images, as a Keras metric."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.metrics.conventions import get_convention, metric_name
from spade_keras.metrics.prepared_images import prepare
from spade_keras.metrics.psnr import check_settings, mean_per_item

_C1, _C2 = 0.01**2, 0.03**2


@keras.saving.register_keras_serializable(package="spade_keras")
class SSIM(keras.metrics.MeanMetricWrapper):
    """Mean structural similarity of images or volumes.

    With local means m, variances v and the covariance c of both images in a sliding window, and
    images divided by the data range,

        (2 m_x m_y + C_1) (2 c + C_2) / ((m_x^2 + m_y^2 + C_1) (v_x + v_y + C_2))

    averaged over every place at which the window fits; C_1 = 0.01^2, C_2 = 0.03^2.

    Args:
        data_range: The largest possible value, for the convention `image`.
        convention: A key of `metrics.CONVENTIONS`, which sets the window too; with `fastmri` a
            batch is taken for a volume, as by `PSNR`.
        border: Pixels to cut off every side; for `sr_y` the scale.
        name: Name of the metric; None: `ssim_` and the convention.
        dtype: Of the accumulation; float32 unless told otherwise.

    Input shape:
        As of `PSNR`; at least as large as the window, 7x7 or 11x11.

    Raises:
        ValueError: If `data_range` is not positive, `border` negative or the convention unknown.

    Example:
        >>> metric = SSIM()
        >>> image = np.random.default_rng(0).uniform(size=(1, 16, 16, 1))
        >>> metric.update_state(image, image)
        >>> metric.name, round(float(metric.result()), 3)
        ('ssim_image', 1.0)

    Reference:
        Wang et al., "Image quality assessment: from error visibility to structural similarity",
        2004.
    """

    def __init__(
        self,
        data_range: float = 1.0,
        convention: str = "image",
        border: int = 0,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_settings(data_range, border)
        name = name or metric_name("ssim", convention)
        self._settings = {"data_range": data_range, "convention": convention, "border": border}
        super().__init__(ssim_per_image, name=name, dtype=dtype, **self._settings)
        self.convention = get_convention(convention).name
        self._direction = "up"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, "dtype": self.dtype, **self._settings}


def ssim_per_image(
    target: Any,
    prediction: Any,
    data_range: float = 1.0,
    convention: str = "image",
    border: int = 0,
) -> Any:
    """Returns the SSIM of every image `(batch,)`, or the mean over the one volume `(1,)`."""
    x, y = prepare(target, prediction, convention, data_range, border)
    window = get_convention(convention).window
    # Variances of float32 images would cancel beside a large mean.
    level = ops.mean(x, axis=(1, 2), keepdims=True)
    x, y = x - level, y - level
    mean_x, mean_y = _smooth(x, window), _smooth(y, window)
    # Uniform windows take the sample variance, as scikit-image and fastMRI do.
    unbias = 49 / 48 if window == "uniform" else 1.0
    variances = unbias * (_smooth(x * x + y * y, window) - mean_x**2 - mean_y**2)
    covariance = unbias * (_smooth(x * y, window) - mean_x * mean_y)
    mean_x, mean_y = mean_x + level, mean_y + level
    similarity = ((2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)) / (
        (mean_x**2 + mean_y**2 + _C1) * (variances + _C2)
    )
    return mean_per_item(similarity, convention)


def _smooth(image: Any, window: str) -> Any:
    """Weighted means over the window, where it fits; in float32, which convolutions are not."""
    if window == "uniform":
        weights = np.full(7, 1 / 7)
    else:
        weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
        weights /= weights.sum()
    last = len(weights) - 1
    rows = sum(float(weight) * image[:, i : i - last or None] for i, weight in enumerate(weights))
    return sum(float(weight) * rows[:, :, i : i - last or None] for i, weight in enumerate(weights))
