"""Classifiers that a recipe can name, as Functional models with per-layer filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras


def convolutional(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    filters: Sequence[int] = (32, 64, 64),
    kernel_size: int = 3,
) -> keras.Model:
    """Convolutions with batch normalization, each but the last followed by pooling; then logits.

    Args:
        input_shape: `(height, width, channels)`.
        classes: Number of classes.
        filters: Width of every convolution.
        kernel_size: Side of the square kernels, in pixels.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, classes)`: logits.

    Returns:
        A Functional model.

    Raises:
        ValueError: If the image is too small for so many poolings.

    Example:
        >>> convolutional((16, 16, 1), 10, filters=[8, 8]).output_shape
        (None, 10)
    """
    if min(input_shape[:2]) < 2 ** (len(filters) - 1):
        raise ValueError(
            f"`filters` must have at most {min(input_shape[:2]).bit_length()} widths for images of "
            f"{input_shape[0]} x {input_shape[1]} pixels, since all but the last convolution halve "
            f"them. Received: filters={list(filters)}"
        )
    image = keras.Input(input_shape, name="image")
    x = image
    for index, width in enumerate(filters):
        if index:
            x = keras.layers.MaxPooling2D(name=f"pool_{index - 1}")(x)
        x = keras.layers.Conv2D(
            width, kernel_size, padding="same", use_bias=False, name=f"conv_{index}"
        )(x)
        x = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{index}")(x)
        x = keras.layers.Activation("relu", name=f"relu_{index}")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    logits = keras.layers.Dense(classes, name="logits")(x)
    return keras.Model(image, logits, name="classifier")


CLASSIFIERS: dict[str, Callable[..., keras.Model]] = {"convolutional": convolutional}
