"""The residual U-Net denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from spade_keras.networks.priors.filters import check_level_filters


def res_unet(
    filters: Sequence[int | Sequence[int]] = (64, 128, 256, 512),
    *,
    channels: int = 3,
    condition_channels: int = 0,
    blocks: int = 2,
    activation: str = "relu",
    name: str = "res_unet",
) -> keras.Model:
    """U-Net of residual blocks, with strided and transposed convolutions and additive skips.

        x_0 = H(x),  x_{l+1} = S(B..B(x_l)),  u_l = B..B(T(u_{l+1} + x_{l+1})),  D(x) = C(u_0 + x_0)

    B(z) = z + C_2(a(C_1(z))) is a residual block; S a 2x2 convolution and T a 2x2 transposed
    convolution, both of stride 2; H and C are 3x3 convolutions. At the last level u = B..B(x).
    Nothing has a bias and nothing is normalized. The default widths are the published ones.

    Args:
        filters: One entry per level, the finest first: a width for all convolutions of the level,
            or a list: the width that all blocks of the level share, then the width inside each of
            its blocks, those on the way down first. The last level has one run of blocks alone.
        channels: Channels of the image: 3 for color, 2 for a complex one (real, imaginary).
        condition_channels: Further input channels, which describe the image and are not restored,
            such as a map of the noise level.
        blocks: Residual blocks in each run.
        activation: Name of the activation inside every block.
        name: Name of the model.

    Input shape:
        `(batch, height, width, channels + condition_channels)`; height and width are multiples of
        2^(levels - 1). `USRNet` pads images of other sizes.

    Output shape:
        `(batch, height, width, channels)`.

    Returns:
        A Functional model.

    Raises:
        ValueError: If `filters` is empty or malformed.

    Example:
        >>> model = res_unet(filters=[16, (24, 8, 8)], condition_channels=1)
        >>> model.input_shape, model.output_shape
        ((None, None, None, 4), (None, None, None, 3))

    Reference:
        Zhang, Van Gool and Timofte, "Deep unfolding network for image super-resolution", 2020.
    """
    levels = check_level_filters(filters, per_level=1 + 2 * blocks, last=1 + blocks)

    def convolution(width: int, name: str) -> Any:
        return keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)

    def run(x: Any, trunk: int, inner: Sequence[int], name: str) -> Any:
        for index, width in enumerate(inner):
            y = convolution(width, f"{name}_block_{index}_conv_0")(x)
            y = keras.layers.Activation(activation, name=f"{name}_block_{index}_{activation}")(y)
            y = convolution(trunk, f"{name}_block_{index}_conv_1")(y)
            x = keras.layers.Add(name=f"{name}_block_{index}")([x, y])
        return x

    image = keras.Input((None, None, channels + condition_channels), name="image")
    x = convolution(levels[0][0], "head")(image)
    skips = [x]
    for index, (trunk, *inner) in enumerate(levels[:-1]):
        x = run(x, trunk, inner[:blocks], f"down_{index}")
        x = keras.layers.Conv2D(
            levels[index + 1][0], 2, strides=2, use_bias=False, name=f"down_{index}"
        )(x)
        skips.append(x)
    x = run(x, levels[-1][0], levels[-1][1:], "body")
    for index in reversed(range(len(levels) - 1)):
        trunk, *inner = levels[index]
        x = keras.layers.Add(name=f"skip_{index + 1}")([x, skips[index + 1]])
        x = keras.layers.Conv2DTranspose(trunk, 2, strides=2, use_bias=False, name=f"up_{index}")(x)
        x = run(x, trunk, inner[blocks:], f"up_{index}")
    x = keras.layers.Add(name="skip_0")([x, skips[0]])
    return keras.Model(image, convolution(channels, "tail")(x), name=name)
