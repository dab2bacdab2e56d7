"""The unrolled network: formula, protocol, saving, training."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 3, 8, 10, 2)).astype("float32")
    maps /= np.sqrt((maps**2).sum((1, 4), keepdims=True))
    mask = np.zeros((2, 1, 10), "float32")
    mask[..., ::2] = 1
    k = rng.standard_normal((2, 3, 8, 10, 2)).astype("float32") * mask[:, None, ..., None]
    return {"measurements": k, "mask": mask, "sensitivities": maps}


def make(filters=(6, 5), iterations=3):
    keras.utils.set_random_seed(0)
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=filters), iterations=iterations)
    rng = np.random.default_rng(1)
    for weight in network.trainable_variables:
        weight.assign(rng.normal(scale=0.2, size=weight.shape).astype("float32"))
    return network


def run(network, inputs):
    return ops.convert_to_numpy(network(inputs, training=False))


def test_equals_the_iteration_written_out(inputs):
    network, operator = make(), CartesianMRI()
    p = operator.parameters(inputs)
    y = ops.convert_to_tensor(inputs["measurements"])
    x = operator.adjoint(y, **p)
    for step in ops.convert_to_numpy(network.step_sizes):
        gradient = operator.adjoint(operator.forward(x, **p) - y, **p)
        x = network.prior(x - float(step) * gradient)
    np.testing.assert_allclose(run(network, inputs), ops.convert_to_numpy(x), atol=2e-5)


def test_with_priors_keeps_steps_and_leaves_the_original(inputs):
    network = make()
    before = run(network, inputs)
    slim = network.with_priors({"prior": priors.dncnn(filters=[2, 3])})
    np.testing.assert_array_equal(
        ops.convert_to_numpy(slim.step_sizes), ops.convert_to_numpy(network.step_sizes)
    )
    slim.step_sizes.assign(np.zeros(3))
    assert run(slim, inputs).shape == before.shape
    np.testing.assert_array_equal(run(network, inputs), before)
    with pytest.raises(ValueError, match=r"keys \['prior'\]"):
        network.with_priors({"denoiser": network.prior})


def test_with_iterations_is_the_first_part(inputs):
    network = make()
    shorter = network.with_iterations(2)
    assert shorter.iterations == 2
    np.testing.assert_array_equal(
        ops.convert_to_numpy(shorter.step_sizes), ops.convert_to_numpy(network.step_sizes)[:2]
    )
    before = run(network, inputs)
    kernel = shorter.prior.trainable_variables[0]
    kernel.assign(np.zeros(kernel.shape))
    np.testing.assert_array_equal(run(network, inputs), before)
    for wrong in (0, 4):
        with pytest.raises(ValueError, match=f"iterations={wrong}"):
            network.with_iterations(wrong)


def test_prior_is_called_once_an_iteration(inputs):
    assert make().prior_input_shapes(inputs) == {"prior": [(2, 8, 10, 2)] * 3}


def test_saves_and_loads(inputs, tmp_path):
    network = make()
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(run(loaded, inputs), run(network, inputs), atol=1e-6)
    fresh = UnrolledPGD.from_config(network.get_config())
    assert ops.convert_to_numpy(fresh.step_sizes).tolist() == [1.0, 1.0, 1.0]


def test_every_weight_learns(inputs):
    network = make()
    before = [ops.convert_to_numpy(w) for w in network.trainable_variables]
    network.compile(optimizer="adam", loss="mse", jit_compile=False if on_tf() else "auto")
    network.fit(inputs, np.ones((2, 8, 10, 2), "float32"), verbose=0)
    for old, weight in zip(before, network.trainable_variables, strict=True):
        assert np.abs(ops.convert_to_numpy(weight) - old).max() > 0, weight.path


def on_tf():
    return keras.backend.backend() == "tensorflow"


def test_an_untrained_prior_is_the_identity():
    x = np.random.default_rng(0).standard_normal((1, 5, 6, 2)).astype("float32")
    np.testing.assert_array_equal(ops.convert_to_numpy(priors.dncnn(filters=[4])(x)), x)


@pytest.mark.parametrize("filters", [[], [4, 0], [4, True], [4, 2.0]])
def test_wrong_filters(filters):
    with pytest.raises(ValueError, match="`filters` must hold"):
        priors.dncnn(filters=filters)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="iterations=0"):
        UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[4]), iterations=0)
    with pytest.raises(ValueError, match=r"Unknown prior.*dncnn"):
        priors.PRIORS.make("dncn")
