"""Fourier transforms of TensorFlow tensors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def to_complex(x: Any) -> Any:
    """Copies: a bitcast has no gradient, and XLA has none for complex types."""
    return tf.complex(x[..., 0], x[..., 1])


def to_real(z: Any) -> Any:
    """Stacks both parts."""
    # Stacked along the first axis and transposed: a last axis of two is copied value by value.
    parts = tf.stack([tf.reshape(part, (-1,)) for part in (tf.math.real(z), tf.math.imag(z))])
    pairs = tf.reshape(tf.transpose(parts), tf.concat([tf.shape(z), [2]], axis=0))
    pairs.set_shape([*z.shape, 2])
    return pairs


def conjugate(z: Any) -> Any:
    """Conjugates."""
    return tf.math.conj(z)


def fft(z: Any, axes: int, inverse: bool) -> Any:
    """Transforms the last one or two axes."""
    forward, backward = {
        1: (tf.signal.fft, tf.signal.ifft),
        2: (tf.signal.fft2d, tf.signal.ifft2d),
    }[axes]
    return backward(z) if inverse else forward(z)
