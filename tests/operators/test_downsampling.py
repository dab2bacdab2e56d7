"""USRNet's data step against a dense solve, and the sizes that are refused."""

import numpy as np
import pytest
from keras import ops

from spade_keras.operators import Downsampling


def problem(scale, shape, seed=0):
    rng = np.random.default_rng(seed)
    operator = Downsampling(scale)
    parameters = operator.example_parameters(shape, seed)
    z = rng.standard_normal(shape).astype("float32")
    y = rng.standard_normal(operator.measurement_shape(shape, {})).astype("float32")
    return operator, parameters, z, y


def dense(operator, shape, kernel):
    """The matrix of one sample with one channel."""
    size = shape[1] * shape[2]
    basis = np.eye(size, dtype="float32").reshape(size, *shape[1:3], 1)
    columns = ops.convert_to_numpy(operator.forward(basis, kernel=np.repeat(kernel, size, axis=0)))
    return columns.reshape(size, -1).T.astype("float64")


@pytest.mark.parametrize(
    ("scale", "shape"),
    [(2, (2, 8, 10, 1)), (3, (2, 9, 15, 1)), (4, (2, 12, 8, 1)), (1, (2, 7, 9, 1))],
)
@pytest.mark.parametrize("weight", [2.0, 1e-3, 1e-6])
def test_proximal_solves_the_normal_equations(scale, shape, weight):
    operator, parameters, z, y = problem(scale, shape)
    found = ops.convert_to_numpy(operator.proximal(z, y, weight, **parameters))
    for n in range(shape[0]):
        a = dense(operator, shape, parameters["kernel"][n : n + 1])
        left = a.T @ a + weight * np.eye(a.shape[1])
        right = a.T @ y[n].ravel() + weight * z[n].ravel()
        expected = np.linalg.solve(left, right)
        assert np.linalg.norm(found[n].ravel() - expected) <= 2e-4 * np.linalg.norm(expected)


def test_proximal_takes_a_weight_per_sample_and_several_channels():
    operator, parameters, z, y = problem(2, (2, 8, 10, 3))
    weights = np.array([0.1, 3.0], "float32").reshape(2, 1, 1, 1)
    together = ops.convert_to_numpy(operator.proximal(z, y, weights, **parameters))
    for n, weight in enumerate((0.1, 3.0)):
        for channel in range(3):
            alone = operator.proximal(
                z[n : n + 1, ..., channel : channel + 1],
                y[n : n + 1, ..., channel : channel + 1],
                weight,
                kernel=parameters["kernel"][n : n + 1],
            )
            expected = ops.convert_to_numpy(alone)[0, ..., 0]
            np.testing.assert_allclose(together[n, ..., channel], expected, atol=2e-5)


def test_proximal_has_no_gradient_left():
    operator, parameters, z, y = problem(3, (2, 9, 15, 3))
    x = operator.proximal(z, y, 0.3, **parameters)
    data = operator.adjoint(operator.forward(x, **parameters) - y, **parameters)
    pull = 0.3 * (x - z)
    rest = ops.convert_to_numpy(data + pull)
    assert np.linalg.norm(rest) <= 1e-5 * np.linalg.norm(ops.convert_to_numpy(pull))


def test_an_impulse_stays_at_the_upper_left_pixel():
    x = np.zeros((1, 6, 6, 1), "float32")
    x[0, 2, 4, 0] = 1
    kernel = np.zeros((1, 3, 3), "float32")
    kernel[0, 1, 1] = 1
    y = ops.convert_to_numpy(Downsampling(2).forward(x, kernel=kernel))[0, ..., 0]
    expected = np.zeros((3, 3))
    expected[1, 2] = 1
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_even_kernels_have_their_origin_at_half_their_size():
    x = np.zeros((1, 8, 8, 1), "float32")
    x[0, 4, 4, 0] = 1
    kernel = np.zeros((1, 4, 4), "float32")
    kernel[0, 0, 2] = 1  # two rows above the origin
    y = ops.convert_to_numpy(Downsampling(2).forward(x, kernel=kernel))[0, ..., 0]
    assert np.unravel_index(y.argmax(), y.shape) == (1, 2)


@pytest.mark.parametrize("scale", [0, -2, 1.5, True])
def test_bad_scales_are_named(scale):
    with pytest.raises(ValueError, match=f"Received: scale={scale}"):
        Downsampling(scale)


def test_sizes_must_be_multiples_of_the_scale():
    operator = Downsampling(4)
    kernel = np.ones((1, 3, 3), "float32")
    with pytest.raises(ValueError, match=r"multiple of the scale, 4. Crop it to 8.*width=10"):
        operator.forward(np.ones((1, 8, 10, 1), "float32"), kernel=kernel)
    with pytest.raises(ValueError, match="height=9"):
        operator.proximal(np.ones((1, 9, 8, 1)), np.ones((1, 2, 2, 1)), 1.0, kernel=kernel)


def test_kernels_larger_than_the_image_are_refused():
    with pytest.raises(ValueError, match="no larger than the image"):
        Downsampling(2).forward(np.ones((1, 4, 8, 1)), kernel=np.ones((1, 5, 5), "float32"))
