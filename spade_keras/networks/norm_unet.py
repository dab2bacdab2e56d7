"""Priors behind normalization and padding: images of any scale and size."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from spade_keras.operators.linear_operator import restore_objects

# Keeps the gradient at a constant image finite; far below the variance of raw k-space data, with
# values around 1e-5.
_SMALLEST_VARIANCE = 1e-24


@keras.saving.register_keras_serializable(package="spade_keras")
class NormUNet(keras.layers.Layer):
    """N(x) = s D((x - m) / s) + m, with mean m and standard deviation s of every image channel.

    The prior D thus sees images of unit spread at any scale, and N(a x + b) = a N(x) + b for every
    a > 0 and b, which may differ between samples and channels (not for a < 0, which changes the
    sign of D's input).

    The normalized image is padded with zeros, its mean, to a size that D takes, and cropped after.

    Args:
        prior: Functional model D from images to images of the same shape, such as `priors.unet`.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name`.

    Input shape:
        `(batch, height, width, channels)`, any height and width.

    Output shape:
        The same, float32.

    Example:
        >>> import numpy as np
        >>> from spade_keras.networks import priors
        >>> layer = NormUNet(priors.unet(filters=[4, 8]))
        >>> tuple(layer(np.ones((1, 7, 9, 2), "float32")).shape)
        (1, 7, 9, 2)

    Reference:
        Sriram et al., "End-to-end variational networks for accelerated MRI reconstruction", 2020.
    """

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
        y = self.prior(pad_around(centered / deviation, self.multiple), training=training)
        y = crop_around(ops.cast(y, "float32"), height, width, self.multiple)
        return y * deviation + mean

    def prior_input_shape(
        self, batch: int | None, height: int | None, width: int | None
    ) -> tuple[int | None, ...]:
        """Returns the shape on which the prior is called for images of a size."""
        sizes = (padded_size(size, self.multiple) for size in (height, width))
        return (batch, *sizes, self.prior.input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        prior = keras.saving.serialize_keras_object(self.prior)
        return {**super().get_config(), "prior": prior}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> NormUNet:
        """Makes the layer of a config, with new weights."""
        return cls(**restore_objects(config, custom_objects))


def size_multiple(prior: keras.Model) -> int:
    """Returns the number that the height and width of a prior's input must be multiples of.

    It is the product of the strides of all its poolings and convolutions: exact for networks that
    go down once and up again; a prior with parallel strided branches needs less.

    Raises:
        ValueError: If `prior` is not a Keras model.

    Example:
        >>> from spade_keras.networks import priors
        >>> size_multiple(priors.unet(filters=[4, 4, 4])), size_multiple(priors.dncnn([4]))
        (4, 1)
    """
    if not isinstance(prior, keras.Model):
        raise ValueError(f"`prior` must be a Functional model. Received: prior={prior!r}")
    return math.prod(_stride(layer) for layer in prior.layers)


def _stride(layer: keras.layers.Layer) -> int:
    if isinstance(layer, keras.Model):
        return size_multiple(layer)
    if isinstance(layer, (keras.layers.Conv2DTranspose, keras.layers.UpSampling2D)):
        return 1
    strides = getattr(layer, "strides", 1)
    return strides if isinstance(strides, int) else max(strides)


def padded_size(size: int | None, multiple: int) -> int | None:
    """Returns the smallest multiple that is not below a size; None for an unknown one."""
    return None if size is None else size + -size % multiple


def pad_around(x: Any, multiple: int) -> Any:
    """Pads images with zeros to multiples, the odd row and column below and to the right."""
    if multiple == 1:
        return x
    amounts = [-size % multiple for size in ops.shape(x)[1:3]]
    return ops.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in amounts), (0, 0)])


def crop_around(x: Any, height: Any, width: Any, multiple: int) -> Any:
    """Undoes `pad_around` for images of that height and width."""
    top, left = (-height % multiple) // 2, (-width % multiple) // 2
    return x[:, top : top + height, left : left + width]


def pad_below(x: Any, multiple: int) -> Any:
    """Repeats the last row and column of images until their sizes are multiples."""
    if multiple == 1:
        return x
    rows, columns = (-size % multiple for size in ops.shape(x)[1:3])
    x = ops.concatenate([x, ops.repeat(x[:, -1:], rows, axis=1)], axis=1)
    return ops.concatenate([x, ops.repeat(x[:, :, -1:], columns, axis=2)], axis=2)
