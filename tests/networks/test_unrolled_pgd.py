"""The unrolled network: formula, protocol, loading."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import pruning
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI, Downsampling


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


def test_with_priors_keeps_all_steps_and_with_iterations_the_first(inputs):
    network = make()
    steps = ops.convert_to_numpy(network.step_sizes)
    slim = network.with_priors({"prior": priors.dncnn(filters=[2, 3])})
    np.testing.assert_array_equal(ops.convert_to_numpy(slim.step_sizes), steps)
    assert run(slim, inputs).shape == run(network, inputs).shape
    shorter = network.with_iterations(2)
    assert shorter.iterations == 2
    np.testing.assert_array_equal(ops.convert_to_numpy(shorter.step_sizes), steps[:2])


def test_prior_is_called_once_an_iteration(inputs):
    assert make().prior_input_shapes(inputs) == {"prior": [(2, 8, 10, 2)] * 3}


def test_takes_any_operator():
    network = UnrolledPGD(Downsampling(2), priors.dncnn(filters=[4], channels=3), iterations=2)
    small = {"measurements": np.ones((2, 5, 4, 3), "float32"), "kernel": np.ones((2, 3, 3)) / 9}
    assert network.prior_input_shapes(small) == {"prior": [(2, 10, 8, 3)] * 2}
    assert run(network, small).shape == (2, 10, 8, 3)
    fresh = UnrolledPGD.from_config(network.get_config())
    assert ops.convert_to_numpy(fresh.step_sizes).tolist() == [1.0, 1.0]


@pytest.mark.once
def test_a_subclass_with_other_arguments_is_copied_as_itself():
    class Renamed(UnrolledPGD):
        def __init__(self, operator, prior, iterations=2, *, first=1.0, **kwargs):
            super().__init__(operator, prior, iterations, initial_step=first, **kwargs)

        def get_config(self):
            config = super().get_config()
            config["first"] = config.pop("initial_step")
            return config

    network = Renamed(CartesianMRI(), priors.dncnn(filters=[4]), first=0.5)
    network.step_sizes.assign([0.3, 0.4])
    for copy in (network.with_priors({"prior": network.prior}), network.with_iterations(1)):
        assert type(copy) is Renamed and copy.initial_step == 0.5 and copy.name == network.name
        steps = ops.convert_to_numpy(copy.step_sizes)
        np.testing.assert_allclose(steps, [0.3, 0.4][: copy.iterations])


@pytest.mark.once
@pytest.mark.parametrize("decomposed", [False, True])
def test_loads_in_a_fresh_process(inputs, tmp_path, decomposed):
    """By Keras once the networks are imported, and by our loader, which imports all layers."""
    network = make()
    imports = "import spade_keras.networks; from keras.saving import load_model"
    if decomposed:
        network = network.with_priors({"prior": pruning.decompose(network.prior)})
        imports = "from spade_keras import load_model"
    network.save(tmp_path / "network.keras")
    np.savez(tmp_path / "inputs.npz", **inputs)
    code = (
        f"import sys, numpy as np; {imports}; folder = sys.argv[1];"
        "network = load_model(f'{folder}/network.keras');"
        "output = network(dict(np.load(f'{folder}/inputs.npz')), training=False);"
        "np.save(f'{folder}/output.npy', output); print(type(network).__name__)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    shown = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, text=True, capture_output=True
    )
    assert shown.stdout.split() == ["UnrolledPGD"], shown.stderr
    output = np.load(tmp_path / "output.npy")
    np.testing.assert_allclose(output, run(network, inputs), atol=1e-5)


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
