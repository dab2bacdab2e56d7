"""The super-resolution network: splitting, scales in one model, hyper-parameters, protocol."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras.networks import USRNet, priors
from spade_keras.operators import CartesianMRI, Downsampling

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def make_inputs(scale=2, height=12, width=18, channels=3, initial=False, seed=0):
    rng = np.random.default_rng(seed)
    image = rng.random((2, height, width, channels)).astype("float32")
    kernel = rng.random((2, 4, 5)).astype("float32")
    kernel /= kernel.sum((1, 2), keepdims=True)
    y = ops.convert_to_numpy(Downsampling(scale).forward(image, kernel=kernel))
    inputs = {"measurements": y, "kernel": kernel, "noise_level": np.float32([0.01, 0.05])}
    return {**inputs, "initial": repeated(y, scale)} if initial else inputs


def repeated(y, scale):
    return y.repeat(scale, axis=1).repeat(scale, axis=2)


def make(scales=(2,), filters=(4, 6), iterations=3, **options):
    keras.utils.set_random_seed(0)
    prior = options.pop("prior", None) or priors.res_unet(
        filters=filters, condition_channels=1, blocks=1
    )
    operators = [Downsampling(scale) for scale in scales]
    return USRNet(operators, prior, iterations, hidden=5, **options)


def identity(channels=3):
    """A prior that gives back the image and leaves the noise level unread."""
    image = keras.Input((None, None, channels + 1))
    kept = keras.layers.Conv2D(channels, 1, use_bias=False)
    model = keras.Model(image, kept(image))
    kept.kernel.assign(np.eye(channels + 1, channels)[None, None])
    return model


def run(network, inputs):
    return ops.convert_to_numpy(network(inputs, training=False))


def settings(network, sigma, scale):
    """alpha_k and beta_k by the formula, each of shape (batch, iterations)."""
    x = np.stack([sigma, np.full_like(sigma, scale)], axis=1)
    w = network.settings_network.get_weights()
    x = np.maximum(x @ w[0] + w[1], 0)
    x = np.maximum(x @ w[2] + w[3], 0)
    x = np.logaddexp(x @ w[4] + w[5], 0) + 1e-6
    return np.split(x, 2, axis=1)


@pytest.mark.parametrize("scale", [2, 3])
@pytest.mark.parametrize("initial", [False, True])
def test_an_identity_prior_leaves_the_regularized_least_squares(scale, initial):
    """(A^H A + alpha) x_k = A^H y + alpha x_{k-1}, from the repeated pixels or a given start."""
    network = make([scale], iterations=1, prior=identity())
    inputs = make_inputs(scale)
    start = repeated(inputs["measurements"], scale)
    if initial:
        start = inputs["initial"] = np.random.default_rng(5).random(start.shape, "float32")
    x = run(network, inputs)
    alpha = settings(network, inputs["noise_level"], scale)[0][:, 0, None, None, None]
    operator, kernel = Downsampling(scale), inputs["kernel"]
    left = ops.convert_to_numpy(operator.normal(x, kernel=kernel)) + alpha * x
    right = ops.convert_to_numpy(operator.adjoint(inputs["measurements"], kernel=kernel))
    right = right + alpha * start
    np.testing.assert_allclose(left, right, atol=1e-5 * np.abs(right).max())
    assert np.abs(x - start).max() > 1e-3


def test_many_steps_with_an_identity_prior_fit_the_measurements():
    network = make([2], iterations=12, prior=identity())
    bias = network.settings_network.layers[-1].bias
    bias.assign(np.full(bias.shape, -7.0))  # small alpha_k: long steps
    inputs = make_inputs(2)
    fitted = Downsampling(2).forward(run(network, inputs), kernel=inputs["kernel"])
    start = Downsampling(2).forward(repeated(inputs["measurements"], 2), kernel=inputs["kernel"])
    y = inputs["measurements"]
    errors = [np.linalg.norm(ops.convert_to_numpy(image) - y) for image in (fitted, start)]
    assert errors[0] < 0.02 * errors[1]


@pytest.mark.parametrize("size", [(12, 18), (10, 14)])
def test_equals_the_splitting_written_out(size):
    network, inputs = make(iterations=2, filters=(4, 6, 8)), make_inputs(2, *size)
    alphas, betas = settings(network, inputs["noise_level"], 2)
    x = repeated(inputs["measurements"], 2)
    height, width = size
    for k in range(2):
        weight, level = (s[:, k, None, None, None].astype("float32") for s in (alphas, betas))
        z = Downsampling(2).proximal(x, inputs["measurements"], weight, kernel=inputs["kernel"])
        z = ops.convert_to_numpy(z)
        z = np.concatenate([z, level + 0 * z[..., :1]], axis=-1)
        z = np.pad(z, ((0, 0), (0, -height % 4), (0, -width % 4), (0, 0)), mode="edge")
        x = ops.convert_to_numpy(network.prior(z))[:, :height, :width]
    np.testing.assert_allclose(run(network, inputs), x, atol=1e-4 * x.std())
    column = {**inputs, "noise_level": inputs["noise_level"][:, None, None, None]}
    np.testing.assert_array_equal(run(network, column), run(network, inputs))


def test_one_model_serves_several_scales():
    network = make([3, 2])
    assert network.scales == (2, 3)
    outputs = {}
    for scale in (2, 3):
        inputs = make_inputs(scale, initial=True)
        outputs[scale] = run(network, inputs)
        assert outputs[scale].shape == (2, 12, 18, 3)
        single = network.with_scale(scale)
        assert single.scales == (scale,)
        del inputs["initial"]
        np.testing.assert_array_equal(run(single, inputs), outputs[scale])
    single.prior.set_weights([0 * weight for weight in single.prior.get_weights()])
    np.testing.assert_array_equal(run(network, make_inputs(3, initial=True)), outputs[3])


def test_batches_of_several_scales_in_one_training():
    """Under TensorFlow the graph knows no sizes, and switches."""

    class Mixed(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            inputs = make_inputs(2 + index % 2, initial=True, seed=index)
            return inputs, inputs["initial"]

    network = make([2, 3], iterations=1, filters=(3,))
    network.compile(
        optimizer=keras.optimizers.Adam(1e-2), loss="mse", jit_compile=not ON_TENSORFLOW and "auto"
    )
    losses = network.fit(Mixed(), epochs=3, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0]
    expected = [np.mean((run(network, x) - y) ** 2) for x, y in (Mixed()[i] for i in range(4))]
    loss = network.evaluate(Mixed(), verbose=0)
    assert loss == pytest.approx(np.mean(expected), rel=1e-4)


def test_with_priors_and_with_iterations():
    network, inputs = make(iterations=3), make_inputs()
    before = run(network, inputs)
    np.testing.assert_array_equal(run(network.with_priors(network.priors), inputs), before)
    shorter = network.with_iterations(2)
    assert shorter.iterations == 2
    sigma = inputs["noise_level"]
    for full, cut in zip(settings(network, sigma, 2), settings(shorter, sigma, 2), strict=True):
        np.testing.assert_array_equal(full[:, :2], cut)


@pytest.mark.once
def test_the_prior_is_called_on_the_padded_image_and_its_noise_level():
    network = make(filters=(4, 6, 8), iterations=2)
    expected = {"prior": [(2, 12, 16, 4)] * 2}
    assert network.prior_input_shapes(make_inputs(2, 10, 14)) == expected
    several = make([2, 3], filters=(4, 6, 8), iterations=2)
    assert several.prior_input_shapes(make_inputs(2, 10, 14, initial=True)) == expected
    assert network.operator is network.operators[0]
    assert several.operator is None


@pytest.mark.once
def test_wrong_arguments():
    prior = identity()
    for operator in ([], CartesianMRI(), [Downsampling(2), Downsampling(2)]):
        with pytest.raises(ValueError, match="`operator` must be a Downsampling operator"):
            USRNet(operator, prior)
    for iterations in (0, True, 2.0):
        with pytest.raises(ValueError, match=f"iterations={iterations}"):
            USRNet(Downsampling(2), prior, iterations)
    network = make([2, 3], prior=prior)
    with pytest.raises(ValueError, match=r"`initial` must be an input.*with_scale"):
        run(network, make_inputs(2))
    for scale, size in ((2, (24, 18)), (4, (12, 16))):
        wrong = make_inputs(scale, *size)
        wrong["initial"] = np.zeros((2, 24, 36, 3) if scale == 2 else (2, 12, 16, 3), "float32")
        wrong["measurements"] = (
            wrong["measurements"][:, :, :-1] if scale == 2 else (wrong["measurements"])
        )
        with pytest.raises(ValueError, match="`initial` must be one of"):
            run(network, wrong)
    with pytest.raises(ValueError, match="scale=4"):
        network.with_scale(4)
