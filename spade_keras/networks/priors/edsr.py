"""The residual-block denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from spade_keras.networks.priors.filters import check_filters


def edsr(
    filters: Sequence[int] = (64,) * 13,
    *,
    trunk: int | None = None,
    channels: int = 2,
    kernel_size: int = 3,
    activation: str = "relu",
    residual_scale: float = 1.0,
    name: str = "edsr",
) -> keras.Model:
    """D(x) = T(h + E(B_n(... B_1(h)))), h = H(x), B_i(z) = z + s C_i2(a(C_i1(z))).

    A chain of residual blocks between a head H and a tail T, with a long skip from the head
    to the convolution E that ends the chain. There is no normalization and no upsampling. The
    defaults are the published prior of 13 blocks of 64 channels.

    Args:
        filters: Width inside every residual block, between its two convolutions.
        trunk: Width that all blocks share. None: the widest of `filters`.
        channels: Channels of the image: 2 for a complex one (real, imaginary), 1 or 3 otherwise.
        kernel_size: Side of the square kernels, in pixels.
        activation: Name of the activation inside every block.
        residual_scale: Factor s of every branch; below 1 it stabilizes the training of
            wide and deep chains.
        name: Name of the model.

    Input shape:
        `(batch, height, width, channels)`, any height and width.

    Output shape:
        The same.

    Returns:
        A Functional model.

    Raises:
        ValueError: If `filters` is empty, or it or `trunk` holds anything but positive integers.

    Example:
        >>> edsr().count_params()
        999426
        >>> edsr(filters=[8, 4], trunk=16).output_shape
        (None, None, None, 2)

    Reference:
        Lim et al., "Enhanced deep residual networks for single image super-resolution", 2017.
    """
    widths = check_filters(filters)
    trunk = max(widths) if trunk is None else trunk
    if type(trunk) is not int or trunk < 1:
        raise ValueError(
            "`trunk` must be a positive integer, the width that all blocks share. "
            f"Received: trunk={trunk}"
        )

    def convolution(width: int, name: str) -> Any:
        return keras.layers.Conv2D(width, kernel_size, padding="same", name=name)

    image = keras.Input((None, None, channels), name="image")
    head = convolution(trunk, "head")(image)
    x = head
    for index, width in enumerate(widths):
        y = convolution(width, f"block_{index}_conv_0")(x)
        y = keras.layers.Activation(activation, name=f"block_{index}_{activation}")(y)
        y = convolution(trunk, f"block_{index}_conv_1")(y)
        if residual_scale != 1:
            y = keras.layers.Rescaling(residual_scale, name=f"block_{index}_scale")(y)
        x = keras.layers.Add(name=f"block_{index}")([x, y])
    x = keras.layers.Add(name="long_skip")([head, convolution(trunk, "body_end")(x)])
    return keras.Model(image, convolution(channels, "tail")(x), name=name)
