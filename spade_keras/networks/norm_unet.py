"""Priors behind normalization and padding: images of any scale and size."""

import math
from typing import Any

import keras
from keras import ops

from spade_keras.errors import require
from spade_keras.operators.linear_operator import SavedBySettings

# Keeps the gradient at a constant image finite; far below the variance of raw k-space data, with
# values around 1e-5.
_SMALLEST_VARIANCE = 1e-24


@keras.saving.register_keras_serializable(package="spade_keras")
class NormUNet(SavedBySettings, keras.layers.Layer):
    """N(x) = s D((x - m) / s) + m, with mean m and standard deviation s of every image channel.

    The prior D, a Functional model from images to images of the same shape, thus sees images of
    unit spread at any scale, and N(a x + b) = a N(x) + b for every a > 0 and b, which may differ
    between samples and channels (not for a < 0, which changes the sign of D's input). The
    normalized image is padded with zeros, its mean, to a size that D takes, and cropped after.

    Input shape and output shape:
        `(batch, height, width, channels)`, any height and width; float32.

    Example:
        >>> import numpy as np
        >>> from spade_keras.networks import priors
        >>> layer = NormUNet(priors.unet(filters=[4, 8]))
        >>> tuple(layer(np.ones((1, 7, 9, 2), "float32")).shape)
        (1, 7, 9, 2)

    Reference:
        Sriram et al., "End-to-end variational networks for accelerated MRI reconstruction", 2020.
    """

    settings = ("prior",)

    def __init__(self, prior: keras.Model, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"  # 16 bits are too few for a mean over many pixels
        super().__init__(**kwargs)
        self.prior = prior
        self.multiple = size_multiple(prior)
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Returns N(x)."""
        height, width = ops.shape(x)[1:3]
        mean = ops.mean(x, axis=(1, 2), keepdims=True)
        centered = x - mean
        # The published networks divide by the number of pixels less one.
        degrees = ops.cast(ops.maximum(height * width - 1, 1), "float32")
        variance = ops.sum(centered * centered, axis=(1, 2), keepdims=True) / degrees
        deviation = ops.sqrt(variance + _SMALLEST_VARIANCE)
        y = call_padded(self.prior, centered / deviation, self.multiple, training)
        return y * deviation + mean


def size_multiple(prior: keras.Model) -> int:
    """Returns the number that the height and width of a prior's input must be multiples of.

    It is the product of the strides of all its poolings and convolutions: exact for networks that
    go down once and up again; a prior with parallel strided branches needs less.
    """
    require(isinstance(prior, keras.Model), "`prior` must be a Functional model.", prior=prior)
    upsampling = (keras.layers.Conv2DTranspose, keras.layers.UpSampling2D)

    def stride(layer: keras.layers.Layer) -> int:
        if isinstance(layer, keras.Model):
            return size_multiple(layer)
        strides = 1 if isinstance(layer, upsampling) else getattr(layer, "strides", 1)
        return strides if isinstance(strides, int) else max(strides)

    return math.prod(stride(layer) for layer in prior.layers)


def padded_shape(
    prior: keras.Model, batch: int | None, height: int | None, width: int | None
) -> tuple[int | None, ...]:
    """Returns the shape on which a prior is called for images of a size."""
    multiple = size_multiple(prior)
    sizes = (None if size is None else size + -size % multiple for size in (height, width))
    return (batch, *sizes, prior.input_shape[-1])


def call_padded(prior: keras.Model, x: Any, multiple: int, training: bool | None) -> Any:
    """Calls a prior on images padded with zeros to multiples, and crops its output, in float32.

    The odd row and column are below and to the right.
    """
    if multiple == 1:
        return ops.cast(prior(x, training=training), "float32")
    height, width = ops.shape(x)[1:3]
    rows, columns = -height % multiple, -width % multiple
    top, left = rows // 2, columns // 2
    x = ops.pad(x, [(0, 0), (top, rows - top), (left, columns - left), (0, 0)])
    y = ops.cast(prior(x, training=training), "float32")
    return y[:, top : top + height, left : left + width]


def pad_below(x: Any, multiple: int) -> Any:
    """Repeats the last row and column of images until their sizes are multiples."""
    if multiple == 1:
        return x
    rows, columns = (-size % multiple for size in ops.shape(x)[1:3])
    x = ops.concatenate([x, ops.repeat(x[:, -1:], rows, axis=1)], axis=1)
    return ops.concatenate([x, ops.repeat(x[:, :, -1:], columns, axis=2)], axis=2)
