"""Gradients of one's own: constants, pullbacks, and the identity that carries a solve."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import backend

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(4, 4)).astype("float32")
POINT = RNG.normal(size=(4,)).astype("float32")


class Applied(keras.Model):
    """Calls a function of its weight and its input, so that gradients can be asked for."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.w = self.add_weight(name="w", shape=(4,), initializer="ones", dtype="float32")
        self.built = True

    def call(self, x, training=None):
        return self.function(self.w, x)


def weight_gradient(function, value=POINT):
    """The gradient of the sum of a function of a weight vector."""
    model = Applied(lambda w, x: function(ops.convert_to_tensor(w)) + 0 * x)
    model.w.assign(value)
    x = np.zeros((1, 4), "float32")
    loss = lambda _, outputs: ops.sum(outputs)  # noqa: E731
    return backend.loss_gradients(model, loss, x, None)[0]


def test_without_gradient_is_a_constant_in_all_that_enters():
    def function(w):
        seen = backend.without_gradient(lambda x: x * w, ops.convert_to_tensor(POINT))
        passed = backend.without_gradient(lambda x: (x * x, x), w)
        return w * w + seen + passed[0] + passed[1]

    np.testing.assert_allclose(weight_gradient(function), 2 * POINT, rtol=1e-6)


def test_without_gradient_takes_a_loop_over_weights():
    def function(w):
        def double(x):
            return ops.while_loop(lambda k, x: k < 3, lambda k, x: (k + 1, w * x), (0, x))[1]

        return w + backend.without_gradient(double, w)

    np.testing.assert_allclose(weight_gradient(function), np.ones(4), rtol=1e-6)


def test_vjp_is_the_transposed_derivative():
    matrix = ops.convert_to_tensor(MATRIX)
    value, pullback = backend.vjp(
        lambda x: ops.tanh(ops.matmul(matrix, x)), ops.convert_to_tensor(POINT)
    )
    slope = 1 - np.tanh(MATRIX @ POINT) ** 2
    np.testing.assert_allclose(ops.convert_to_numpy(value), np.tanh(MATRIX @ POINT), rtol=1e-5)
    for u in np.eye(4, dtype="float32"):
        found = ops.convert_to_numpy(pullback(ops.convert_to_tensor(u)))
        np.testing.assert_allclose(found, MATRIX.T @ (slope * u), rtol=1e-4, atol=1e-6)


def test_vjp_of_a_constant_is_zero():
    _, pullback = backend.vjp(lambda x: ops.ones_like(x), ops.convert_to_tensor(POINT))
    assert not ops.convert_to_numpy(pullback(ops.ones(4))).any()


def test_an_attached_gradient_replaces_that_of_the_value_and_may_loop_over_a_pullback():
    """Three applications of a transposed matrix that depends on the weights themselves."""
    matrix = ops.convert_to_tensor(MATRIX)

    def function(w):
        def backward(u):
            _, pullback = backend.vjp(lambda x: ops.matmul(matrix, x) * w, w)
            return ops.while_loop(
                lambda k, u: k < 3, lambda k, u: (k + 1, pullback(u)), (ops.zeros((), "int32"), u)
            )[1]

        return backend.attach_gradient(7 * w, w * w, backward)

    scaled = np.diag(POINT) @ MATRIX
    expected = 2 * POINT * (np.linalg.matrix_power(scaled.T, 3) @ np.ones(4))
    np.testing.assert_allclose(weight_gradient(function), expected, rtol=1e-4)


def test_an_attached_gradient_leaves_the_value():
    value = ops.convert_to_tensor(POINT)
    found = backend.attach_gradient(value, ops.zeros(4), lambda u: u)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), POINT)


@pytest.mark.parametrize("jit", [False, True])
def test_it_trains(jit):
    def function(w, x):
        start = backend.without_gradient(lambda v: v * w, x)
        return backend.attach_gradient(start, w * x, lambda u: 2 * u)

    if jit and keras.backend.backend() == "torch":
        pytest.skip("compiling needs a C++ compiler")
    model = Applied(function)
    model.compile(keras.optimizers.SGD(0.5), lambda _, y: ops.sum(y, -1), jit_compile=jit)
    model.fit(np.ones((1, 4), "float32"), np.zeros((1, 4)), verbose=0)
    np.testing.assert_allclose(ops.convert_to_numpy(model.w), np.zeros(4), atol=1e-6)
