"""Sparse training: the shrinking against its formula, and its effect inside `fit`."""

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.pruning import GroupSparsity, make_plan


def _model(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(5, 3, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(size=w.shape) for w in model.weights])
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def _arrays(model):
    return {
        f"{layer.name}/{weight.name}": keras.ops.convert_to_numpy(weight).astype("float64")
        for layer in model.layers
        for weight in layer.weights
    }


def _norms(arrays):
    rows = arrays["head/kernel"].reshape(16, 5, 3)
    squares = np.square(arrays["conv/kernel"]).sum(axis=(0, 1, 2))
    squares += np.square(arrays["norm/gamma"]) + np.square(rows).sum(axis=(0, 2))
    return np.sqrt(squares)


def _step(trained, **settings):
    callback = GroupSparsity(**settings)
    callback.set_model(trained)
    callback.on_train_begin()
    callback.on_train_batch_end(0)
    return callback


@pytest.mark.parametrize("method", ["group_l1", "group_sl"])
def test_one_step_follows_the_formula(method):
    model = _model()
    before = _arrays(model)
    norms = _norms(before)
    strength = 10 * np.sort(norms)[1:3].mean() if method == "group_l1" else 0.4
    _step(model, strength=strength, method=method)
    if method == "group_l1":
        factors = np.maximum(0, 1 - 0.1 * strength / norms)
        assert (factors == 0).sum() == 2
    else:
        share = (norms.max() - norms) / (norms.max() - norms.min())
        factors = 1 - 0.1 * strength * 2 ** (4 * share)
    after = _arrays(model)
    np.testing.assert_allclose(after["conv/kernel"], before["conv/kernel"] * factors, rtol=1e-5)
    np.testing.assert_allclose(after["norm/gamma"], before["norm/gamma"] * factors, rtol=1e-5)
    scaled = before["head/kernel"] * np.tile(factors, 16)[:, None]
    np.testing.assert_allclose(after["head/kernel"], scaled, rtol=1e-5, atol=1e-7)
    for name in ("conv/bias", "norm/beta", "norm/moving_variance", "head/bias"):
        np.testing.assert_array_equal(after[name], before[name])


def test_frozen_weights_stay_and_do_not_count():
    model = _model()
    model.get_layer("conv").trainable = False
    before = _arrays(model)
    _step(model, strength=0.5)
    after = _arrays(model)
    np.testing.assert_array_equal(after["conv/kernel"], before["conv/kernel"])
    rows = before["head/kernel"].reshape(16, 5, 3)
    norms = np.sqrt(np.square(before["norm/gamma"]) + np.square(rows).sum(axis=(0, 2)))
    np.testing.assert_allclose(
        after["norm/gamma"], before["norm/gamma"] * (1 - 0.05 / norms), rtol=1e-5
    )


def test_every_few_batches_one_step_counts_for_all():
    model, twin = _model(), _model()
    callback = GroupSparsity(0.4, every=2)
    callback.set_model(model)
    callback.on_train_begin()
    before = _arrays(model)
    callback.on_train_batch_end(0)
    np.testing.assert_array_equal(_arrays(model)["conv/kernel"], before["conv/kernel"])
    callback.on_train_batch_end(1)
    _step(twin, strength=0.8)
    np.testing.assert_allclose(
        _arrays(model)["conv/kernel"], _arrays(twin)["conv/kernel"], rtol=1e-6
    )


def test_training_makes_whole_channels_zero_while_the_others_learn():
    generator = np.random.default_rng(1)
    x = generator.normal(size=(64, 4, 4, 2)).astype("float32")
    means = x.mean(axis=(1, 2))
    y = np.stack([means[:, 0], means[:, 1], x[:, 0, 0, 0]], axis=1)

    def trained(callbacks):
        model = _model()
        model.compile(optimizer=keras.optimizers.Adam(0.02), loss="mse")
        history = model.fit(x, y, epochs=8, batch_size=16, verbose=0, callbacks=callbacks)
        return model, history.history["loss"]

    plain, _ = trained([])
    sparse, losses = trained([GroupSparsity(12.0)])
    assert (_norms(_arrays(plain)) > 0.5).all()
    norms = _norms(_arrays(sparse))
    dead = norms < 1e-6
    assert list(np.flatnonzero(dead)) == [0, 3] and losses[-1] < losses[0]
    kernel = _arrays(sparse)["conv/kernel"]
    assert (kernel[..., dead] == 0).all() and (np.abs(kernel[..., ~dead]) > 0).any()
    kept = make_plan(sparse, widths={"conv": int((~dead).sum())}).groups[0].kept
    assert kept == tuple(np.flatnonzero(~dead))


def test_an_inner_model_may_be_named():
    inner = _model()
    outer = keras.Sequential([keras.Input((4, 4, 2)), inner])
    outer.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    before = _arrays(inner)
    _step(outer, strength=0.5, model=inner)
    norms = _norms(before)
    np.testing.assert_allclose(
        _arrays(inner)["norm/gamma"], before["norm/gamma"] * (1 - 0.05 / norms), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0}, "`strength` must be positive. Received: strength=0"),
        ({"strength": 1, "method": "l1"}, "Received: method='l1'"),
        ({"strength": 1, "every": 0}, "Received: every=0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GroupSparsity(**settings)
