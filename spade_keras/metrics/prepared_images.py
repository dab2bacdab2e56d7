"""Images as a convention compares them, in `keras.ops`."""

from __future__ import annotations

from typing import Any

from keras import ops

from spade_keras.metrics.conventions import LUMA_WEIGHTS, get_convention
from spade_keras.operators.complex_pair import magnitude


def prepare(
    target: Any, prediction: Any, convention: str, data_range: float, border: int
) -> tuple[Any, Any]:
    """Returns both, ready to be compared, divided by the data range, in float32.

    Args:
        target: `(batch, height, width, channels)`; two channels are real and imaginary part.
        prediction: The same; real where the target is complex, or the other way round, will do.
        convention: A key of `CONVENTIONS`.
        data_range: Of the convention `image`.
        border: Pixels to cut off every side.

    Raises:
        ValueError: If the channels do not fit together.
    """
    rules = get_convention(convention)
    target, prediction = _real(target), _real(prediction)
    if target.shape[-1] != prediction.shape[-1]:
        raise ValueError(
            "Target and prediction must have as many channels, once complex ones are magnitudes. "
            f"Received: {target.shape[-1]} and {prediction.shape[-1]}"
        )
    if rules.per_volume:
        prediction = _crop_to(prediction, target)
    if rules.luma:
        target, prediction = _luma(target), _luma(prediction)
    if border:
        target, prediction = (
            image[:, border:-border, border:-border] for image in (target, prediction)
        )
    if rules.per_volume:
        largest = ops.maximum(ops.max(target), 1e-30)
    else:
        largest = 255.0 if rules.luma else data_range
    return target / largest, prediction / largest


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
