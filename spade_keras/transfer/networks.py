"""Networks to transfer: a small VGG-like and a small ResNet-like one, and those of ImageNet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from spade_keras.errors import SpadeError
from spade_keras.pruning import count_parameters

FILTERS: dict[str, tuple[int, ...]] = {"vgg": (24, 48, 96, 256), "resnet": (16, 32, 64, 192)}
"""Width of the stem and of every stage, by network. They are redundant for five classes of digits,
which is why nine tenths of their parameters can go."""


def make_network(
    kind: str,
    input_shape: Sequence[int],
    filters: Sequence[int] | None = None,
    *,
    classes: int = 5,
) -> keras.Model:
    """Makes a small classifier; every stage after the stem halves the picture.

    Args:
        kind: A key of `NETWORKS`.
        input_shape: `(height, width, channels)`.
        filters: Width of the stem and of every stage; None: those of `FILTERS`.
        classes: Number of classes.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, classes)`: probabilities.

    Raises:
        ValueError: If the picture is too small for so many stages.

    Example:
        >>> make_network("vgg", (16, 16, 1), [4, 8]).output_shape
        (None, 5)
    """
    filters = tuple(filters or FILTERS[kind])
    if min(input_shape[:2]) < 2 ** (len(filters) - 1):
        raise ValueError(
            f"`filters` must have at most {int(min(input_shape[:2])).bit_length()} widths for "
            f"pictures of {input_shape[0]} x {input_shape[1]} pixels, which all but the first "
            f"halve. Received: filters={list(filters)}"
        )
    x = inputs = keras.Input(tuple(input_shape))
    x = _convolution(x, filters[0], "stem")
    for index, width in enumerate(filters[1:]):
        x = NETWORKS[kind](x, width, f"block{index}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax", name="head")(x))


def make_network_of_size(
    kind: str, input_shape: Sequence[int], parameters: int, *, classes: int = 5
) -> keras.Model:
    """Makes the narrowest network of a kind, in its proportions, of at least so many parameters.

    Args:
        kind: A key of `NETWORKS`.
        input_shape: `(height, width, channels)`.
        parameters: How many it shall have.
        classes: Number of classes.
    """

    def scaled(factor: float) -> keras.Model:
        filters = [math.ceil(factor * width) for width in FILTERS[kind]]
        return make_network(kind, input_shape, filters, classes=classes)

    # Parameters grow with the square of the width; the norms' few grow slower.
    factor = 0.9 * math.sqrt(parameters / count_parameters(scaled(1)))
    model = scaled(factor)
    while count_parameters(model) >= parameters and factor * max(FILTERS[kind]) > 1:
        factor *= 0.9
        model = scaled(factor)
    while count_parameters(model) < parameters:
        factor *= 1.02
        model = scaled(factor)
    return model


def imagenet_network(kind: str, input_shape: Sequence[int]) -> keras.Model:
    """Makes a network of `keras.applications` with the weights of ImageNet and a new head.

    Args:
        kind: A key of `IMAGENET_NETWORKS`.
        input_shape: `(height, width, 3)`, height and width at least 32.

    Raises:
        SpadeError: If there is neither a file of the weights nor a network connection.
    """
    make = getattr(keras.applications, IMAGENET_NETWORKS[kind])
    try:
        body = make(
            include_top=False, weights="imagenet", input_shape=tuple(input_shape), pooling="avg"
        )
    except Exception as error:  # Keras raises bare exceptions where a download fails.
        raise SpadeError(
            f"The ImageNet weights of {IMAGENET_NETWORKS[kind]} could not be loaded: {error}. They "
            "need their file in ~/.keras/models, or a network connection to download it once. "
            'Offline, take `network.weights = "source"`. Received: weights="imagenet"'
        ) from error
    head = keras.layers.Dense(1, activation="softmax", name="head")
    return keras.Model(body.input, head(body.output), name=body.name)


def _convolution(x: Any, width: int, name: str, *, strides: int = 1, relu: bool = True) -> Any:
    layer = keras.layers.Conv2D(
        width, 3, strides=strides, padding="same", use_bias=False, name=f"{name}_conv"
    )
    # Its statistics must follow within the few steps that few samples give.
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(layer(x))
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def _pooled(x: Any, width: int, name: str) -> Any:
    return _convolution(keras.layers.MaxPooling2D(name=f"{name}_pool")(x), width, name)


def _residual(x: Any, width: int, name: str) -> Any:
    inner = _convolution(x, width, f"{name}_first", strides=2)
    inner = _convolution(inner, width, f"{name}_second", relu=False)
    passed = keras.layers.Conv2D(width, 1, strides=2, use_bias=False, name=f"{name}_skip")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=name)([inner, passed]))


NETWORKS: dict[str, Callable[[Any, int, str], Any]] = {"vgg": _pooled, "resnet": _residual}
"""The stage that a small network repeats, by its name: takes tensor, width and name."""

IMAGENET_NETWORKS = {"vgg": "VGG16", "resnet": "ResNet50"}
"""The network of `keras.applications` that stands for a small one."""
