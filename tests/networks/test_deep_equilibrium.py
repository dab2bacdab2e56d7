"""The equilibrium network: formula, samples apart, report, protocol, saving, export."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import latency, pruning, search
from spade_keras.data import simulate_multicoil
from spade_keras.export import check_saved_models, export_model
from spade_keras.networks import NETWORKS, DeepEquilibrium, EquilibriumReport, priors
from spade_keras.operators import CartesianMRI, Denoising, Downsampling

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def inputs():
    images = np.abs(RNG.normal(size=(3, 12, 10)))
    return simulate_multicoil(images, coils=2, acceleration=3, acs_lines=4).inputs


def make(operator=None, filters=(6,), trunk=7, channels=2, seed=1, **settings):
    prior = priors.edsr(filters=filters, trunk=trunk, channels=channels, activation="tanh")
    settings = {"initial_mixing": 0.6, "initial_step": 0.9, **settings}
    network = DeepEquilibrium(operator or CartesianMRI(), prior, **settings)
    rng = np.random.default_rng(seed)
    for weight in prior.trainable_variables:
        weight.assign(rng.normal(scale=0.1, size=weight.shape))
    network.log_prior_scale.assign(-0.2)
    return network


def run(network, inputs):
    return ops.convert_to_numpy(network(inputs, training=False))


def linear(rate, **settings):
    """T(x) = rate x + (1 - rate) y by an operator that is the identity, and its fixed point y."""
    image = keras.Input((None, None, 1))
    prior = keras.Model(image, keras.layers.Conv2D(1, 1, use_bias=False)(image))
    prior.set_weights([np.full((1, 1, 1, 1), 1.0, "float32")])
    return DeepEquilibrium(Denoising(), prior, initial_step=1 - rate, **settings)


def test_the_published_network_has_three_scalars_more_than_its_prior():
    prior = priors.edsr()
    network = NETWORKS["deep_equilibrium"](CartesianMRI(), prior)
    assert (prior.count_params(), network.count_params()) == (999_426, 999_429)


def test_is_the_fixed_point_of_the_iteration_written_out(inputs):
    network, operator = make(tolerance=1e-6), CartesianMRI()
    p = operator.parameters(inputs)
    y = ops.convert_to_tensor(inputs["measurements"])
    x = operator.adjoint(y, **p)
    scale = np.exp(-0.2)
    for _ in range(60):
        z = x - 0.9 * operator.adjoint(operator.forward(x, **p) - y, **p)
        x = 0.6 * network.prior(z * scale) / scale + 0.4 * z
    expected = ops.convert_to_numpy(x)
    error = np.linalg.norm(run(network, inputs) - expected) / np.linalg.norm(expected)
    assert error < 2e-5


def test_a_sample_does_not_depend_on_its_mates(inputs):
    network = make()
    hard = {
        **inputs,
        "measurements": inputs["measurements"] * np.array([1, 40, 3]).reshape(3, 1, 1, 1, 1),
    }
    together, report = run(network, hard), network.report(hard)
    for i in (0, 1):
        alone = {name: value[i : i + 1] for name, value in hard.items()}
        np.testing.assert_allclose(run(network, alone)[0], together[i], rtol=1e-3, atol=2e-4)
        assert network.report(alone).iterations == report.iterations[i : i + 1]


@pytest.mark.parametrize("unit", [1e-2, 1e3])
def test_the_unit_of_the_image_does_not_matter(inputs, unit):
    """With a prior that has no unit itself: without biases and with ReLU."""
    image = keras.Input((None, None, 2))
    x = keras.layers.Conv2D(6, 3, padding="same", use_bias=False, activation="relu")(image)
    prior = keras.Model(image, keras.layers.Conv2D(2, 3, padding="same", use_bias=False)(x))
    for weight in prior.weights:
        weight.assign(np.random.default_rng(0).normal(scale=0.1, size=weight.shape))
    network = DeepEquilibrium(CartesianMRI(), prior, initial_mixing=0.6)
    plain = network.report(inputs)
    scaled = {**inputs, "measurements": unit * inputs["measurements"]}
    assert network.report(scaled).iterations == plain.iterations
    np.testing.assert_allclose(
        run(network, scaled) / unit, run(network, inputs), rtol=5e-3, atol=1e-4
    )


@pytest.mark.parametrize("rate", [0.3, 0.8])
def test_the_report_is_right_on_a_linear_map(rate):
    y = RNG.normal(size=(2, 6, 5, 1)).astype("float32")
    # The start A^H y = y is the fixed point of a bare linear map, so the prior adds a bias.
    network = linear(rate, initial_mixing=0.5, tolerance=1e-5)
    network.prior.set_weights([np.full((1, 1, 1, 1), 0.9, "float32")])
    report = network.report({"measurements": y})
    factor = rate * (0.5 * 0.9 + 0.5)
    np.testing.assert_allclose(report.contraction, factor, rtol=2e-3)
    assert report.converged == (True, True) and report.diverged == (False, False)
    assert max(report.residual) <= 1e-5
    assert max(report.iterations) <= 4  # one direction of error: Anderson solves it at once
    expected = y * (0.95 * (1 - rate)) / (1 - 0.95 * rate)
    np.testing.assert_allclose(run(network, {"measurements": y}), expected, rtol=1e-4, atol=1e-6)
    assert f"{max(report.contraction):.3g}" in str(report)
    assert EquilibriumReport.from_dict(report.as_dict()) == report


def test_a_map_that_repels_is_reported():
    network = linear(0.5, initial_mixing=1.0, max_iterations=10, memory=1, damping=1.0)
    network.prior.set_weights([np.full((1, 1, 1, 1), 3.0, "float32")])
    report = network.report({"measurements": np.ones((2, 4, 4, 1), "float32")})
    np.testing.assert_allclose(report.contraction, 1.5, rtol=1e-3)
    assert report.converged == (False, False) and report.diverged == (True, True)


def test_a_sample_that_is_no_number_is_reported_and_stays_alone(inputs):
    network = make()
    measurements = inputs["measurements"].copy()
    measurements[1, 0, 3, 4, 0] = np.nan
    bad = {**inputs, "measurements": measurements}
    report = network.report(bad)
    assert report.finite == (True, False, True) and report.diverged == (False, True, False)
    np.testing.assert_allclose(run(network, bad)[[0, 2]], run(network, inputs)[[0, 2]], atol=1e-5)


def test_with_priors_is_solved_alike_and_leaves_the_original(inputs):
    network = make(tolerance=1e-3, max_iterations=40, gradient="implicit", iterations=12)
    network.step_size.assign(0.7)
    before = run(network, inputs)
    slim = network.with_priors({"prior": priors.edsr(filters=[2], trunk=3)})
    settings = ("tolerance", "max_iterations", "gradient", "gradient_steps", "iterations", "memory")
    assert [getattr(slim, s) for s in settings] == [getattr(network, s) for s in settings]
    for name in ("step_size", "mixing", "log_prior_scale"):
        assert ops.convert_to_numpy(getattr(slim, name)) == ops.convert_to_numpy(
            getattr(network, name)
        )
        getattr(slim, name).assign(0.0)
    np.testing.assert_array_equal(run(network, inputs), before)
    with pytest.raises(ValueError, match=r"keys \['prior'\]"):
        network.with_priors({"denoiser": network.prior})


def test_with_iterations_takes_exactly_so_many_and_back(inputs):
    network = make(iterations=9)
    fixed = network.with_iterations(3)
    assert (fixed.iterations, fixed.max_iterations, fixed.tolerance) == (3, 3, 0)
    assert fixed.report(inputs).iterations == (3, 3, 3)
    assert max(network.report(inputs).iterations) > 3
    back = fixed.with_tolerance(network.tolerance, network.max_iterations)
    np.testing.assert_allclose(run(back, inputs), run(network, inputs), atol=1e-6)
    assert fixed.prior is not network.prior
    with pytest.raises(ValueError, match="iterations=0"):
        network.with_iterations(0)


def test_the_prior_is_counted_once_an_iteration_and_once_after(inputs):
    assert make(iterations=9).prior_input_shapes(inputs) == {"prior": [(3, 12, 10, 2)] * 10}
    small = {
        "measurements": np.ones((2, 5, 4, 3), "float32"),
        "kernel": np.ones((2, 3, 3), "float32") / 9,
    }
    network = make(Downsampling(3), channels=3, iterations=4)
    assert network.prior_input_shapes(small) == {"prior": [(2, 15, 12, 3)] * 5}
    assert run(network, small).shape == (2, 15, 12, 3)


def test_a_prior_with_poolings_sees_padded_images(inputs):
    network = DeepEquilibrium(CartesianMRI(), priors.unet(filters=[3, 4, 5]), iterations=2)
    assert network.prior_input_shapes(inputs) == {"prior": [(3, 12, 12, 2)] * 3}
    assert run(network.with_iterations(2), inputs).shape == (3, 12, 10, 2)


def test_saves_and_loads(inputs, tmp_path):
    network = make(gradient="implicit", tolerance=1e-3)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(run(loaded, inputs), run(network, inputs), atol=1e-6)
    assert (loaded.gradient, loaded.tolerance) == ("implicit", 1e-3)


def test_exports_with_equal_outputs(inputs, tmp_path):
    network = make(gradient="implicit")
    folder = export_model(network, tmp_path / "saved", inputs).folder
    check = check_saved_models(
        {"net": folder}, inputs, {"net": run(network, inputs)}, pairs=2, warmup=1, lock=False
    )
    assert check.relative_error["net"] < 1e-4


def test_is_pruned_to_what_zeroed_channels_give(inputs):
    network = make(filters=(6, 5), trunk=8)
    plan = pruning.make_plan(network, ratio=0.5)
    slim = pruning.rebuild(network, plan)
    assert isinstance(slim, DeepEquilibrium)
    assert slim.count_params() < 0.5 * network.count_params()
    assert run(slim, inputs).shape == run(network, inputs).shape
    assert max(slim.report(inputs).residual) <= network.tolerance


def timed(ratio):
    def taking(milliseconds):
        return latency.summarize(
            [milliseconds] * 3,
            first_ms=1.0,
            calls_per_window=1,
            stable=True,
            peak_memory_bytes=None,
            fingerprint={},
        )

    return latency.Comparison(
        taking(10.0), taking(10.0 * ratio), latency.Ratio(ratio, ratio, ratio, 0.95, 3)
    )


@pytest.mark.once
def test_is_searched_at_its_reference_count(inputs):
    """Every candidate takes exactly the reference count, so that widths alone decide."""
    network = make(filters=(8,), trunk=8, iterations=3, gradient="implicit")
    fixed = network.with_iterations(network.iterations)
    widths = {g.name: (4, g.width) for g in pruning.find_groups(fixed) if not g.fixed}
    seen = []

    def timer(candidate):
        seen.append(set(candidate.report(inputs).iterations))
        return timed(candidate.count_params() / fixed.count_params())

    found = search.run(
        fixed,
        budget=search.LatencyBudget(0.8),
        data=inputs,
        timer=timer,
        space=search.SearchSpace.from_edges(widths),
        trials=4,
        seeds=("uniform",),
    )
    assert seen and all(counts == {3} for counts in seen)
    slim = search.build(network, found.best.configuration)
    assert slim.count_params() <= 0.8 * network.count_params()
    assert (slim.tolerance, slim.max_iterations) == (network.tolerance, network.max_iterations)


def test_wrong_arguments():
    prior = priors.edsr(filters=[4])
    for name, wrong in (
        *(("iterations", 0), ("max_iterations", 0), ("gradient_steps", 0), ("gradient", "exact")),
        *(("tolerance", -1), ("memory", 0), ("ridge", 0), ("damping", 0)),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must.*Received: {name}="):
            DeepEquilibrium(CartesianMRI(), prior, **{name: wrong})


@pytest.mark.parametrize("kind", ["BatchNormalization", "Dropout", "GaussianNoise"])
def test_a_prior_that_changes_between_iterations_is_refused(kind):
    layer = getattr(keras.layers, kind)(*([] if kind == "BatchNormalization" else [0.1]))
    prior = keras.Sequential([keras.Input((None, None, 2)), keras.layers.Conv2D(2, 1), layer])
    with pytest.raises(ValueError, match=f"`prior` must be the same function.*{kind}"):
        DeepEquilibrium(CartesianMRI(), prior)
    layer.trainable = False
    DeepEquilibrium(CartesianMRI(), prior)
