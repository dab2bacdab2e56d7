"""Padding of images to the sizes that a prior with down-sampling takes."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops


def size_multiple(prior: keras.Model) -> int:
    """Returns the number that the height and width of a prior's input must be multiples of.

    It is the product of the strides of all its poolings and convolutions, which suits networks
    that go down once and up again; a prior with parallel strided branches needs less.

    Args:
        prior: A Functional model.

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
    """Pads images with zeros on all sides, the odd row and column below and to the right.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        multiple: What height and width become multiples of.
    """
    if multiple == 1:
        return x
    amounts = [-size % multiple for size in ops.shape(x)[1:3]]
    return ops.pad(x, [(0, 0), *((n // 2, n - n // 2) for n in amounts), (0, 0)])


def crop_around(x: Any, height: Any, width: Any, multiple: int) -> Any:
    """Undoes `pad_around` of images of that height and width."""
    top, left = (-height % multiple) // 2, (-width % multiple) // 2
    return x[:, top : top + height, left : left + width]


def pad_below(x: Any, multiple: int) -> Any:
    """Repeats the last row and column of images until their sizes are multiples.

    Args:
        x: Tensor of shape `(batch, height, width, channels)`.
        multiple: What height and width become multiples of.
    """
    if multiple == 1:
        return x
    rows, columns = (-size % multiple for size in ops.shape(x)[1:3])
    x = ops.concatenate([x, ops.repeat(x[:, -1:], rows, axis=1)], axis=1)
    return ops.concatenate([x, ops.repeat(x[:, :, -1:], columns, axis=2)], axis=2)
