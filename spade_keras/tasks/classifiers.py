"""Classifiers: small ones, those of ImageNet or of a file; and new heads."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from spade_keras.errors import SpadeError
from spade_keras.files import load_model
from spade_keras.pruning import copy_model, count_parameters
from spade_keras.pruning.basis import find_rank_groups
from spade_keras.registry import TRANSFER_NETWORKS

FILTERS: dict[str, tuple[int, ...]] = {"vgg": (24, 48, 96, 256), "resnet": (16, 32, 64, 192)}
"""Width of the stem and of every stage, by network; far more than five classes of digits need."""

IMAGENET_NETWORKS = {"vgg": "VGG16", "resnet": "ResNet50"}
"""The counterpart of a small network in `keras.applications`."""

_AFTER_HEAD = (keras.layers.Activation, keras.layers.Softmax)


def make_network(
    kind: str,
    input_shape: Sequence[int],
    filters: Sequence[int] | None = None,
    *,
    classes: int = 5,
) -> keras.Model:
    """Makes a small classifier; every stage after the stem halves the picture.

    Args:
        kind: A name in `TRANSFER_NETWORKS`.
        input_shape: `(height, width, channels)`.
        filters: Width of the stem and of every stage; None: those of `FILTERS`.
        classes: Number of classes.

    Output shape:
        `(batch, classes)`: probabilities.

    Example:
        >>> make_network("vgg", (16, 16, 1), [4, 8]).output_shape
        (None, 5)
    """
    stage, head = TRANSFER_NETWORKS[kind], {"activation": "softmax", "name": "head"}
    return _classifier(input_shape, classes, filters or FILTERS[kind], stage, head)


def convolutional(
    input_shape: Sequence[int],
    classes: int,
    *,
    filters: Sequence[int] = (32, 64, 64),
    kernel_size: int = 3,
) -> keras.Model:
    """Makes the network "vgg" for kernels of any size, with logits; `filters` as in `make_network`.

    Example:
        >>> convolutional((16, 16, 1), 10, filters=[8, 8]).output_shape
        (None, 10)
    """
    stage = functools.partial(pooled, kernel_size=kernel_size)
    return _classifier(input_shape, classes, filters, stage, {"name": "logits"}, kernel_size)


def _classifier(
    input_shape: Sequence[int],
    classes: int,
    filters: Sequence[int],
    stage: Callable[[Any, int, str], Any],
    head: dict[str, Any],
    kernel_size: int = 3,
) -> keras.Model:
    height, width = map(int, input_shape[:2])
    most = min(height, width).bit_length()
    if len(filters) > most:
        raise ValueError(
            f"`filters` must have at most {most} widths for pictures of {height} x {width} pixels, "
            f"which all but the first halve. Received: filters={list(filters)}"
        )
    x = inputs = keras.Input(tuple(input_shape))
    x = _convolution(x, filters[0], "stem", kernel_size=kernel_size)
    for index, width in enumerate(filters[1:]):
        x = stage(x, width, f"block{index}")
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, keras.layers.Dense(classes, **head)(x))


def make_network_of_size(
    kind: str, input_shape: Sequence[int], parameters: int, *, classes: int = 5
) -> keras.Model:
    """Makes the narrowest network of a kind, in its proportions, with at least `parameters`."""

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


def load_classifier(path: str | Path, sample: np.ndarray) -> tuple[keras.Model, tuple[int, ...]]:
    """Loads `network.path`, checks that it takes a sample, returns it and its output's shape."""
    try:
        network = load_model(Path(path).expanduser())
    except ValueError as error:
        raise SpadeError(f"`network.path` cannot be read. {error}") from error
    try:
        return network, tuple(network(sample, training=False).shape)
    except Exception as error:
        raise SpadeError(
            f"`network.path` must hold a classifier that takes the data, of shape "
            f"{sample.shape[1:]} a sample. Received: network.path={path}, which fails: {error}"
        ) from error


def load_network(path: str | Path, sample: np.ndarray, classes: int) -> keras.Model:
    """Loads a classifier, and reports what is wrong with it before anything is trained.

    Args:
        path: The `.keras` file; `network.path` of a recipe.
        sample: One input, with its batch axis.
        classes: Number of target classes.
    """
    model, _ = load_classifier(path, sample)
    groups = find_rank_groups(replace_head(model, classes))
    if all(group.fixed is not None for group in groups[:-1]):
        reasons = {group.name: group.fixed for group in groups[:-1]}
        raise SpadeError(
            "`network.path` must hold a network with a convolution or dense layer, beside its "
            f"head, that can be decomposed. Received: network.path={path}, with {reasons}"
        )
    return model


def replace_head(model: keras.Model, classes: int, *, seed: int = 0) -> keras.Model:
    """Returns a copy whose last dense layer is a new one with a softmax.

    Args:
        model: A Functional or Sequential model with one input and one output.
        classes: Number of classes.
        seed: Seed of the new weights.

    Raises:
        SpadeError: If the output is not made by a dense layer, followed at most by an activation.
    """
    copy = copy_model(model)
    head = _find_head(copy)
    new = keras.layers.Dense(
        classes,
        activation="softmax",
        kernel_initializer=keras.initializers.GlorotUniform(seed),
        name=head.name,
    )
    return keras.Model(copy.inputs[0], new(head.input), name=model.name)


def _find_head(model: keras.Model) -> keras.layers.Dense:
    """The dense layer at the end of a model."""
    if len(model.inputs) == 1 and len(model.outputs) == 1:
        for layer in reversed(model.layers):
            if isinstance(layer, keras.layers.Dense) and len(layer.output.shape) == 2:
                return layer
            if not isinstance(layer, _AFTER_HEAD):
                break
    raise SpadeError(
        "A network that is transferred must have one input and end with a `Dense` layer that makes "
        "one score per class, which is replaced. Received: "
        f"{model.name!r} with {len(model.inputs)} inputs and {len(model.outputs)} outputs, whose "
        f"last layer is a {type(model.layers[-1]).__name__}"
    )


def _convolution(
    x: Any, width: int, name: str, *, kernel_size: int = 3, strides: int = 1, relu: bool = True
) -> Any:
    options: dict[str, Any] = {"padding": "same", "use_bias": False, "name": f"{name}_conv"}
    layer = keras.layers.Conv2D(width, kernel_size, strides=strides, **options)
    # Its statistics must follow within the few steps that few samples give.
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(layer(x))
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def pooled(x: Any, width: int, name: str, kernel_size: int = 3) -> Any:
    """A stage of "vgg": pooling and a convolution."""
    x = keras.layers.MaxPooling2D(name=f"{name}_pool")(x)
    return _convolution(x, width, name, kernel_size=kernel_size)


def residual(x: Any, width: int, name: str) -> Any:
    """A stage of "resnet": two convolutions beside a strided skip."""
    inner = _convolution(x, width, f"{name}_first", strides=2)
    inner = _convolution(inner, width, f"{name}_second", relu=False)
    passed = keras.layers.Conv2D(width, 1, strides=2, use_bias=False, name=f"{name}_skip")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=name)([inner, passed]))
