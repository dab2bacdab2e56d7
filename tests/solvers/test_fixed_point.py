"""What every fixed-point solver keeps to: known solutions, samples apart, honest records."""

import numpy as np
import pytest
from keras import ops

from spade_keras.solvers import anderson, picard

SOLVERS = {"anderson": anderson, "picard": picard}


@pytest.fixture(params=sorted(SOLVERS))
def solver(request):
    return SOLVERS[request.param]


def numpy(found):
    fields = ("x", "residual", "iterations", "converged", "finite", "contraction")
    return {name: ops.convert_to_numpy(getattr(found, name)) for name in fields}


def symmetric(spectrum, seed=0):
    """A symmetric matrix with this spectrum."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(len(spectrum), len(spectrum))))
    return (basis * spectrum) @ basis.T


def affine(matrices, offsets):
    """x -> M_b x + c_b for every sample b, on images of shape (4, 3, 1)."""
    matrices = ops.convert_to_tensor(np.asarray(matrices, "float32"))
    offsets = ops.convert_to_tensor(np.asarray(offsets, "float32"))

    def function(x):
        flat = ops.reshape(x, (-1, 12, 1))
        return ops.reshape(ops.matmul(matrices, flat)[..., 0] + offsets, (-1, 4, 3, 1))

    return function


def problem(radii, seed=0):
    """One contraction per radius, and its fixed points."""
    rng = np.random.default_rng(seed)
    matrices = [symmetric(np.linspace(-r / 2, r, 12), seed + i) for i, r in enumerate(radii)]
    offsets = rng.normal(size=(len(radii), 12))
    solutions = [np.linalg.solve(np.eye(12) - m, c) for m, c in zip(matrices, offsets, strict=True)]
    return matrices, offsets, np.reshape(solutions, (-1, 4, 3, 1))


START = np.zeros((3, 4, 3, 1), "float32")


def test_finds_known_fixed_points_and_says_how(solver):
    matrices, offsets, solutions = problem([0.3, 0.7, 0.9])
    function = affine(matrices, offsets)
    found = solver(function, START, tolerance=1e-5, max_iterations=300)
    result = numpy(found)
    for x, solution, radius in zip(result["x"], solutions, [0.3, 0.7, 0.9], strict=True):
        error = np.linalg.norm(x - solution) / np.linalg.norm(solution)
        assert error < 3e-5 / (1 - radius)
    assert result["converged"].all() and result["finite"].all()
    value = ops.convert_to_numpy(function(found.x))
    gap = np.linalg.norm((value - result["x"]).reshape(3, -1), axis=1)
    size = np.linalg.norm(value.reshape(3, -1), axis=1)
    np.testing.assert_allclose(result["residual"], gap / size, rtol=0.05)
    assert (np.diff(result["iterations"]) > 0).all()
    assert (result["contraction"] <= [0.3 + 1e-3, 0.7 + 1e-3, 0.9 + 1e-3]).all()


def test_a_sample_does_not_depend_on_its_mates(solver):
    matrices, offsets, _ = problem([0.2, 0.95, 0.6])
    together = numpy(solver(affine(matrices, offsets), START, max_iterations=200))
    for i in range(3):
        alone = solver(
            affine(matrices[i : i + 1], offsets[i : i + 1]), START[:1], max_iterations=200
        )
        for name, value in numpy(alone).items():
            np.testing.assert_allclose(value[0], together[name][i], rtol=1e-3, atol=1e-6)
        assert int(alone.iterations[0]) == together["iterations"][i]


@pytest.mark.parametrize("unit", [1e-2, 1e3])
def test_the_unit_of_the_image_does_not_matter(solver, unit):
    matrices, offsets, _ = problem([0.3, 0.7, 0.9])
    plain = numpy(solver(affine(matrices, offsets), START, max_iterations=200))
    scaled = numpy(solver(affine(matrices, unit * offsets), START, max_iterations=200))
    np.testing.assert_array_equal(scaled["iterations"], plain["iterations"])
    np.testing.assert_allclose(scaled["x"] / unit, plain["x"], rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_stays_in_its_sample(solver, bad):
    matrices, offsets, _ = problem([0.3, 0.7, 0.9])
    plain = numpy(solver(affine(matrices, offsets), START))
    offsets[1, 5] = bad
    result = numpy(solver(affine(matrices, offsets), START))
    assert result["finite"].tolist() == [True, False, True]
    assert result["converged"][[0, 2]].tolist() == plain["converged"][[0, 2]].tolist()
    assert not result["converged"][1] and np.isinf(result["residual"][1])
    assert result["iterations"][1] == 1
    np.testing.assert_array_equal(result["x"][1], START[1])
    np.testing.assert_allclose(result["x"][[0, 2]], plain["x"][[0, 2]], rtol=1e-5, atol=1e-6)
    counted = numpy(solver(affine(matrices, offsets), START, tolerance=0, max_iterations=4))
    assert counted["iterations"].tolist() == [4, 1, 4]


def test_divergence_is_reported_and_the_best_iterate_kept(solver):
    """Quadratic growth leaves the numbers; the fixed point at zero attracts the other sample."""
    start = np.stack([np.full((4, 3, 1), 3.0), np.full((4, 3, 1), 0.5)]).astype("float32")
    result = numpy(solver(lambda x: x * x, start, damping=1.5, max_iterations=40))
    assert np.isfinite(result["x"]).all()
    assert result["contraction"][0] > 1
    if solver is picard:
        assert result["finite"].tolist() == [False, True]
        np.testing.assert_allclose(result["x"][0], 3.0)
        assert not result["converged"][0]


def test_zero_tolerance_takes_every_iteration(solver):
    matrices, offsets, _ = problem([0.1, 0.1, 0.1])
    result = numpy(solver(affine(matrices, offsets), START, tolerance=0, max_iterations=17))
    assert result["iterations"].tolist() == [17] * 3
    assert (result["residual"] < 1e-5).all()


def test_a_start_that_is_fixed_needs_one_evaluation(solver):
    result = numpy(solver(lambda x: 0.5 * x, START))
    assert result["iterations"].tolist() == [1] * 3 and (result["residual"] == 0).all()


def test_wrong_arguments(solver):
    for name, wrong in (("tolerance", -1), ("max_iterations", 0), ("damping", 0)):
        with pytest.raises(ValueError, match=f"`{name}` must.*Received: {name}={wrong}"):
            solver(lambda x: x, START, **{name: wrong})


RATES = np.array([[0.8, 0.5, 0.1]], "float32")


def test_picard_follows_the_iteration_written_out():
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


def test_the_contraction_of_picard_tends_to_the_spectral_radius():
    found = picard(
        lambda x: ops.multiply(RATES, x) + 1, np.zeros((1, 3), "float32"), max_iterations=100
    )
    np.testing.assert_allclose(ops.convert_to_numpy(found.contraction), [0.8], rtol=1e-2)
