"""Pictures with a class each, and their preparation for networks of ImageNet."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np

from spade_keras.data import load_digits
from spade_keras.errors import SpadeError
from spade_keras.registry import PICTURE_SOURCES

LabeledSamples = tuple[np.ndarray, np.ndarray]
"""Inputs, samples first, and their classes 0, 1, 2, ..., or one probability per class."""

IMAGENET_SIZE = 32
"""Pixels per side that the networks of `keras.applications` want at least."""


def load_pictures(source: str, size: int | None = None) -> LabeledSamples:
    """Loads all pictures of a source, training and test parts together.

    Args:
        source: A name in `PICTURE_SOURCES`. "mnist" and "cifar10" come from ~/.keras/datasets;
            Keras downloads them if they are not there.
        size: Height and width to scale them to. None: 16 for "digits", else as they are.

    Returns:
        float32 pictures `(samples, height, width, channels)` in [0, 1], and int32 classes.
    """
    pictures: LabeledSamples = PICTURE_SOURCES[source](size)
    return pictures


def scale_pictures(x: np.ndarray, size: int | None) -> np.ndarray:
    """Scales pictures `(samples, height, width, channels)` bilinearly to `size` x `size`."""
    if size is None or x.shape[1:3] == (size, size):
        return x
    scaled = keras.ops.image.resize(x, (size, size), data_format="channels_last")
    return keras.ops.convert_to_numpy(scaled)


def prepare_for_imagenet(x: np.ndarray) -> np.ndarray:
    """Turns pictures into the inputs that the networks of `keras.applications` were trained on.

    Gray pictures get three equal channels, small ones are scaled to 32 x 32, channels become blue,
    green, red, and ImageNet's mean is subtracted.

    Args:
        x: Pictures `(samples, height, width, 1 or 3)` in [0, 1].
    """
    wrong = None
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        wrong = f"be of shape (samples, height, width, 1 or 3). Received: shape={x.shape}"
    elif x.min() < 0 or x.max() > 1:
        wrong = f"have values in [0, 1]. Received: {x.min():.4g} to {x.max():.4g}"
    if wrong:
        raise SpadeError(f'With `network.weights = "imagenet"` the pictures must {wrong}')
    colored = np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x
    if min(x.shape[1:3]) < IMAGENET_SIZE:
        colored = scale_pictures(colored, IMAGENET_SIZE)
    return keras.applications.vgg16.preprocess_input(255 * colored, data_format="channels_last")


def digits(size: int | None) -> LabeledSamples:
    """The bundled digits, enlarged to 16 x 16 pixels unless a size is given."""
    return load_digits(size or 16)


def _of_keras(name: str, size: int | None) -> LabeledSamples:
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


mnist = functools.partial(_of_keras, "mnist")
cifar10 = functools.partial(_of_keras, "cifar10")
