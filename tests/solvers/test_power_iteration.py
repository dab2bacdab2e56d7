"""The largest eigenvalue against NumPy's, sample by sample."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.solvers import power_iteration


def matrices(batch=3, size=6, seed=0):
    factors = np.random.default_rng(seed).standard_normal((batch, size, size))
    return (factors @ np.swapaxes(factors, 1, 2)).astype("float32")


def apply(b):
    return lambda v: ops.einsum("bij,bj->bi", ops.convert_to_tensor(b), v)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_sample_has_its_own_eigenvalue(seed):
    b = matrices(seed=seed)
    start = np.random.default_rng(9).standard_normal(b.shape[:2])
    found = ops.convert_to_numpy(power_iteration(apply(b), start, iterations=1000))
    np.testing.assert_allclose(found, np.linalg.eigvalsh(b)[:, -1], rtol=1e-3)


def test_a_zero_map_has_eigenvalue_zero():
    found = power_iteration(lambda v: 0.0 * v, np.ones((2, 3, 1)))
    np.testing.assert_array_equal(ops.convert_to_numpy(found), [0, 0])


def test_few_iterations_stay_below_the_largest_eigenvalue():
    b = matrices()
    start = np.random.default_rng(9).standard_normal(b.shape[:2])
    largest = np.linalg.eigvalsh(b)[:, -1]
    early = ops.convert_to_numpy(power_iteration(apply(b), start, iterations=2, tolerance=0.0))
    assert np.all(early < largest)
    assert np.all(early > 0.2 * largest)


def test_inside_a_model():
    class Largest(keras.layers.Layer):
        def call(self, x):
            return power_iteration(lambda v: x * x * v, ops.ones_like(x))

        def compute_output_shape(self, input_shape):
            return input_shape[:1]

    inputs = keras.Input((None,))
    model = keras.Model(inputs, Largest()(inputs))
    x = np.array([[1, -2, 0.5], [0.1, 0.3, -1.5]], "float32")
    np.testing.assert_allclose(model.predict(x, verbose=0), [4, 2.25], rtol=1e-4)


@pytest.mark.parametrize("arguments", [{"iterations": 0}, {"tolerance": -1.0}])
def test_bad_arguments_are_named(arguments):
    [(name, value)] = arguments.items()
    with pytest.raises(ValueError, match=f"Received: {name}={value}"):
        power_iteration(lambda v: v, np.ones((1, 2)), **arguments)
