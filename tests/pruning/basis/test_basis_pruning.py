"""Importances of components and the callback that prunes by them while a model trains."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from spade_keras.backend import loss_gradients
from spade_keras.pruning.basis import (
    COMPONENT_IMPORTANCES,
    BasisImportance,
    BasisPruning,
    NotDecomposedError,
    decompose,
    find_pairs,
    merge,
    prune_components,
)
from spade_keras.pruning.basis.basis_pruning import GradientRecorder
from spade_keras.pruning.basis.rank_groups import to_matrix

LOSS = keras.losses.SparseCategoricalCrossentropy()


def _model(seed=0):
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation="relu", name="conv")(inputs)
    x = layers.Conv2D(6, 3, groups=2, activation="tanh", name="grouped")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, name="up")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="head")(x))
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(0.5 * generator.normal(size=weight.shape))
    return model


def _data(count=24, seed=1):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, 6, 6, 2)).astype("float32")
    return x, np.digitize(x.mean(axis=(1, 2, 3)), [-0.05, 0.05])


def _compiled(rate=0.0, **settings):
    low = decompose(_model(), **settings)
    low.compile(keras.optimizers.SGD(rate), LOSS, metrics=["accuracy"])
    return low


def test_the_gradient_of_a_factor_is_sigma_u_gradient_v():
    model, (x, y) = _model(), _data()
    low = decompose(model)
    kernels = {id(v): g for v, g in zip(
        model.trainable_variables, loss_gradients(model, LOSS, x, y), strict=True)}  # fmt: skip
    found = {id(v): g for v, g in zip(
        low.trainable_variables, loss_gradients(low, LOSS, x, y), strict=True)}  # fmt: skip
    for pair in find_pairs(low):
        layer = model.get_layer(pair.name)
        gradient = to_matrix(layer, kernels[id(layer.kernel)].astype("float64"))
        u, sigma, v = np.linalg.svd(
            to_matrix(layer, ops.convert_to_numpy(layer.kernel).astype("float64")),
            full_matrices=False,
        )
        wanted = sigma * np.einsum("gnr,gnc,grc->gr", u, gradient, v)
        got = found[id(pair.scaling.scale)]
        np.testing.assert_allclose(got, wanted.ravel(), rtol=1e-3, atol=1e-4 * abs(wanted).max())


@pytest.mark.parametrize("optimizer", ["plain", "scaled"])
def test_effects_are_those_of_the_mini_batches(optimizer):
    x, y = _data()
    low = _compiled()
    chosen = keras.optimizers.SGD(0.0, clipnorm=1e-3)
    if optimizer == "scaled":
        chosen = keras.optimizers.LossScaleOptimizer(chosen, initial_scale=8.0)
    low.compile(chosen, LOSS)
    for pair in find_pairs(low):
        scale = np.random.default_rng(0).uniform(0.5, 2, pair.scaling.scale.shape)
        pair.scaling.scale.assign(scale)
    recorder = GradientRecorder([pair.scaling for pair in find_pairs(low)])
    if optimizer == "scaled":
        low.fit(x[:8], y[:8], verbose=0)
    recorder.attach(low)
    low.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    found = recorder.read()
    wanted = [0.0] * len(found)
    scales = [ops.convert_to_numpy(v) for v in low.trainable_variables]
    for start in (0, 8, 16):
        gradients = loss_gradients(low, LOSS, x[start : start + 8], y[start : start + 8])
        wanted = [w + np.square(s * g) / 3 for w, s, g in zip(
            wanted, scales, gradients, strict=True)]  # fmt: skip
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * b.max())
    low.fit(x[:8], y[:8], batch_size=8, verbose=0)
    again = recorder.read()
    assert again[0].max() > 0 and not np.allclose(again[0], found[0])
    recorder.detach()


def test_the_optimizer_is_left_as_it_was():
    x, y = _data()
    low = _compiled()
    low.fit(x, y, verbose=0)
    before = [id(v) for v in low.optimizer.variables]
    for _ in range(2):
        low.fit(x, y, verbose=0, callbacks=[BasisPruning(1, monitor="loss")])
        assert [id(v) for v in low.optimizer.variables] == before
        assert "apply" not in vars(low.optimizer)
    # A recorder that an exception has left behind makes way for the next one.
    left = GradientRecorder([pair.scaling for pair in find_pairs(low)])
    left.attach(low)
    low.fit(x, y, verbose=0, callbacks=[BasisPruning(1, monitor="loss")])
    assert [id(v) for v in low.optimizer.variables] == before


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "taylor" else pytest.mark.once)
        for name in COMPONENT_IMPORTANCES
    ],
)
def test_every_importance_prunes_the_stated_number_per_epoch(name):
    x, y = _data()
    low = _compiled(0.01)
    callback = BasisPruning(3, monitor="loss", max_loss=100.0, importance=name)
    total = sum(pair.scaling.rank for pair in find_pairs(low))
    low.fit(x, y, epochs=4, verbose=0, callbacks=[callback])
    assert [r.components for r in callback.history] == [total - 3 * i for i in range(4)]
    assert all(r.met for r in callback.history)
    # The round after the last epoch was never measured, so it is taken back.
    assert sum(len(pair.scaling.alive) for pair in find_pairs(low)) == total - 9


@pytest.mark.once
def test_a_share_is_one_of_the_start_and_each_layer_keeps_a_component():
    x, y = _data()
    low = _compiled(0.01)
    total = sum(pair.scaling.rank for pair in find_pairs(low))
    callback = BasisPruning(0.4, monitor="loss", max_loss=100.0, importance="sigma")
    low.fit(x, y, epochs=6, verbose=0, callbacks=[callback])
    share = round(0.4 * total)
    sizes = [r.components for r in callback.history]
    assert sizes[:2] == [total, total - share] and sizes[-1] == len(find_pairs(low))
    assert [len(pair.scaling.alive) for pair in find_pairs(low)] == [1] * len(find_pairs(low))


@pytest.mark.once
def test_few_enough_parameters_end_the_training():
    x, y = _data()
    low = _compiled(0.01)
    kernels = {pair.name: pair.basis for pair in find_pairs(low)}
    whole = sum(ops.size(_model().get_layer(name).kernel) for name in kernels)

    def share():
        layers_left = [x for x in merge(low).layers if hasattr(x, "kernel")]
        return sum(ops.size(x.kernel) for x in layers_left) / whole

    class Watch(keras.callbacks.Callback):
        shares = []  # noqa: RUF012

        def on_epoch_end(self, epoch, logs=None):
            self.shares.append(share())

    callback = BasisPruning(1, monitor="loss", max_loss=100.0, importance="sigma", stop_at=0.6)
    low.fit(x, y, epochs=40, verbose=0, callbacks=[Watch(), callback])
    *before, last = Watch.shares
    assert len(before) > 3 and min(before) > 0.6 >= last == share()


@pytest.mark.once
def test_the_network_is_ranked_as_a_whole():
    low = decompose(_model())
    pairs = find_pairs(low)
    scores = {pair.name: np.full(pair.scaling.rank, 5.0) for pair in pairs}
    scores["conv"][:] = [9, 1, 9, 2, 9, 9, 9, 9]
    scores["head"][:] = [3, 0, 8]
    assert prune_components(pairs, 4, scores) == 4
    assert list(low.get_layer("conv").alive) == [0, 2, 4, 5, 6, 7]
    assert list(low.get_layer("head").alive) == [2]
    assert prune_components(pairs, 1000, scores) == sum(p.scaling.rank for p in pairs) - 4 - 4
    assert [len(pair.scaling.alive) for pair in pairs] == [1] * 4


@pytest.mark.once
def test_sigma_times_s_is_the_share_of_the_kernels_energy():
    low = decompose(_model())
    pair = next(pair for pair in find_pairs(low) if pair.name == "grouped")
    pair.scaling.scale.assign(np.arange(1.0, 7.0))
    scores = COMPONENT_IMPORTANCES.make("sigma")(pair, None)
    energy = np.square(pair.scaling.effective_directions()).sum(axis=2)
    np.testing.assert_allclose(scores, energy / energy.sum(), rtol=1e-5)
    assert scores.shape == (2, 3)


class _Logged(keras.callbacks.Callback):
    """Replaces the monitored value by one that is given, and remembers the factors."""

    def __init__(self, values):
        super().__init__()
        self.values, self.scales, self.alive = values, [], []

    def on_epoch_end(self, epoch, logs=None):
        logs["value"] = self.values[epoch]
        self.scales.append(ops.convert_to_numpy(self.model.get_layer("conv").scale))
        self.alive.append([list(p.scaling.alive) for p in find_pairs(self.model)])


def _fit_with(values, **settings):
    x, y = _data()
    low = _compiled(0.05)
    watch = _Logged(values)
    callback = BasisPruning(2, monitor="value", **settings)
    low.fit(x, y, epochs=len(values), verbose=0, callbacks=[watch, callback])
    scale = ops.convert_to_numpy(low.get_layer("conv").scale)
    alive = [list(p.scaling.alive) for p in find_pairs(low)]
    ends = [np.array_equal(scale, s) and alive == a for s, a in zip(
        watch.scales, watch.alive, strict=True)]  # fmt: skip
    return [r.met for r in callback.history], ends.index(True)


@pytest.mark.parametrize(
    ("values", "settings", "met", "restored"),
    [
        # Epoch 3 falls below 0.9 - 0.01: training stops, and epoch 2 comes back.
        ([0.9, 0.95, 0.89, 0.87, 0.95], {"mode": "max"}, [True, True, True, False], 2),
        # The best of two warm-up epochs, 0.95, is the reference.
        pytest.param(
            [0.9, 0.95, 0.941, 0.93, 0.95],
            {"mode": "max", "warmup": 2},
            [1, 1, 1, 0],
            2,
            marks=pytest.mark.once,
        ),
        # A loss may rise; the patience lets epoch 3 recover what epoch 2 lost.
        pytest.param(
            [0.5, 0.5, 0.7, 0.505, 0.7, 0.7],
            {"patience": 1},
            [1, 1, 0, 1, 0, 0],
            3,
            marks=pytest.mark.once,
        ),
        # With a reference the warm-up is judged as well.
        pytest.param(
            [0.5, 0.42, 0.4],
            {"reference": 0.41, "warmup": 0},
            [False],
            None,
            marks=pytest.mark.once,
        ),
        pytest.param(
            [0.42, 0.41, 0.5],
            {"reference": 0.41, "warmup": 0},
            [True, True, False],
            1,
            marks=pytest.mark.once,
        ),
        pytest.param(
            [0.9, float("nan"), 0.9], {"mode": "max"}, [True, False], 0, marks=pytest.mark.once
        ),
    ],
)
def test_training_stops_at_the_stated_loss_and_the_last_good_state_returns(
    values, settings, met, restored
):
    found, end = _fit_with(values, max_loss=0.0101, **settings)
    assert found == [bool(x) for x in met]
    assert end == (restored if restored is not None else 0)


@pytest.mark.once
def test_more_is_better_where_the_name_says_so():
    x, y = _data()
    low = _compiled(0.01)
    callback = BasisPruning(1, monitor="val_accuracy", reference=1.01, max_loss=0, warmup=0)
    low.fit(x, y, epochs=3, verbose=0, callbacks=[callback], validation_data=(x, y))
    assert [r.met for r in callback.history] == [False]


def test_the_inner_model_of_a_wrapper_is_pruned():
    x, y = _data()
    low = decompose(_model())
    outer = keras.Sequential([keras.Input((6, 6, 2)), low, layers.Dense(3, activation="softmax")])
    outer.compile("adam", LOSS)
    callback = BasisPruning(2, monitor="loss", max_loss=10.0, model=low)
    outer.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    rank = sum(pair.scaling.rank for pair in find_pairs(low))
    assert sum(len(pair.scaling.alive) for pair in find_pairs(low)) == rank - 4


@pytest.mark.once
def test_pruned_components_stay_pruned_while_the_others_learn():
    x, y = _data()
    low = _compiled(0.05)
    low.get_layer("conv").keep([1, 2])
    before = ops.convert_to_numpy(low.get_layer("conv").scale)
    low.fit(x, y, epochs=2, verbose=0)
    changed = ops.convert_to_numpy(low.get_layer("conv").scale) != before
    assert list(np.flatnonzero(changed)) == [1, 2]


@pytest.mark.once
def test_a_model_that_was_not_decomposed_is_refused():
    x, y = _data()
    model = _model()
    model.compile("sgd", LOSS)
    with pytest.raises(NotDecomposedError, match=r"has no basis scaling layer. Pass `decompose"):
        model.fit(x, y, verbose=0, callbacks=[BasisPruning(1, monitor="loss")])


@pytest.mark.once
def test_frozen_factors_and_unknown_metrics_are_refused():
    x, y = _data()
    low = _compiled(0.05)
    with pytest.raises(ValueError, match=r"`monitor` must be one of the logged .*'loss'"):
        low.fit(x, y, verbose=0, callbacks=[BasisPruning(1, monitor="val_loss")])
    low.get_layer("conv").trainable = False
    low.compile("sgd", LOSS)
    with pytest.raises(ValueError, match=r"frozen factors in \['conv'\]"):
        low.fit(x, y, verbose=0, callbacks=[BasisPruning(1, monitor="loss")])


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_epoch": 0}, "Received: per_epoch=0"),
        ({"per_epoch": 1.5}, "Received: per_epoch=1.5"),
        ({"mode": "best"}, "Received: mode='best'"),
        ({"max_loss": -0.1}, "Received: max_loss=-0.1"),
        ({"warmup": -1}, "`warmup` must be a count. Received: warmup=-1"),
        ({"warmup": 0}, "when there is no `reference`. Received: warmup=0"),
        ({"patience": 1.5}, "Received: patience=1.5"),
        ({"importance": "tailor"}, "Did you mean 'taylor'"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        BasisPruning(**settings)


@pytest.mark.once
def test_an_importance_may_be_registered():
    class Zero(BasisImportance):
        def __call__(self, pair, effects):
            return np.zeros((pair.scaling.groups, pair.scaling.rank))

    COMPONENT_IMPORTANCES.register("zero", Zero)
    try:
        assert isinstance(BasisPruning(importance="zero").importance, Zero)
        with pytest.raises(ValueError, match="'zero' exists already"):
            COMPONENT_IMPORTANCES.register("zero", Zero)
        with pytest.raises(ValueError, match="Received: 3"):
            COMPONENT_IMPORTANCES.register("three", 3)
    finally:
        COMPONENT_IMPORTANCES.unregister("zero")
    with pytest.raises(ValueError, match="`effects` must be recorded"):
        COMPONENT_IMPORTANCES.make("taylor")(find_pairs(decompose(_model()))[0], None)


@pytest.mark.once
def test_scores_must_be_finite_and_one_per_component():
    class Wrong(BasisImportance):
        def __call__(self, pair, effects):
            return np.full((pair.scaling.groups, pair.scaling.rank), np.nan)

    low, (x, y) = _compiled(), _data()
    with pytest.raises(ValueError, match=r"finite scores of shape \(1, 8\) for layer 'conv'"):
        low.fit(x, y, verbose=0, callbacks=[BasisPruning(1, monitor="loss", importance=Wrong())])
