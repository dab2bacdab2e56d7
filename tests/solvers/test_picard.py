"""Picard's iteration: its path and its rate."""

import numpy as np
from keras import ops

from spade_keras.solvers import picard

RATES = np.array([[0.8, 0.5, 0.1]], "float32")


def test_follows_the_iteration_written_out():
    found = picard(
        lambda x: ops.multiply(RATES, x) + 1,
        np.zeros((1, 3), "float32"),
        damping=0.7,
        tolerance=0,
        max_iterations=6,
    )
    x = np.zeros((1, 3))
    for _ in range(5):
        x = x + 0.7 * (RATES * x + 1 - x)
    np.testing.assert_allclose(ops.convert_to_numpy(found.x), x, rtol=1e-5)


def test_the_contraction_tends_to_the_spectral_radius():
    found = picard(
        lambda x: ops.multiply(RATES, x) + 1, np.zeros((1, 3), "float32"), max_iterations=100
    )
    np.testing.assert_allclose(ops.convert_to_numpy(found.contraction), [0.8], rtol=1e-2)
