"""The centered transform against NumPy, odd and even sizes, static and dynamic shapes."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.operators.complex_pair import join, split
from spade_keras.operators.fourier import fft2c, ifft2c

SIZES = [(8, 6), (7, 9), (5, 4), (1, 3)]


def complex_noise(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


def to_pair(z):
    return ops.convert_to_tensor(z.real.astype("float32")), ops.convert_to_tensor(
        z.imag.astype("float32")
    )


def to_complex(pair):
    return ops.convert_to_numpy(pair[0]) + 1j * ops.convert_to_numpy(pair[1])


@pytest.mark.parametrize("size", SIZES)
def test_equals_numpy(size):
    z = complex_noise((2, *size))
    axes = (-2, -1)
    shifted = np.fft.fft2(np.fft.ifftshift(z, axes=axes), norm="ortho")
    expected = np.fft.fftshift(shifted, axes=axes)
    np.testing.assert_allclose(to_complex(fft2c(to_pair(z))), expected, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_inverse_undoes_forward(size):
    z = complex_noise((3, *size))
    np.testing.assert_allclose(to_complex(ifft2c(fft2c(to_pair(z)))), z, atol=3e-6)


def test_unitary():
    z = complex_noise((9, 14))
    assert np.linalg.norm(to_complex(fft2c(to_pair(z)))) == pytest.approx(
        np.linalg.norm(z), rel=1e-6
    )


def test_sizes_unknown_when_built():
    class Transform(keras.layers.Layer):
        def call(self, x):
            return join(fft2c(split(x)))

        def compute_output_shape(self, input_shape):
            return input_shape

    inputs = keras.Input((None, None, 2))
    model = keras.Model(inputs, Transform()(inputs))
    for size in ((7, 5), (4, 6)):
        z = complex_noise((2, *size))
        out = model.predict(np.stack([z.real, z.imag], -1).astype("float32"), verbose=0)
        np.testing.assert_allclose(
            out[..., 0] + 1j * out[..., 1], to_complex(fft2c(to_pair(z))), atol=1e-5
        )
