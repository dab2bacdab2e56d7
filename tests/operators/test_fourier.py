"""The centered transform against NumPy, odd and even sizes, static and dynamic shapes."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.backend import fft, to_complex, to_real
from spade_keras.operators.fourier import FFT_CONVENTIONS

SIZES = [(8, 6), (7, 9), (5, 4), (1, 3)]


def complex_noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def centered(x, inverse=False):
    """The centered unitary transform of a tensor `(..., 2)`, from its factors."""
    rule, size = FFT_CONVENTIONS["fastmri"], ops.shape(x)[-3:-1]
    z = to_complex(x)
    if inverse:
        return to_real(rule.demodulate(fft(z * rule.adjoint_weights(1.0, *size), inverse=True)))
    return to_real(fft(rule.modulate(z)) * rule.forward_weights(1.0, *size))


def transform(z, inverse=False):
    x = np.stack([z.real, z.imag], axis=-1).astype("float32")
    y = ops.convert_to_numpy(centered(ops.convert_to_tensor(x), inverse))
    return y[..., 0] + 1j * y[..., 1]


@pytest.mark.parametrize("size", SIZES)
def test_equals_numpy(size):
    z = complex_noise((2, *size))
    axes = (-2, -1)
    shifted = np.fft.fft2(np.fft.ifftshift(z, axes=axes), norm="ortho")
    expected = np.fft.fftshift(shifted, axes=axes)
    np.testing.assert_allclose(transform(z), expected, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_inverse_undoes_forward(size):
    z = complex_noise((3, *size))
    np.testing.assert_allclose(transform(transform(z), inverse=True), z, atol=3e-6)


def test_unitary():
    z = complex_noise((9, 14))
    assert np.linalg.norm(transform(z)) == pytest.approx(np.linalg.norm(z), rel=1e-6)


def test_sizes_unknown_when_built():
    class Transform(keras.layers.Layer):
        def call(self, x):
            return centered(x)

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, Transform()(inputs))
    for size in ((7, 5), (4, 6)):
        z = complex_noise((2, *size))
        out = model.predict(np.stack([z.real, z.imag], -1).astype("float32"), verbose=0)
        np.testing.assert_allclose(out[..., 0] + 1j * out[..., 1], transform(z), atol=1e-5)
