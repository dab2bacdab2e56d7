"""The plain residual denoiser."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from spade_keras.networks.priors.filters import check_filters


def dncnn(
    filters: Sequence[int] = (64,) * 6,
    *,
    channels: int = 2,
    kernel_size: int = 3,
    activation: str = "relu",
    name: str = "dncnn",
) -> keras.Model:
    """D(x) = x + C_n(a(C_{n-1}(... a(C_1(x))))): a chain of convolutions with a global skip.

    The last convolution starts at zero, so that an untrained prior is the identity.
    There is no normalization: the prior is applied many times to values of different spread.

    Args:
        filters: Width of every hidden convolution; one more follows that restores `channels`.
        channels: Channels of the image: 2 for a complex one (real, imaginary), 1 or 3 otherwise.
        kernel_size: Side of the square kernels, in pixels.
        activation: Name of the activation after every hidden convolution.
        name: Name of the model.

    Input shape:
        `(batch, height, width, channels)`, any height and width.

    Output shape:
        The same.

    Returns:
        A Functional model.

    Raises:
        ValueError: If `filters` is empty or holds anything but positive integers.

    Example:
        >>> dncnn(filters=[16, 8]).output_shape
        (None, None, None, 2)

    Reference:
        Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image
        denoising", 2017.
    """
    image = keras.Input((None, None, channels), name="image")
    x = image
    for index, width in enumerate(check_filters(filters)):
        x = keras.layers.Conv2D(width, kernel_size, padding="same", name=f"conv_{index}")(x)
        x = keras.layers.Activation(activation, name=f"{activation}_{index}")(x)
    residual = keras.layers.Conv2D(
        channels, kernel_size, padding="same", kernel_initializer="zeros", name="residual"
    )(x)
    output = keras.layers.Add(name="skip")([image, residual])
    return keras.Model(image, output, name=name)
