"""Anderson's acceleration: what it gains, and its weights."""

import numpy as np
import pytest
from keras import ops

from spade_keras.solvers import anderson, picard

RATES = np.array([[0.96, 0.93, 0.9, 0.5, 0.0, -0.3, -0.9, 0.2]], "float32")
START = np.zeros((1, 8), "float32")


def ill_conditioned(x):
    return ops.multiply(RATES, x) + 1


def test_is_faster_than_picard_where_the_map_is_ill_conditioned():
    solution = 1 / (1 - RATES.astype("float64"))
    slow = picard(ill_conditioned, START, tolerance=1e-5, max_iterations=2000)
    fast = anderson(ill_conditioned, START, tolerance=1e-5, max_iterations=2000)
    assert bool(fast.converged[0]) and bool(slow.converged[0])
    assert 3 * int(fast.iterations[0]) < int(slow.iterations[0])
    np.testing.assert_allclose(ops.convert_to_numpy(fast.x), solution, rtol=2e-3)


def test_memory_of_the_dimension_solves_a_linear_problem_at_once():
    rates = RATES[:, [0, 3, 6]]
    found = anderson(
        lambda x: ops.multiply(rates, x) + 1,
        START[:, :3],
        memory=4,
        ridge=1e-7,
        tolerance=1e-4,
        max_iterations=9,
    )
    assert int(found.iterations[0]) <= 7
    np.testing.assert_allclose(ops.convert_to_numpy(found.x), 1 / (1 - rates), rtol=1e-2)


def test_follows_the_iteration_written_out():
    rng = np.random.default_rng(0)
    matrix = 0.4 * rng.normal(size=(6, 6)) / np.sqrt(6)
    offset = rng.normal(size=6)
    x, points, gaps = np.zeros(6), [], []
    for k in range(9):
        value = np.tanh(matrix @ x) + offset
        points, gaps = [*points, x][-3:], [*gaps, value - x][-3:]
        if k < 8:
            gram = np.array(gaps) @ np.array(gaps).T
            gram += 1e-2 * np.trace(gram) / len(gaps) * np.eye(len(gaps))
            w = np.linalg.solve(gram, np.ones(len(gaps)))
            w /= w.sum()
            x = w @ (np.array(points) + 0.8 * np.array(gaps))
    weights = np.asarray(matrix.T, "float32")
    found = anderson(
        lambda x: ops.tanh(ops.matmul(x, weights)) + np.asarray(offset, "float32"),
        np.zeros((1, 6), "float32"),
        memory=3,
        ridge=1e-2,
        damping=0.8,
        tolerance=0,
        max_iterations=9,
    )
    assert int(found.iterations[0]) == 9
    residual = np.linalg.norm(value - x) / np.linalg.norm(value)
    np.testing.assert_allclose(float(found.residual[0]), residual, rtol=0.05)
    np.testing.assert_allclose(ops.convert_to_numpy(found.x)[0], x, rtol=1e-4)


def test_wrong_arguments():
    for name, wrong in (("memory", 0), ("memory", True), ("ridge", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must.*Received: {name}={wrong}"):
            anderson(ill_conditioned, START, **{name: wrong})
