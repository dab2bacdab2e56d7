"""Conjugate gradients against dense solves, and their gradient against a long unroll."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import backend
from spade_keras.solvers import conjugate_gradient

RNG = np.random.default_rng(0)
FACTORS = (RNG.normal(size=(3, 6, 6)) / np.sqrt(6)).astype("float32")
NORMAL = np.swapaxes(FACTORS, 1, 2) @ FACTORS
RIGHT = RNG.normal(size=(3, 3, 2, 1)).astype("float32")
WEIGHT = 0.4
DENSE = NORMAL + WEIGHT * np.eye(6, dtype="float32")


def multiply(matrices, x):
    flat = ops.matmul(ops.convert_to_tensor(matrices), ops.reshape(x, (-1, 6, 1)))
    return ops.reshape(flat, (-1, 3, 2, 1))


def dense_solution(matrices=DENSE, right=RIGHT):
    return np.linalg.solve(matrices, right.reshape(-1, 6, 1)).reshape(right.shape)


class Regularized(keras.Model):
    """x = (A^H A + weight)^-1 (s b), whose gradients with respect to all three are tested."""

    def __init__(self, solve):
        super().__init__()
        self.solve = solve
        self.weight = self.add_weight(name="weight", shape=(), dtype="float32")
        self.scale = self.add_weight(name="scale", shape=(3, 2, 1), dtype="float32")
        self.factors = self.add_weight(name="factors", shape=(6, 6), dtype="float32")
        self.built = True
        for variable, value in zip(
            self.weights, (WEIGHT, np.ones((3, 2, 1)), np.eye(6)), strict=True
        ):
            variable.assign(value)

    def call(self, right, training=None):
        factors = ops.matmul(ops.convert_to_tensor(FACTORS), ops.convert_to_tensor(self.factors))

        def function(x):
            there = multiply(factors, x)
            return multiply(ops.swapaxes(factors, 1, 2), there) + self.weight * x

        return self.solve(function, right * self.scale)


def solve(function, right):
    return conjugate_gradient(function, right, tolerance=1e-6, max_iterations=40).x


def unrolled(function, right):
    """Gradient descent, long enough, differentiated step by step."""
    return ops.fori_loop(0, 80, lambda _, x: x + 0.4 * (right - function(x)), ops.zeros_like(right))


TARGET = RNG.normal(size=RIGHT.shape).astype("float32")


def gradients(solver):
    return backend.loss_gradients(
        Regularized(solver), lambda y, x: ops.sum(y * x, axis=(1, 2, 3)), RIGHT, TARGET
    )


def test_equals_a_dense_solve():
    found = conjugate_gradient(lambda x: multiply(DENSE, x), RIGHT, tolerance=1e-6)
    expected = dense_solution()
    np.testing.assert_allclose(ops.convert_to_numpy(found.x), expected, rtol=1e-3, atol=1e-5)
    assert ops.convert_to_numpy(found.converged).all()
    assert (ops.convert_to_numpy(found.iterations) <= 10).all()
    gap = RIGHT - ops.convert_to_numpy(multiply(DENSE, found.x))
    size = np.linalg.norm(RIGHT.reshape(3, -1), axis=1)
    np.testing.assert_allclose(
        ops.convert_to_numpy(found.residual),
        np.linalg.norm(gap.reshape(3, -1), axis=1) / size,
        rtol=0.5,
    )


def test_gradients_equal_those_of_dense_solves():
    by_weight, by_scale, _ = gradients(solve)
    x, v = dense_solution(), dense_solution(right=TARGET)
    np.testing.assert_allclose(by_weight, -np.sum(v * x) / 3, rtol=1e-4)
    np.testing.assert_allclose(by_scale, np.sum(v * RIGHT, axis=0) / 3, rtol=1e-3, atol=1e-5)


def test_gradients_equal_those_of_a_long_unroll():
    # Its slowest mode, of curvature 0.4, has shrunk by (1 - 0.16)^80 = 1e-6.
    for ours, theirs in zip(gradients(solve), gradients(unrolled), strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-4 * np.linalg.norm(theirs)


def test_trains():
    model = Regularized(solve)
    model.compile(keras.optimizers.Adam(0.05), "mse")
    history = model.fit(RIGHT, TARGET, epochs=5, batch_size=3, verbose=0).history["loss"]
    assert history[-1] < history[0]


def test_a_sample_does_not_depend_on_its_mates():
    together = conjugate_gradient(lambda x: multiply(DENSE, x), RIGHT, max_iterations=40)
    for i in range(3):
        alone = conjugate_gradient(
            lambda x, i=i: multiply(DENSE[i : i + 1], x), RIGHT[i : i + 1], max_iterations=40
        )
        assert int(alone.iterations[0]) == int(together.iterations[i])
        np.testing.assert_allclose(
            ops.convert_to_numpy(alone.x[0]),
            ops.convert_to_numpy(together.x[i]),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("unit", [1e-5, 1e5])
def test_the_unit_of_the_image_does_not_matter(unit):
    plain = conjugate_gradient(lambda x: multiply(DENSE, x), RIGHT, tolerance=1e-2)
    scaled = conjugate_gradient(lambda x: multiply(DENSE, x), unit * RIGHT, tolerance=1e-2)
    assert np.array_equal(*map(ops.convert_to_numpy, (plain.iterations, scaled.iterations)))
    np.testing.assert_allclose(
        ops.convert_to_numpy(scaled.x) / unit, ops.convert_to_numpy(plain.x), rtol=1e-4, atol=1e-6
    )


def test_a_good_start_saves_iterations_and_zero_needs_none():
    right = np.stack([RIGHT[0], 0 * RIGHT[0], RIGHT[2]])
    found = conjugate_gradient(
        lambda x: multiply(DENSE, x), right, start=dense_solution(right=right), tolerance=1e-4
    )
    assert ops.convert_to_numpy(found.iterations).tolist() == [0, 0, 0]
    zero = conjugate_gradient(lambda x: multiply(DENSE, x), right)
    assert int(zero.iterations[1]) == 0 and not ops.convert_to_numpy(zero.x[1]).any()
    assert bool(zero.converged[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_stays_in_its_sample(bad):
    matrices = DENSE.copy()
    matrices[1, 2, 2] = bad
    found = conjugate_gradient(lambda x: multiply(matrices, x), RIGHT, tolerance=1e-6)
    assert ops.convert_to_numpy(found.finite).tolist() == [True, False, True]
    assert ops.convert_to_numpy(found.converged).tolist() == [True, False, True]
    expected = dense_solution()
    np.testing.assert_allclose(
        ops.convert_to_numpy(found.x)[[0, 2]], expected[[0, 2]], rtol=1e-3, atol=1e-5
    )


def test_a_map_that_is_not_positive_is_reported():
    found = conjugate_gradient(lambda x: multiply(-DENSE, x), RIGHT)
    assert not ops.convert_to_numpy(found.converged).any()
    assert ops.convert_to_numpy(found.finite).all()
    assert not ops.convert_to_numpy(found.x).any()


def test_wrong_arguments():
    for name, wrong in (("tolerance", -1), ("max_iterations", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must.*Received: {name}={wrong}"):
            conjugate_gradient(lambda x: x, RIGHT, **{name: wrong})
