"""What holds for every network: it trains, saves, exports, is pruned and searched."""

import keras
import numpy as np
import pytest
from keras import ops

from spade_keras import latency, search
from spade_keras.export import export_model
from spade_keras.networks import NETWORKS, E2EVarNet, UnrolledPGD, USRNet, VarNet, priors
from spade_keras.operators import CartesianMRI, Downsampling
from spade_keras.pruning import (
    count_macs,
    count_parameters,
    find_groups,
    make_plan,
    rebuild,
    verify_plan,
)

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def mri_inputs():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((3, 2, 7, 12, 2)).astype("float32")
    maps /= np.sqrt((maps**2).sum((1, 4), keepdims=True))
    mask = np.zeros((3, 1, 12), "float32")
    mask[..., ::3] = mask[..., 4:8] = 1
    k = rng.standard_normal((3, 2, 7, 12, 2)).astype("float32") * mask[:, None, ..., None]
    return {"measurements": k, "mask": mask, "sensitivities": maps}


def make_varnet(**options):
    return VarNet(CartesianMRI(), priors.unet(filters=[4, 6]), iterations=2, **options)


def make_e2e_varnet(**options):
    sensitivity = priors.unet(filters=[3, 4])
    return E2EVarNet(
        CartesianMRI(), priors.unet(filters=[4, 6]), 1, sensitivity=sensitivity, **options
    )


def maps_aside(inputs):
    return {key: value for key, value in inputs.items() if key != "sensitivities"}


def make_usrnet():
    prior = priors.res_unet(filters=[4, 6], condition_channels=1, blocks=1)
    return USRNet([Downsampling(2), Downsampling(3)], prior, iterations=2, hidden=6)


def sr_inputs():
    rng = np.random.default_rng(0)
    return {
        "measurements": rng.random((3, 6, 5, 3), "float32"),
        "kernel": rng.random((3, 5, 5), "float32") / 12,
        "noise_level": np.float32([0.01, 0.02, 0.05]),
        "initial": rng.random((3, 12, 10, 3), "float32"),
    }


def make_unrolled_pgd():
    return UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[12, 12]), iterations=2)


CASES = {
    "e2e_varnet": (make_e2e_varnet, maps_aside(mri_inputs())),
    "unrolled_pgd": (make_unrolled_pgd, mri_inputs()),
    "usrnet": (make_usrnet, sr_inputs()),
    "varnet": (make_varnet, mri_inputs()),
}


@pytest.fixture(params=list(CASES))
def case(request):
    keras.utils.set_random_seed(0)
    make, inputs = CASES[request.param]
    network = make()
    assert type(network) is NETWORKS[request.param]
    return network, inputs


def run(network, inputs):
    return ops.convert_to_numpy(network(inputs, training=False))


def randomize(network):
    rng = np.random.default_rng(1)
    for weight in network.weights:
        weight.assign(rng.uniform(0.2, 1, weight.shape) * rng.choice([-1, 1], weight.shape))


def test_learns(case):
    """The loss falls, and every weight takes part."""
    network, inputs = case
    truth = np.random.default_rng(2).standard_normal(run(network, inputs).shape).astype("float32")
    before = [ops.convert_to_numpy(weight) for weight in network.trainable_variables]
    network.compile(
        optimizer=keras.optimizers.Adam(6e-3), loss="mse", jit_compile=not ON_TENSORFLOW and "auto"
    )
    losses = network.fit(inputs, truth, batch_size=3, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < 0.95 * losses[0]
    for old, weight in zip(before, network.trainable_variables, strict=True):
        assert np.abs(ops.convert_to_numpy(weight) - old).max() > 0, weight.path


def test_saves_and_loads(case, tmp_path):
    network, inputs = case
    randomize(network)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    wanted = run(network, inputs)
    np.testing.assert_allclose(run(loaded, inputs), wanted, atol=1e-6 * wanted.std())
    fresh = type(network).from_config(network.get_config())
    assert list(fresh.priors) == list(network.priors)
    assert fresh.count_params() == network.count_params()
    assert fresh.name == network.name


def test_copies_share_nothing_and_refuse_what_does_not_fit(case):
    network, inputs = case
    randomize(network)
    before = run(network, inputs)
    same = network.with_priors(network.with_iterations(network.iterations).priors)
    np.testing.assert_array_equal(run(same, inputs), before)
    for weight in same.weights:
        weight.assign(np.zeros(weight.shape))
    np.testing.assert_array_equal(run(network, inputs), before)
    with pytest.raises(
        ValueError, match=r"`priors` must have the keys .*Received: priors=\['denoiser'\]"
    ):
        network.with_priors({"denoiser": next(iter(network.priors.values()))})
    for wrong in (0, network.iterations + 1):
        with pytest.raises(ValueError, match=f"from 1 to .*iterations={wrong}"):
            network.with_iterations(wrong)


def test_samples_do_not_see_each_other(case):
    network, inputs = case
    wanted = run(network, inputs)
    for i in range(3):
        alone = run(network, {key: value[i : i + 1] for key, value in inputs.items()})
        np.testing.assert_allclose(alone[0], wanted[i], atol=1e-5 * wanted.std())


@pytest.mark.once
def test_exports(case, tmp_path):
    network, inputs = case
    randomize(network)
    export_model(network, tmp_path / "exported", inputs)
    exported = keras.layers.TFSMLayer(tmp_path / "exported")
    fewer = {key: value[:2] for key, value in inputs.items()}
    wanted = run(network, fewer)
    np.testing.assert_allclose(run(exported, fewer), wanted, atol=1e-5 * wanted.std())


@pytest.mark.once
def test_is_pruned_and_proved(case):
    network, inputs = case
    before = run(network, inputs)
    plan = make_plan(network, ratio=0.5)
    fixed = {group.name.split("/")[1]: group.fixed for group in find_groups(network) if group.fixed}
    # A global skip ties the output to the input.
    assert set(fixed.values()) in ({"a model output"}, {"a model input"})
    assert verify_plan(network, plan).largest_error < 1e-4
    slim = rebuild(network, plan)
    assert type(slim) is type(network)
    assert list(slim.priors) == list(network.priors)
    assert count_parameters(slim) < 0.6 * count_parameters(network)
    assert count_macs(slim, inputs).total < 0.6 * count_macs(network, inputs).total
    assert run(slim, inputs).shape == before.shape
    np.testing.assert_array_equal(run(network, inputs), before)


@pytest.mark.once
def test_is_searched(case):
    """Widths, and for networks of several iterations their number, within a budget."""
    network, inputs = case
    full = count_parameters(network)

    def timer(candidate):
        ratio = count_parameters(candidate) / full
        state = {"first_ms": 1.0, "calls_per_window": 1, "stable": True}
        times = [
            latency.summarize([ms] * 3, **state, peak_memory_bytes=None, fingerprint={})
            for ms in (10.0, 10 * ratio)
        ]
        return latency.Comparison(*times, latency.Ratio(ratio, ratio, ratio, 0.95, 3))

    joint = {"iterations": (1, 2)} if network.iterations == 2 else {}
    groups = find_groups(network)
    result = search.run(
        network,
        budget=search.LatencyBudget(0.7),
        data=inputs,
        trials=4,
        timer=timer,
        seeds=("uniform",),
        space=search.SearchSpace.from_groups(groups, multiple=2, minimum=2, **joint),
    )
    assert result.counts()["feasible"] > 0
    assert result.best.latency_ratio <= 0.7
    slim = search.build(network, result.best.configuration)
    assert count_parameters(slim) == pytest.approx(result.best.latency_ratio * full)


def test_stays_in_float32_under_mixed_precision(case):
    network, inputs = case
    wanted = run(network, inputs)
    make = CASES[next(name for name, kind in NETWORKS.items() if kind is type(network))][0]
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = make()
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(network.get_weights())
    found = run(mixed, inputs)
    assert found.dtype == np.float32
    prior = next(iter(mixed.priors.values()))
    assert prior.layers[1].compute_dtype == "bfloat16"
    error = np.sqrt(np.mean((found - wanted) ** 2)) / wanted.std()
    assert 1e-5 < error < 0.1
