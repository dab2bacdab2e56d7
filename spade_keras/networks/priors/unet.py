"""The U-Net of the variational networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from spade_keras.networks.priors.filters import check_level_filters


def unet(
    filters: Sequence[int | Sequence[int]] = (18, 36, 72, 144, 288),
    *,
    channels: int = 2,
    negative_slope: float = 0.2,
    name: str = "unet",
) -> keras.Model:
    """U-Net with instance normalization, average pooling and transposed convolutions.

        d_0 = B(x),  d_{l+1} = B(pool(d_l)),  u_l = B([T(u_{l+1}), d_l]),  U(x) = C(u_0)

    B is a block of two bias-free 3x3 convolutions, each followed by instance normalization and
    a leaky ReLU; T a bias-free 2x2 transposed convolution of stride 2, followed by the same; C a
    1x1 convolution with bias. At the last level u is d. The defaults are the published prior of
    4 poolings and 18 channels.

    Args:
        filters: One entry per level, the unpooled one first: a width for all convolutions of the
            level, or five: the two on the way down, the transposed one and the two on the way up.
            The last level has the two on the way down alone.
        channels: Channels of the image: 2 for a complex one (real, imaginary), 1 or 3 otherwise.
        negative_slope: Slope of every leaky ReLU below zero.
        name: Name of the model.

    Input shape:
        `(batch, height, width, channels)`; height and width are multiples of 2^(levels - 1).
        `NormUNet` pads images of other sizes.

    Output shape:
        The same.

    Returns:
        A Functional model.

    Raises:
        ValueError: If `filters` is empty or malformed.

    Example:
        >>> unet().count_params()
        2454338
        >>> unet(filters=[(8, 6, 7, 6, 5), (12, 16)], channels=1).output_shape
        (None, None, None, 1)

    Reference:
        Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation",
        2015; Sriram et al., "End-to-end variational networks for accelerated MRI
        reconstruction", 2020.
    """
    levels = check_level_filters(filters, per_level=5, last=2)

    def normalized(x: Any, name: str) -> Any:
        x = keras.layers.GroupNormalization(
            groups=-1, epsilon=1e-5, center=False, scale=False, name=f"{name}_norm"
        )(x)
        return keras.layers.LeakyReLU(negative_slope, name=f"{name}_relu")(x)

    def block(x: Any, widths: Sequence[int], name: str) -> Any:
        for index, width in enumerate(widths):
            x = keras.layers.Conv2D(
                width, 3, padding="same", use_bias=False, name=f"{name}_conv_{index}"
            )(x)
            x = normalized(x, f"{name}_{index}")
        return x

    image = keras.Input((None, None, channels), name="image")
    x = image
    skips = []
    for index, widths in enumerate(levels):
        if index:
            skips.append(x)
            x = keras.layers.AveragePooling2D(2, name=f"pool_{index}")(x)
        x = block(x, widths[:2], f"down_{index}")
    for index in reversed(range(len(levels) - 1)):
        transposed = levels[index][2]
        x = keras.layers.Conv2DTranspose(
            transposed, 2, strides=2, use_bias=False, name=f"up_{index}"
        )(x)
        x = normalized(x, f"up_{index}")
        x = keras.layers.Concatenate(name=f"skip_{index}")([x, skips[index]])
        x = block(x, levels[index][3:], f"up_{index}")
    return keras.Model(image, keras.layers.Conv2D(channels, 1, name="output")(x), name=name)
