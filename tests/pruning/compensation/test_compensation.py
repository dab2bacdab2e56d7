"""Compensation: exact where nothing is lost, better than cutting elsewhere."""

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.networks import DeepEquilibrium, UnrolledPGD, priors
from spade_keras.operators import Denoising
from spade_keras.pruning import PruningPlan, find_groups, make_plan, rebuild
from spade_keras.pruning.compensation import calibrate
from spade_keras.pruning.compensation import refit as refit_module
from spade_keras.pruning.compensation.passes import Pass
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.importance.obs import OptimalBrainSurgeon
from spade_keras.pruning.rebuild import refit

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


def attending():
    series = keras.Input((9, 4))
    x = layers.Dense(8, activation="tanh", name="embed")(series)
    x = layers.Add()([x, layers.MultiHeadAttention(6, 3, name="heads")(x, x)])
    x = layers.EinsumDense("bti,io->bto", (None, 8), "tanh", bias_axes="o", name="einsum")(x)
    x = layers.TimeDistributed(layers.Dense(7, activation="tanh"), name="steps")(x)
    return drawn(keras.Model(series, layers.Dense(3, name="last")(x)), seed=5)


def grouped_attending():
    series = keras.Input((9, 6))
    x = layers.GroupQueryAttention(3, 8, 4, name="heads")(series, series)
    return drawn(keras.Model(series, layers.Dense(3, name="last")(x)), seed=6)


def recurrent(kind, **settings):
    def make():
        series = keras.Input((7, 4))
        x = kind(6, return_sequences=True, name="cells", **settings)(series)
        x = layers.Bidirectional(kind(5, **settings), name="both")(x)
        return drawn(keras.Model(series, layers.Dense(3, name="last")(x)), seed=7)

    return make


def depthwise():
    image = keras.Input((10, 10, 3))
    x = layers.Conv2D(8, 1, activation="relu", name="expand")(image)
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu", name="depth")(x)
    return drawn(keras.Model(image, layers.Conv2D(4, 1, name="last")(x)), seed=8)


MODELS = {
    "convolutional": convolutional,
    "residual": residual,
    "depthwise": depthwise,
    "attending": attending,
    "grouped_attending": grouped_attending,
    "simple_rnn": recurrent(layers.SimpleRNN),
    "lstm": recurrent(layers.LSTM),
    "gru": recurrent(layers.GRU),
}


def inputs_of(model, samples=24):
    shape = tuple(model.inputs[0].shape[1:])
    return np.random.default_rng(1).normal(size=(samples, *shape)).astype("float32")


def plant(model):
    """Makes channel 1 of every free group dead and channel 2 a copy of channel 0."""
    weights = WeightTable(model)
    for group in find_groups(model):
        if group.fixed is not None:
            continue
        for slot in group.slots:
            if slot.role == "consumer":
                continue
            variable = weights.variable(slot)
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

    def outputs_of(model):
        return keras.ops.convert_to_numpy(model(inputs, training=False))

    wanted = outputs_of(model)
    scale = np.abs(wanted).max()
    cut = outputs_of(rebuild(model, plan))
    found = outputs_of(rebuild(model, plan, calibration=statistics, sequential=sequential))
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


@pytest.mark.parametrize("name", ["convolutional", "residual"])
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


def small(hidden=6):
    stack = [layers.Dense(hidden, activation="tanh", name="hidden"), layers.Dense(3, name="last")]
    return drawn(keras.Sequential([keras.Input((5,)), *stack]), seed=9)


def test_a_plan_holds_the_errors_of_readers_and_gives_them_back():
    model, inputs = small(), inputs_of(small(), 200)
    statistics = calibrate(model, inputs, samples=200)
    plan = make_plan(model, ratio=0.5, calibration=statistics)
    wanted = model.predict(inputs, verbose=0)

    def error(**settings):
        found = rebuild(model, plan, **settings).predict(inputs, verbose=0)
        return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)

    (reader,) = plan.reader_errors
    assert (reader.name, reader.rows, reader.inputs) == ("last/kernel", 200, 6)
    assert reader.before == pytest.approx(error(), rel=1e-3)
    after = error(calibration=statistics, sequential=False)
    assert reader.after == pytest.approx(after, rel=1e-3) and after < 0.8 * reader.before
    assert PruningPlan.from_json(plan.to_json()) == plan
    line = next(x for x in plan.summary().splitlines() if x.startswith("last/kernel"))
    assert line.split() == ["last/kernel", "6", f"{reader.before:.2%}", f"{reader.after:.2%}"]
    plain = make_plan(model, ratio=0.5)
    assert "readers" not in plain.to_json() and plain.reader_errors == ()
    assert "Relative error" not in plain.summary()


def test_errors_are_of_the_prior_of_a_network_and_of_the_outputs_that_stay():
    prior = priors.dncnn(filters=[6, 6], channels=2)
    network = UnrolledPGD(Denoising(), prior, iterations=2)
    inputs = {"measurements": RNG.normal(size=(2, 8, 8, 2)).astype("float32")}
    statistics = calibrate(network, inputs)
    plan = make_plan(network, ratio=0.5, calibration=statistics)
    # The last layer starts with zeros, and loses nothing.
    first, last = plan.reader_errors
    assert first.name.startswith("prior/") and 0 < first.after < first.before
    assert last.before == last.after == 0
    dead = next(v for v in prior.weights if len(v.shape) == 4 and v.shape[2:] == (6, 6))
    kernel = keras.ops.convert_to_numpy(dead).copy()
    gone = sorted(set(range(6)) - set(plan.groups[1].kept))
    kernel[..., gone] *= 100  # an error in channels that go is none
    dead.assign(kernel)
    again = make_plan(network, widths=plan.widths, importance=lambda group, _: np.isin(
        np.arange(group.width), {g.name: g.kept for g in plan.groups}[group.name]
    ).astype(float)[None], calibration=statistics)  # fmt: skip
    assert again.reader_errors[0].before == pytest.approx(first.before, rel=1e-5)


def test_fewer_rows_than_inputs_are_stated_and_change_little():
    model = small(hidden=16)
    statistics = calibrate(model, inputs_of(model, 4))
    plan = make_plan(model, ratio=0.5, calibration=statistics)
    assert "4 rows for 16 inputs: give `calibrate` more samples" in plan.summary()
    more = make_plan(model, ratio=0.5, calibration=calibrate(model, inputs_of(model, 24)))
    assert "more samples" not in more.summary()
    slim = rebuild(model, plan, calibration=statistics)
    assert all(np.isfinite(x).all() for x in slim.get_weights())


@pytest.mark.parametrize("sequential", [True, False])
def test_a_singular_matrix_is_solved_with_the_ridge(sequential):
    model = small()
    inputs = np.tile(inputs_of(model, 1), (30, 1))  # of one row, thirty times
    statistics = calibrate(model, inputs)
    assert np.linalg.matrix_rank(statistics.gram("last")[0]) == 1
    plan = make_plan(model, ratio=0.5)
    slim = rebuild(model, plan, calibration=statistics, sequential=sequential)
    found, wanted = (m.predict(inputs[:1], verbose=0) for m in (slim, model))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_slim_model_with_nan_is_named():
    model = small()
    statistics = calibrate(model, inputs_of(model))
    plan = make_plan(model, ratio=0.5)
    slim = rebuild(model, plan)
    slim.layers[0].bias.assign([np.nan] * 3)
    with pytest.raises(ValueError, match=r"infinity at layer 'hidden'.*Remove fewer"):
        refit(model, slim, plan, statistics)


def deep(layers_of=6):
    x = image = keras.Input((8, 8, 4))
    for i in range(layers_of):
        x = layers.Conv2D(6, 3, padding="same", activation="tanh", name=f"conv_{i}")(x)
    return drawn(keras.Model(image, layers.Conv2D(2, 1, name="last")(x)), seed=2)


@pytest.mark.parametrize("most", [2**30, 0])
def test_every_layer_runs_once_where_memory_allows_and_else_gives_the_same(most, monkeypatch):
    model = deep()
    inputs = inputs_of(model, 16)  # two batches
    statistics = calibrate(model, inputs)
    plan = make_plan(model, ratio=0.5)
    usual = rebuild(model, plan, calibration=statistics).get_weights()
    made = []
    step = Pass._step
    monkeypatch.setattr(refit_module, "_MOST_BYTES", most)
    monkeypatch.setattr(Pass, "_step", lambda *args: made.append(step(*args)))
    found = rebuild(model, plan, calibration=statistics).get_weights()
    # Two models, two batches: six calls each before the last layer, or 1 + 2 + ... + 6.
    assert len(made) == 2 * 2 * (6 if most else 21)
    for a, b in zip(found, usual, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_a_layer_that_is_called_twice_is_fitted_to_both_calls():
    image = keras.Input((6,))
    shared = layers.Dense(6, activation="tanh", name="shared")
    x = shared(shared(image))
    inner = keras.Input((6,))
    nested = keras.Model(inner, layers.Dense(6, activation="tanh", name="inside")(inner))
    x = nested(nested(x))
    model = drawn(keras.Model(image, layers.Dense(2, name="last")(x)), seed=1)
    inputs = inputs_of(model, 40)
    statistics = calibrate(model, inputs)
    assert statistics.parts[""].rows["shared", 0] == 80
    assert any(path.endswith("/inside") for path, _ in statistics.parts[""].rows)
    plan = make_plan(model, ratio=0.0, widths=None)
    slim = rebuild(model, plan, calibration=statistics)
    for a, b in zip(slim.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)  # nothing was removed
