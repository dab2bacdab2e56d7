"""The operators that sigpy has, too."""

import numpy as np
import pytest
from keras import ops

from spade_keras.operators import Blur, CartesianMRI, SingleCoilMRI

linop = pytest.importorskip("sigpy").linop
sense = pytest.importorskip("sigpy.mri.linop")

pytestmark = pytest.mark.once


def to_complex(x):
    x = ops.convert_to_numpy(x)
    return x[..., 0] + 1j * x[..., 1]


def assert_near(found, expected):
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("shape", [(1, 12, 10, 2), (1, 9, 7, 2)])
def test_multicoil(shape):
    operator = CartesianMRI()
    parameters = operator.example_parameters(shape)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    maps = to_complex(parameters["sensitivities"])[0]
    weights = np.broadcast_to(parameters["mask"], maps.shape)
    theirs = sense.Sense(maps, weights=weights)
    y = operator.forward(x, **parameters)
    assert_near(to_complex(y)[0], theirs(to_complex(x)[0]))
    assert_near(to_complex(operator.adjoint(y, **parameters))[0], theirs.H(to_complex(y)[0]))
    assert_near(to_complex(operator.normal(x, **parameters))[0], theirs.N(to_complex(x)[0]))


@pytest.mark.parametrize("shape", [(1, 12, 10, 2), (1, 9, 7, 2)])
def test_single_coil(shape):
    operator = SingleCoilMRI()
    mask = operator.example_parameters(shape)["mask"]
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    theirs = linop.Multiply(shape[1:3], mask[0]) * linop.FFT(shape[1:3])
    assert_near(to_complex(operator.forward(x, mask=mask))[0], theirs(to_complex(x)[0]))


def test_valid_blur():
    x = np.random.default_rng(0).standard_normal((1, 11, 9, 1)).astype("float32")
    kernel = np.random.default_rng(1).standard_normal((1, 3, 5)).astype("float32")
    theirs = linop.ConvolveData((11, 9), kernel[0], mode="valid")
    operator = Blur("valid")
    y = operator.forward(x, kernel=kernel)
    assert_near(ops.convert_to_numpy(y)[0, ..., 0], theirs(x[0, ..., 0]))
    found = ops.convert_to_numpy(operator.adjoint(y, kernel=kernel))[0, ..., 0]
    assert_near(found, theirs.H(ops.convert_to_numpy(y)[0, ..., 0]))
