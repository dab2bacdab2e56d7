"""Denoisers as Functional models with per-layer filters."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from spade_keras.errors import require
from spade_keras.registry import PRIORS

__all__ = ["PRIORS", "dncnn", "edsr", "res_unet", "unet"]


def dncnn(
    filters: Sequence[int] = (64,) * 6,
    *,
    channels: int = 2,
    kernel_size: int = 3,
    activation: str = "relu",
    name: str = "dncnn",
) -> keras.Model:
    """D(x) = x + C_n(a(C_{n-1}(... a(C_1(x))))): a chain of convolutions with a global skip.

    The last convolution starts at zero, so that an untrained prior is the identity. There is no
    normalization: the prior is applied many times to values of different spread.

    `filters` are the widths of the hidden convolutions; one more restores `channels`, 2 for a
    complex image (real, imaginary). `activation` follows every hidden convolution.

    Input shape and output shape:
        `(batch, height, width, channels)`, any height and width.

    Example:
        >>> dncnn(filters=[16, 8]).output_shape
        (None, None, None, 2)

    Reference:
        Zhang et al., "Beyond a Gaussian denoiser: residual learning of deep CNN for image
        denoising", 2017.
    """
    image = keras.Input((None, None, channels), name="image")
    x = image
    for index, width in enumerate(_checked(filters)):
        x = keras.layers.Conv2D(width, kernel_size, padding="same", name=f"conv_{index}")(x)
        x = keras.layers.Activation(activation, name=f"{activation}_{index}")(x)
    residual = keras.layers.Conv2D(
        channels, kernel_size, padding="same", kernel_initializer="zeros", name="residual"
    )(x)
    output = keras.layers.Add(name="skip")([image, residual])
    return keras.Model(image, output, name=name)


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

    `filters` are the widths inside the blocks, between their two convolutions; `trunk` is the one
    that all blocks share, by default the widest of them. `residual_scale` is the factor s of every
    branch; below 1 it stabilizes the training of wide and deep chains. Shapes are those of `dncnn`.

    Example:
        >>> edsr().count_params()
        999426

    Reference:
        Lim et al., "Enhanced deep residual networks for single image super-resolution", 2017.
    """
    widths = _checked(filters)
    trunk = max(widths) if trunk is None else trunk
    rule = "`trunk` must be a positive integer, the width that all blocks share."
    require(_positive([trunk]), rule, trunk=trunk)

    def convolution(width: int, name: str) -> keras.layers.Layer:
        return keras.layers.Conv2D(width, kernel_size, padding="same", name=name)

    image = keras.Input((None, None, channels), name="image")
    head = convolution(trunk, "head")(image)
    x = head
    for index, width in enumerate(widths):
        x = _residual(x, convolution, (width, trunk), activation, f"block_{index}", residual_scale)
    x = keras.layers.Add(name="long_skip")([head, convolution(trunk, "body_end")(x)])
    return keras.Model(image, convolution(channels, "tail")(x), name=name)


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

    `filters` has one entry per level, the unpooled one first: a width for all convolutions of the
    level, or five: the two on the way down, the transposed one and the two on the way up. The last
    level has only the two on the way down. Shapes are those of `dncnn`, but height and width are
    multiples of 2^(levels - 1); `NormUNet` pads images of other sizes.

    Example:
        >>> unet(filters=[(8, 6, 7, 6, 5), (12, 16)], channels=1).output_shape
        (None, None, None, 1)

    Reference:
        Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation",
        2015; Sriram et al., "End-to-end variational networks for accelerated MRI
        reconstruction", 2020.
    """
    levels = _checked_levels(filters, per_level=5, last=2)

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
        width = levels[index][2]
        x = keras.layers.Conv2DTranspose(width, 2, strides=2, use_bias=False, name=f"up_{index}")(x)
        x = normalized(x, f"up_{index}")
        x = keras.layers.Concatenate(name=f"skip_{index}")([x, skips[index]])
        x = block(x, levels[index][3:], f"up_{index}")
    return keras.Model(image, keras.layers.Conv2D(channels, 1, name="output")(x), name=name)


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

    `filters` has one entry per level, the finest first: a width for all convolutions of the level,
    or a list: the width that all blocks of the level share, then the width inside each of its
    blocks, those on the way down first. The last level has only one run of blocks.
    `condition_channels` describe the image and are not restored, such as a map of the noise level.

    Input shape:
        `(batch, height, width, channels + condition_channels)`; height and width are multiples of
        2^(levels - 1). `USRNet` pads images of other sizes.

    Output shape:
        `(batch, height, width, channels)`.

    Example:
        >>> model = res_unet(filters=[16, (24, 8, 8)], condition_channels=1)
        >>> model.input_shape, model.output_shape
        ((None, None, None, 4), (None, None, None, 3))

    Reference:
        Zhang, Van Gool and Timofte, "Deep unfolding network for image super-resolution", 2020.
    """
    levels = _checked_levels(filters, per_level=1 + 2 * blocks, last=1 + blocks)

    def convolution(width: int, name: str) -> keras.layers.Layer:
        return keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=name)

    def run(x: Any, trunk: int, inner: Sequence[int], name: str) -> Any:
        for index, width in enumerate(inner):
            x = _residual(x, convolution, (width, trunk), activation, f"{name}_block_{index}")
        return x

    image = keras.Input((None, None, channels + condition_channels), name="image")
    x = convolution(levels[0][0], "head")(image)
    skips = [x]
    for index, (trunk, *inner) in enumerate(levels[:-1]):
        x = run(x, trunk, inner[:blocks], f"down_{index}")
        width = levels[index + 1][0]
        x = keras.layers.Conv2D(width, 2, strides=2, use_bias=False, name=f"down_{index}")(x)
        skips.append(x)
    x = run(x, levels[-1][0], levels[-1][1:], "body")
    for index in reversed(range(len(levels) - 1)):
        trunk, *inner = levels[index]
        x = keras.layers.Add(name=f"skip_{index + 1}")([x, skips[index + 1]])
        x = keras.layers.Conv2DTranspose(trunk, 2, strides=2, use_bias=False, name=f"up_{index}")(x)
        x = run(x, trunk, inner[blocks:], f"up_{index}")
    x = keras.layers.Add(name="skip_0")([x, skips[0]])
    return keras.Model(image, convolution(channels, "tail")(x), name=name)


def _residual(
    x: Any,
    convolution: Callable[[int, str], keras.layers.Layer],
    widths: tuple[int, int],
    activation: str,
    name: str,
    scale: float = 1.0,
) -> Any:
    """X + scale C_2(a(C_1(x)))."""
    y = convolution(widths[0], f"{name}_conv_0")(x)
    y = keras.layers.Activation(activation, name=f"{name}_{activation}")(y)
    y = convolution(widths[1], f"{name}_conv_1")(y)
    if scale != 1:
        y = keras.layers.Rescaling(scale, name=f"{name}_scale")(y)
    return keras.layers.Add(name=name)([x, y])


def _checked(filters: Sequence[int]) -> tuple[int, ...]:
    widths = tuple(filters)
    rule = "`filters` must hold at least one width, each a positive integer, such as [32, 32]."
    require(widths and _positive(widths), rule, filters=filters)
    return widths


def _checked_levels(
    filters: Sequence[int | Sequence[int]], per_level: int, last: int
) -> list[tuple[int, ...]]:
    """The widths of the convolutions of every level of a U-shaped prior."""
    counts = [per_level] * (len(filters) - 1) + [last]
    levels = [
        tuple(entry) if isinstance(entry, Sequence) else (entry,) * count
        for entry, count in zip(filters, counts, strict=False)
    ]
    rule = (
        "`filters` must hold one entry per level, at least one, each a positive integer, such as "
        f"[16, 32, 64], or a list of {per_level} of them, in the last level of {last}."
    )
    fits = [len(widths) for widths in levels] == counts
    require(fits and all(_positive(widths) for widths in levels), rule, filters=filters)
    return levels


def _positive(widths: Sequence[int]) -> bool:
    return all(type(width) is int and width >= 1 for width in widths)
