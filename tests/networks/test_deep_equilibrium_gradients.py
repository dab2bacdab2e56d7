"""The three gradients of an equilibrium against a long unroll, as training computes them."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import backend
from spade_keras.data import simulate_multicoil
from spade_keras.networks import DeepEquilibrium, priors
from spade_keras.operators import CartesianMRI

RNG = np.random.default_rng(0)
STEPS = 18


def smooth_images(count, side):
    axis = np.linspace(-1, 1, side)
    x, y = np.meshgrid(axis, axis)
    centers = RNG.uniform(-0.4, 0.4, size=(count, 2, 1, 1))
    return np.exp(-4 * ((x - centers[:, 0]) ** 2 + 2 * (y - centers[:, 1]) ** 2))


@pytest.fixture(scope="module")
def slices():
    return simulate_multicoil(smooth_images(2, 12), coils=2, acceleration=3, acs_lines=4)


def make(gradient, **settings):
    keras.utils.set_random_seed(0)
    network = DeepEquilibrium(
        CartesianMRI(),
        priors.edsr(filters=[5], activation="tanh"),
        gradient=gradient,
        tolerance=1e-6,
        initial_mixing=0.9,
        initial_step=0.3,
        **settings,
    )
    rng = np.random.default_rng(1)
    for weight in network.prior.trainable_variables:
        weight.assign(rng.normal(scale=0.1, size=weight.shape))
    network.log_prior_scale.assign(0.3)
    return network


def training_gradients(network, slices):
    """What one step of gradient descent changes, over the step size."""
    rate = 100.0
    network.compile(
        keras.optimizers.SGD(rate), "mse", jit_compile="auto" if backend_name() == "jax" else False
    )
    before = [ops.convert_to_numpy(w) for w in network.trainable_variables]
    network.train_on_batch(slices.inputs, slices.targets)
    after = [ops.convert_to_numpy(w) for w in network.trainable_variables]
    return np.concatenate([np.ravel(b - a) / rate for a, b in zip(after, before, strict=True)])


def backend_name():
    return keras.backend.backend()


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def unrolled(slices):
    gradient = training_gradients(make("unroll", max_iterations=STEPS), slices)
    assert np.isfinite(gradient).all() and np.count_nonzero(gradient) > 300
    return gradient


def test_the_map_is_a_contraction_that_the_unroll_solves(slices):
    report = make("implicit").report(slices.inputs)
    assert all(report.converged)
    assert max(report.contraction) > 0.2 and max(report.contraction) ** STEPS < 1e-3


def test_the_implicit_gradient_equals_that_of_a_long_unroll(slices, unrolled):
    implicit = training_gradients(make("implicit"), slices)
    assert distance(implicit, unrolled) < 1e-4


def test_truncated_gradients_approach_it_step_by_step(slices, unrolled):
    network = make("truncated")
    errors = []
    for steps in (1, 5):
        gradient = training_gradients(make("truncated", gradient_steps=steps), slices)
        errors.append(distance(gradient, unrolled))
        assert gradient @ unrolled > 0
    rate = max(network.report(slices.inputs).contraction)
    assert 0.03 < errors[0] < 0.9
    assert errors[1] < min(0.1 * errors[0], 3 * rate**5)


def test_outside_training_the_implicit_gradient_is_there_too(slices, unrolled):
    found = backend.loss_gradients(
        make("implicit"), keras.losses.mean_squared_error, slices.inputs, slices.targets
    )
    assert distance(np.concatenate([np.ravel(g) for g in found]), unrolled) < 1e-4


@pytest.mark.parametrize("gradient", ["truncated", "implicit", "unroll"])
def test_fit_reduces_the_loss(slices, gradient):
    network = make(gradient, max_iterations=4 if gradient == "unroll" else 50, gradient_steps=2)
    network.compile(keras.optimizers.Adam(5e-3), "mse")
    history = network.fit(slices.inputs, slices.targets, epochs=8, batch_size=2, verbose=0)
    losses = history.history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.7 * losses[0]


def test_every_weight_learns(slices):
    network = make("implicit")
    before = [ops.convert_to_numpy(w) for w in network.trainable_variables]
    network.compile("adam", "mse", jit_compile="auto" if backend_name() == "jax" else False)
    network.fit(slices.inputs, slices.targets, verbose=0)
    for old, weight in zip(before, network.trainable_variables, strict=True):
        assert np.abs(ops.convert_to_numpy(weight) - old).max() > 0, weight.path


def test_mixed_precision_solves_in_float32(slices):
    plain = ops.convert_to_numpy(make("truncated")(slices.inputs))
    keras.config.set_dtype_policy("mixed_float16")
    try:
        network = make("truncated")
        assert network.prior.compute_dtype == "float16"
        output = network(slices.inputs)
        assert keras.backend.standardize_dtype(output.dtype) == "float32"
        assert keras.backend.standardize_dtype(network.step_size.dtype) == "float32"
        network.compile("adam", "mse", jit_compile="auto" if backend_name() == "jax" else False)
        losses = network.fit(slices.inputs, slices.targets, verbose=0).history["loss"]
    finally:
        keras.config.set_dtype_policy("float32")
    assert distance(ops.convert_to_numpy(output), plain) < 0.03
    assert np.isfinite(losses).all()
