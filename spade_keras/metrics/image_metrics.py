"""PSNR, SSIM and NMSE of images under a named convention, as functions and as Keras metrics.

`evaluation.py` calls the same functions, so numbers in `fit` and after it agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from spade_keras.metrics.conventions import LUMA_WEIGHTS, Convention, get_convention
from spade_keras.operators.complex_pair import magnitude

_C1, _C2 = 0.01**2, 0.03**2


def psnr_per_image(
    y_true: Any, y_pred: Any, data_range: float = 1.0, convention: str = "image", border: int = 0
) -> Any:
    """Returns the PSNR in dB of every image `(batch,)`, or of the one volume `(1,)`.

    Identical images would give infinity; they read as 120 dB. Arguments as in `PSNR`.
    """
    error, _ = mean_squares(*_prepare(y_true, y_pred, data_range, convention, border))
    error = ops.maximum(_pooled(error, convention), 1e-12)
    return (-10 / math.log(10)) * ops.log(error)


def ssim_per_image(
    y_true: Any, y_pred: Any, data_range: float = 1.0, convention: str = "image", border: int = 0
) -> Any:
    """Returns the SSIM of every image `(batch,)`, or the mean over the one volume `(1,)`."""
    x, y = _prepare(y_true, y_pred, data_range, convention, border)
    return _pooled(similarity(x, y, get_convention(convention).window), convention)


def nmse_per_image(
    y_true: Any, y_pred: Any, data_range: float = 1.0, convention: str = "image", border: int = 0
) -> Any:
    """Returns the NMSE of every image `(batch,)`, or of the one volume `(1,)`."""
    error, energy = mean_squares(*_prepare(y_true, y_pred, data_range, convention, border))
    return _pooled(error, convention) / ops.maximum(_pooled(energy, convention), 1e-30)


class _ImageMetric(keras.metrics.MeanMetricWrapper):
    """The mean of a number per image or volume; arguments are documented in `PSNR`."""

    per_image: ClassVar[Callable[..., Any]]
    score: ClassVar[str]
    better: ClassVar[str]

    def __init__(
        self,
        data_range: float = 1.0,
        convention: str = "image",
        border: int = 0,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_settings(data_range, border)
        plain = (self.score, get_convention(convention).name) == ("psnr_db", "image")
        name = name or (self.score if plain else f"{self.score}_{convention}")
        settings = {"data_range": data_range, "convention": convention, "border": border}
        super().__init__(type(self).per_image, name=name, dtype=dtype, **settings)
        self.data_range, self.convention, self.border = data_range, convention, border
        self._direction = self.better

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        names = ("data_range", "convention", "border", "name", "dtype")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable(package="spade_keras")
class PSNR(_ImageMetric):
    """Mean of 20 log10(data_range / RMSE), by default over images with a given data range.

    Args:
        data_range: The largest possible value, for the convention `image`.
        convention: A key of `metrics.CONVENTIONS`. With `fastmri` a batch counts as a volume: the
            number is the convention's if every batch holds one volume.
        border: Pixels to cut off every side; for `sr_y` the scale.
        name: Name of the metric; None: `psnr_db`, followed by the convention unless it is `image`.
        dtype: Dtype of the accumulation; by default float32.

    Input shape:
        `y_true` and `y_pred`: `(batch, height, width, channels)`; two channels are real and
        imaginary part, any other number is taken as it is.

    Example:
        >>> metric = PSNR()
        >>> metric.update_state(np.zeros((1, 4, 4, 1)), np.full((1, 4, 4, 1), 0.1))
        >>> round(float(metric.result()), 3)
        20.0
    """

    per_image, score, better = psnr_per_image, "psnr_db", "up"


@keras.saving.register_keras_serializable(package="spade_keras")
class SSIM(_ImageMetric):
    """Mean structural similarity of images or volumes; arguments as of `PSNR`.

    With local means m, variances v and the covariance c of both images in a sliding window, and
    images divided by the data range,

        (2 m_x m_y + C_1) (2 c + C_2) / ((m_x^2 + m_y^2 + C_1) (v_x + v_y + C_2))

    averaged over every place at which the window fits; C_1 = 0.01^2, C_2 = 0.03^2. The convention
    sets the window too, 7x7 or 11x11; images must be at least as large. Its name is `ssim_` and
    the convention.

    Reference:
        Wang et al., "Image quality assessment: from error visibility to structural similarity",
        2004.
    """

    per_image, score, better = ssim_per_image, "ssim", "up"


@keras.saving.register_keras_serializable(package="spade_keras")
class NMSE(_ImageMetric):
    """Mean of ||y_pred - y_true||^2 / ||y_true||^2 over images or volumes.

    Arguments as of `PSNR`; the data range cancels. Its name is `nmse_` and the convention.
    """

    per_image, score, better = nmse_per_image, "nmse", "down"


def check_settings(data_range: float, border: int) -> None:
    """Raises `ValueError` if a setting of a metric is out of its range."""
    if not data_range > 0:
        raise ValueError(f"`data_range` must be positive. Received: data_range={data_range}")
    if border < 0:
        raise ValueError(f"`border` must be at least 0. Received: border={border}")


def comparable(y_true: Any, y_pred: Any, rules: Convention, border: int) -> tuple[Any, Any]:
    """Returns both as a convention compares them, in float32, not yet divided by a range.

    They are `(batch, height, width, channels)`; one may be real where the other is complex.
    """
    y_true, y_pred = _real(y_true), _real(y_pred)
    if y_true.shape[-1] != y_pred.shape[-1]:
        raise ValueError(
            "`y_true` and `y_pred` must have the same number of channels, complex ones counted "
            f"as magnitudes. Received: {y_true.shape[-1]} and {y_pred.shape[-1]}"
        )
    if rules.per_volume:
        y_pred = _crop_to(y_pred, y_true)
    if rules.luma:
        y_true, y_pred = _luma(y_true), _luma(y_pred)
    if border:
        inner = slice(border, -border)
        y_true, y_pred = y_true[:, inner, inner], y_pred[:, inner, inner]
    return y_true, y_pred


def mean_squares(x: Any, y: Any) -> tuple[Any, Any]:
    """Returns the means of (x - y)^2 and of x^2 over every image, `(batch,)` each."""
    return _mean_per_image((x - y) ** 2), _mean_per_image(x**2)


def similarity(x: Any, y: Any, window: str) -> Any:
    """Returns the SSIM of every image `(batch,)`; images are divided by the data range."""
    # Variances of float32 images would cancel beside a large mean.
    level = ops.mean(x, axis=(1, 2), keepdims=True)
    x, y = x - level, y - level
    mean_x, mean_y = _smooth(x, window), _smooth(y, window)
    # Uniform windows take the sample variance, as scikit-image and fastMRI do.
    unbias = 49 / 48 if window == "uniform" else 1.0
    variances = unbias * (_smooth(x * x + y * y, window) - mean_x**2 - mean_y**2)
    covariance = unbias * (_smooth(x * y, window) - mean_x * mean_y)
    mean_x, mean_y = mean_x + level, mean_y + level
    return _mean_per_image(
        ((2 * mean_x * mean_y + _C1) * (2 * covariance + _C2))
        / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))
    )


def _prepare(
    y_true: Any, y_pred: Any, data_range: float, convention: str, border: int
) -> tuple[Any, Any]:
    """Returns both, ready to be compared, divided by the data range."""
    rules = get_convention(convention)
    y_true, y_pred = comparable(y_true, y_pred, rules, border)
    if rules.per_volume:
        largest = ops.maximum(ops.max(y_true), 1e-30)
    else:
        largest = 255.0 if rules.luma else data_range
    return y_true / largest, y_pred / largest


def _mean_per_image(values: Any) -> Any:
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))


def _pooled(values: Any, convention: str) -> Any:
    """The values per image, or their mean `(1,)` where the batch is a volume."""
    return ops.mean(values, keepdims=True) if get_convention(convention).per_volume else values


def _real(image: Any) -> Any:
    image = ops.cast(image, "float32")
    # No gradient is taken, and raw scans are so small that an epsilon would show.
    return magnitude(image, epsilon=0.0)[..., None] if image.shape[-1] == 2 else image


def _crop_to(image: Any, target: Any) -> Any:
    height, width = ops.shape(target)[1:3]
    top, left = (ops.shape(image)[1] - height) // 2, (ops.shape(image)[2] - width) // 2
    return image[:, top : top + height, left : left + width]


def _luma(image: Any) -> Any:
    levels = ops.round(ops.clip(image, 0.0, 1.0) * 255.0)
    if image.shape[-1] != 3:
        return levels
    red, green, blue = (weight / 255.0 for weight in LUMA_WEIGHTS)
    luma = red * levels[..., 0] + green * levels[..., 1] + blue * levels[..., 2]
    return 16.0 + luma[..., None]


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
