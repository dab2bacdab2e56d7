"""Pictures with a class each: bundled digits, or MNIST and CIFAR-10 by `keras.datasets`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spade_keras.data import load_digits
from spade_keras.errors import SpadeError

IMAGENET_SIZE = 32
"""Pixels per side that the networks of `keras.applications` want at least."""


def load_pictures(source: str, size: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Loads all pictures of a source, training and test parts together.

    Args:
        source: A key of `PICTURE_SOURCES`. "mnist" and "cifar10" come from ~/.keras/datasets; where
            that has no file, Keras downloads it.
        size: Height and width to scale them to. None: 16 for "digits", else as they are.

    Returns:
        float32 pictures `(samples, height, width, channels)` in [0, 1], and int32 classes.

    Raises:
        ValueError: If the source is unknown.
        SpadeError: If there is neither a file nor a network connection.
        MissingExtraError: If scikit-learn, which brings the digits, is not installed.
    """
    if source not in PICTURE_SOURCES:
        raise ValueError(
            f"`source` must be one of {list(PICTURE_SOURCES)}. Received: source={source!r}"
        )
    return PICTURE_SOURCES[source](size)


def scale_pictures(x: np.ndarray, size: int | None) -> np.ndarray:
    """Scales pictures `(samples, height, width, channels)` bilinearly to a square.

    Args:
        x: The pictures.
        size: Height and width. None: they stay as they are.
    """
    if size is None or x.shape[1:3] == (size, size):
        return x
    scaled = keras.ops.image.resize(x, (size, size), data_format="channels_last")
    return keras.ops.convert_to_numpy(scaled)


def prepare_for_imagenet(x: np.ndarray) -> np.ndarray:
    """Makes of pictures what the networks of `keras.applications` were trained on.

    Gray pictures get three equal channels, small ones are scaled to 32 x 32, channels become blue,
    green, red, and ImageNet's mean is subtracted.

    Args:
        x: Pictures `(samples, height, width, 1 or 3)` in [0, 1].

    Returns:
        Pictures with 3 channels, from about -124 to 151.

    Raises:
        SpadeError: If they have other channels or other values.
    """
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise SpadeError(
            'With `network.weights = "imagenet"` the pictures must be of shape '
            f"(samples, height, width, 1 or 3). Received: shape={x.shape}"
        )
    if x.min() < 0 or x.max() > 1:
        raise SpadeError(
            'With `network.weights = "imagenet"` the pictures must have values in [0, 1]. '
            f"Received: {x.min():.4g} to {x.max():.4g}"
        )
    colored = np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x
    if min(x.shape[1:3]) < IMAGENET_SIZE:
        colored = scale_pictures(colored, IMAGENET_SIZE)
    return keras.applications.vgg16.preprocess_input(255 * colored, data_format="channels_last")


def _digits(size: int | None) -> tuple[np.ndarray, np.ndarray]:
    return load_digits(size or 16)


def _mnist(size: int | None) -> tuple[np.ndarray, np.ndarray]:
    return _of_keras("mnist", size)


def _cifar10(size: int | None) -> tuple[np.ndarray, np.ndarray]:
    return _of_keras("cifar10", size)


def _of_keras(name: str, size: int | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        parts: Any = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises bare exceptions where a download fails.
        raise SpadeError(
            f"`{name}` could not be loaded: {error}. It needs its file in ~/.keras/datasets, or a "
            'network connection to download it once. Offline, take `data.source = "digits"` or '
            f"`data.path`. Received: source={name}"
        ) from error
    x = np.concatenate([part[0] for part in parts]).astype("float32") / 255
    y = np.concatenate([part[1].reshape(-1) for part in parts]).astype("int32")
    return scale_pictures(x[..., None] if x.ndim == 3 else x, size), y


PICTURE_SOURCES: dict[str, Callable[[int | None], tuple[np.ndarray, np.ndarray]]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
}
"""Pictures with a class each, by name; each takes the side to scale them to."""
