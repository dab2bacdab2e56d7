"""Compensation: exact where nothing is lost, better than cutting elsewhere."""

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.networks import DeepEquilibrium, UnrolledPGD, priors
from spade_keras.operators import Denoising
from spade_keras.pruning import find_groups, make_plan, rebuild
from spade_keras.pruning.compensation import calibrate
from spade_keras.pruning.importance.obs import OptimalBrainSurgeon

RNG = np.random.default_rng(0)


def drawn(model, seed):
    """Gives every kernel the same normal numbers on each backend."""
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name.endswith("kernel"):
            fan_in = np.prod(weight.shape[:-1])
            weight.assign(generator.normal(size=weight.shape) * np.sqrt(2 / fan_in))
    return model


def convolutional():
    image = keras.Input((12, 12, 2))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(image)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="second")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2DTranspose(6, 2, strides=2, activation="tanh", name="up")(x)
    x = layers.SeparableConv2D(6, 3, activation="relu", name="separable")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    return drawn(keras.Model(image, layers.Dense(3, name="last")(x)), seed=3)


def residual():
    image = keras.Input((10, 10, 3))
    trunk = layers.Conv2D(8, 3, padding="same", name="stem")(image)
    for name in "ab":
        x = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"{name}_in")(trunk)
        x = layers.Conv2D(8, 3, padding="same", name=f"{name}_out")(x)
        trunk = layers.Add(name=f"{name}_add")([trunk, x])
    return drawn(keras.Model(image, layers.Conv2D(2, 1, name="last")(trunk)), seed=4)


MODELS = {"convolutional": convolutional, "residual": residual}


def inputs_of(model, samples=24):
    shape = tuple(model.inputs[0].shape[1:])
    return np.random.default_rng(1).normal(size=(samples, *shape)).astype("float32")


def plant(model):
    """Makes channel 1 of every free group dead and channel 2 a copy of channel 0."""
    layers_by_name = {layer.name: layer for layer in model.layers}
    for group in find_groups(model):
        if group.fixed is not None:
            continue
        for slot in group.slots:
            if slot.role == "consumer":
                continue
            variable = layers_by_name[slot.layer].weights[slot.weight_index]
            value = np.array(keras.ops.convert_to_numpy(variable))
            front = np.moveaxis(value, slot.axis, 0)
            if slot.weight not in ("moving_variance", "depthwise_kernel", "gamma"):
                front[slot.positions[1]] = 0
            front[slot.positions[2]] = front[slot.positions[0]]
            variable.assign(value)


def planted_first(group, weights):
    return np.where(np.isin(np.arange(group.width), (1, 2)), 0.0, 1.0)[None]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("sequential", [True, False])
def test_removing_dead_and_duplicated_channels_costs_nothing(name, sequential):
    model = MODELS[name]()
    plant(model)
    inputs = inputs_of(model)
    statistics = calibrate(model, inputs)
    widths = {g.name: g.width - 2 for g in find_groups(model) if g.fixed is None}
    plan = make_plan(model, widths=widths, importance=planted_first)
    wanted = model.predict(inputs, verbose=0)
    scale = np.abs(wanted).max()
    cut = rebuild(model, plan).predict(inputs, verbose=0)
    slim = rebuild(model, plan, calibration=statistics, sequential=sequential)
    found = slim.predict(inputs, verbose=0)
    assert np.abs(cut - wanted).max() > 1e-2 * scale  # the copies carried something
    assert np.abs(found - wanted).max() < 1e-4 * scale


def test_dead_and_duplicated_channels_go_first():
    model = residual()
    plant(model)
    statistics = calibrate(model, inputs_of(model))
    widths = {g.name: g.width - 2 for g in find_groups(model) if g.fixed is None}
    plan = make_plan(model, widths=widths, importance="obs", calibration=statistics)
    for group in plan.groups:
        if group.name in widths:
            assert 1 not in group.kept and not {0, 2} <= set(group.kept), group


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("importance", ["group_l1", "obs"])
def test_a_refitted_model_is_nearer_than_a_cut_one(name, importance):
    model = MODELS[name]()
    inputs = inputs_of(model, 48)
    statistics = calibrate(model, inputs[:24])
    plan = make_plan(model, ratio=0.5, importance=importance, calibration=statistics)
    wanted = model.predict(inputs[24:], verbose=0)

    def error(slim):
        return float(np.mean(np.square(slim.predict(inputs[24:], verbose=0) - wanted)))

    cut = error(rebuild(model, plan))
    closed = error(rebuild(model, plan, calibration=statistics, sequential=False))
    sequential = error(rebuild(model, plan, calibration=statistics))
    assert closed < 0.9 * cut
    assert sequential < closed


def test_the_closed_form_is_least_squares_on_what_the_reader_sees():
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(6, activation="relu", name="hidden")
    model = keras.Sequential([keras.Input((5,)), hidden, layers.Dense(3, name="last")])
    inputs = RNG.normal(size=(400, 5)).astype("float32")
    kept = (0, 2, 3)
    statistics = calibrate(model, inputs, samples=400)
    plan = make_plan(model, widths={"hidden": 3}, importance=lambda group, weights: -np.isin(
        np.arange(group.width), kept, invert=True
    ).astype(float)[None])  # fmt: skip
    assert plan.groups[0].kept == kept
    slim = rebuild(model, plan, calibration=statistics, sequential=False)
    activations = keras.ops.convert_to_numpy(hidden(inputs)).astype("float64")
    rows = np.concatenate([activations[:, kept], np.ones((400, 1))], axis=1)
    wanted, *_ = np.linalg.lstsq(rows, model.predict(inputs, verbose=0), rcond=None)
    kernel, bias = slim.layers[-1].get_weights()
    found = np.concatenate([kernel, bias[None]])
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)


def test_elimination_takes_what_costs_least_when_the_rest_is_refitted():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(5, name="hidden"), layers.Dense(4, name="last")]
    )
    inputs = (RNG.normal(size=(300, 3)) @ RNG.normal(size=(3, 8))).astype("float32")
    inputs += 0.3 * RNG.normal(size=inputs.shape).astype("float32")
    scores = scores_of(model, inputs)
    x, targets = (
        keras.ops.convert_to_numpy(tensor).astype("float64")
        for tensor in (model.layers[0](inputs), model(inputs))
    )
    x = np.concatenate([x, np.ones((300, 1))], axis=1)

    def loss(kept):
        columns = x[:, [*kept, 5]]
        fit, *_ = np.linalg.lstsq(columns, targets, rcond=None)
        return np.square(columns @ fit - targets).sum()

    alive, order = list(range(5)), []
    while len(alive) > 1:
        gone = min(alive, key=lambda c: loss([k for k in alive if k != c]))
        order.append(gone)
        alive.remove(gone)
    assert list(np.argsort(scores)) == order + alive


def scores_of(model, inputs):
    from spade_keras.pruning.graph.weights import WeightTable

    (group,) = [g for g in find_groups(model) if g.fixed is None]
    return OptimalBrainSurgeon(calibrate(model, inputs, samples=300))(group, WeightTable(model))[0]


@pytest.mark.parametrize("kind", [UnrolledPGD, DeepEquilibrium])
def test_the_prior_of_a_network_is_measured_on_its_own_trajectory(kind):
    keras.utils.set_random_seed(0)
    prior = priors.dncnn(filters=[6, 6], channels=2)
    for weight in prior.weights:  # the last layer starts with zeros
        weight.assign(0.2 * RNG.normal(size=weight.shape))
    network = kind(Denoising(), prior, iterations=3)
    inputs = {"measurements": RNG.normal(size=(4, 12, 12, 2)).astype("float32")}
    statistics = calibrate(network, inputs, samples=1000)
    first = statistics.parts["prior"].inputs
    start = inputs["measurements"]
    assert len(first) >= 3 * len(start) if kind is UnrolledPGD else len(first) > len(start)
    plan = make_plan(network, ratio=0.5, importance="obs", calibration=statistics)
    wanted = keras.ops.convert_to_numpy(network(inputs))

    def error(slim):
        return float(np.mean(np.square(keras.ops.convert_to_numpy(slim(inputs)) - wanted)))

    slim = rebuild(network, plan, calibration=statistics)
    assert type(slim) is kind
    assert error(slim) < 0.7 * error(rebuild(network, plan))
    assert "call" not in vars(network.prior)  # the recording is over


def test_bad_inputs_are_named():
    model = convolutional()
    with pytest.raises(ValueError, match="at least one sample"):
        calibrate(model, inputs_of(model)[:0])
    broken = inputs_of(model)
    broken[3, 2, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"finite activations.*before layer 'first'"):
        calibrate(model, broken)
    with pytest.raises(ValueError, match="calibration=calibrate"):
        make_plan(model, ratio=0.5, importance="obs")


def test_inputs_of_zeros_leave_the_weights_that_are_seen_only_as_zeros():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(6, use_bias=False), layers.Dense(2, use_bias=False)]
    )
    statistics = calibrate(model, np.zeros((8, 4), "float32"))
    plan = make_plan(model, ratio=0.5)
    slim = rebuild(model, plan, calibration=statistics)
    for a, b in zip(slim.get_weights(), rebuild(model, plan).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
