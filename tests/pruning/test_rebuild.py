import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from spade_keras.errors import PlanMismatchError, RebuildError
from spade_keras.pruning import make_plan
from spade_keras.pruning.plan import ChannelStep, GroupPlan, PruningPlan
from spade_keras.pruning.rebuild import rebuild
from spade_keras.pruning.verify import verify_plan


def residual_network(filters=8, name="net"):
    inputs = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name="stem")(inputs)
    y = keras.layers.Conv2D(filters, 3, padding="same", name="branch")(x)
    y = keras.layers.BatchNormalization(name="norm")(y)
    x = keras.layers.Add(name="sum")([x, y])
    y = keras.layers.Conv2D(6, 3, padding="same", name="side")(x)
    x = keras.layers.Concatenate(name="both")([x, y, inputs])
    outputs = keras.layers.Conv2D(2, 1, name="head")(x)
    return keras.Model(inputs, outputs, name=name)


def test_rebuild_narrows_every_layer_and_keeps_the_original():
    model = residual_network()
    before = [np.array(w) for w in model.get_weights()]
    plan = make_plan(model, ratio=0.5)
    slim = rebuild(model, plan)
    shapes = {w.path: tuple(w.shape) for w in slim.weights}
    assert shapes["stem/kernel"] == (3, 3, 3, 4)
    assert shapes["branch/kernel"] == (3, 3, 4, 4)
    assert shapes["norm/moving_mean"] == (4,)
    assert shapes["side/kernel"] == (3, 3, 4, 3)
    assert shapes["head/kernel"] == (1, 1, 4 + 3 + 3, 2)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert verify_plan(model, plan).largest_error < 1e-5


def test_kept_weights_are_slices_of_the_original():
    model = residual_network()
    plan = make_plan(model, widths={"side": 4})
    kept = next(group.kept for group in plan.groups if group.name == "side")
    slim = rebuild(model, plan)
    kernel = np.asarray(model.get_layer("side").get_weights()[0])
    np.testing.assert_array_equal(slim.get_layer("side").get_weights()[0], kernel[..., kept])


def test_a_plan_for_another_model_names_the_first_difference():
    plan = make_plan(residual_network(), ratio=0.5)
    with pytest.raises(PlanMismatchError, match="'stem' is 16 wide"):
        rebuild(residual_network(16), plan)
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    with pytest.raises(PlanMismatchError, match="no group 'stem'"):
        rebuild(other, plan)


def every_stock_layer():
    image = keras.Input((8, 8, 3), name="image")
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    regularizer = keras.regularizers.L2(1e-3)
    x = keras.layers.Conv2D(8, 3, kernel_regularizer=regularizer, name="conv")(image)
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = keras.layers.Dropout(0.5, seed=3, name="drop")(keras.layers.ReLU()(x))
    inner = keras.Sequential(
        [keras.Input((6, 6, 8)), keras.layers.DepthwiseConv2D(3), keras.layers.Conv2D(6, 1)],
        name="inner",
    )
    x = keras.layers.Flatten()(inner(x))
    y = keras.layers.Embedding(9, 6, mask_zero=True, name="embed")(tokens)
    y = keras.layers.Bidirectional(keras.layers.GRU(4), name="both")(y)
    x = keras.layers.Dense(6, activation="relu", name="hidden")(keras.ops.concatenate([x, y], -1))
    return keras.Model({"image": image, "tokens": tokens}, keras.layers.Dense(3, name="out")(x))


def test_configuration_survives():
    model = every_stock_layer()
    model.get_layer("conv").trainable = False
    model.get_layer("inner").trainable = False
    model.get_layer("inner").layers[1].trainable = True
    slim = rebuild(model, make_plan(model, ratio=0.5))
    assert [layer.name for layer in slim.layers] == [layer.name for layer in model.layers]
    assert slim.get_layer("conv").kernel_regularizer.l2 == pytest.approx(1e-3)
    initializer = slim.get_layer("conv").kernel_initializer
    assert isinstance(initializer, keras.initializers.GlorotUniform)
    assert slim.get_layer("norm").momentum == 0.9
    assert not slim.get_layer("conv").trainable
    inner = slim.get_layer("inner")
    assert [layer.trainable for layer in inner.layers] == [False, True]
    assert [v.trainable for v in slim.variables] == [v.trainable for v in model.variables]
    old, new = (m.get_layer("drop").seed_generator.state for m in (model, slim))
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(old.value), keras.ops.convert_to_numpy(new.value)
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_dtype_policy_survives(policy):
    x = keras.Input((4,))
    y = keras.layers.Dense(8, dtype=policy, name="a")(x)
    model = keras.Model(x, keras.layers.Dense(2, dtype=policy)(y))
    slim = rebuild(model, make_plan(model, ratio=0.5))
    assert slim.get_layer("a").dtype_policy.name == policy
    assert slim.get_layer("a").kernel.shape == (4, 4)


def test_the_file_loads_where_only_keras_is_installed(tmp_path):
    model = every_stock_layer()
    slim = rebuild(model, make_plan(model, ratio=0.5))
    slim.save(tmp_path / "slim.keras")
    rng = np.random.default_rng(0)
    inputs = {
        "image": rng.normal(size=(2, 8, 8, 3)).astype("float32"),
        "tokens": np.array([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8]]),
    }
    np.savez(tmp_path / "inputs.npz", **inputs)
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('slim.keras')\n"
        "answer = model.predict(dict(np.load('inputs.npz')), verbose=0)\n"
        "assert not any(name.startswith('spade_keras') for name in sys.modules)\n"
        "np.save('answer.npy', answer)\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    wanted = slim.predict(inputs, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), wanted, atol=1e-5)


def test_a_sequential_stays_one():
    layers = [keras.Input((6, 6, 2)), keras.layers.Conv2D(8, 3), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(3)], name="stack")
    slim = rebuild(model, make_plan(model, ratio=0.5))
    assert isinstance(slim, keras.Sequential)
    assert slim.name == "stack"
    assert slim.layers[0].filters == 4


def test_the_slim_model_trains():
    model = residual_network()
    slim = rebuild(model, make_plan(model, ratio=0.5))
    slim.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    first = slim.fit(x, x[..., :2], epochs=6, verbose=0).history["loss"]
    assert first[-1] < first[0]


def test_a_plan_that_touches_a_fixed_group_is_refused():
    model = residual_network()
    plan = PruningPlan("net", (ChannelStep((GroupPlan("head", 2, (0,)),), "by hand"),))
    with pytest.raises(PlanMismatchError, match="fixed: a model output"):
        rebuild(model, plan)


def test_unequal_blocks_are_refused():
    x = keras.Input((4, 4, 3))
    y = keras.layers.GroupNormalization(2)(keras.layers.Conv2D(8, 1, name="a")(x))
    model = keras.Model(x, keras.layers.Conv2D(2, 1)(y))
    plan = PruningPlan("m", (ChannelStep((GroupPlan("a", 8, (0, 1, 2, 4)),), "by hand"),))
    with pytest.raises(PlanMismatchError, match="equally many"):
        rebuild(model, plan)


def test_nan_weights_are_refused():
    model = residual_network()
    plan = make_plan(model, ratio=0.5)
    kernel, bias = model.get_layer("head").get_weights()
    model.get_layer("head").set_weights([kernel * np.nan, bias])
    with pytest.raises(RebuildError, match="NaN in head/kernel"):
        rebuild(model, plan)


def test_a_layer_without_a_configuration_is_refused():
    class Custom(keras.layers.Layer):
        def __init__(self, function):
            super().__init__(name="custom")
            self.function = function

        def call(self, x):
            return self.function(x)

    x = keras.Input((4,))
    y = keras.layers.Dense(8)(Custom(keras.ops.tanh)(keras.layers.Dense(4)(x)))
    model = keras.Model(x, keras.layers.Dense(2)(y))
    with pytest.raises(RebuildError, match="'custom'"):
        rebuild(model, make_plan(model, ratio=0.5))


def test_lambda_keeps_its_function():
    x = keras.Input((4,))
    y = keras.layers.Lambda(lambda t: t * 2.0, name="twice")(keras.layers.Dense(4)(x))
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Dense(8)(y)))
    plan = make_plan(model, ratio=0.5)
    assert verify_plan(model, plan).largest_error < 1e-4


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="needs channels_first on CPU")
def test_channels_first():
    x = keras.Input((3, 8, 8))
    settings = {"data_format": "channels_first", "padding": "same"}
    y = keras.layers.Conv2D(8, 3, name="a", **settings)(x)
    y = keras.layers.BatchNormalization(axis=1)(y)
    y = keras.layers.DepthwiseConv2D(3, **settings)(y)
    y = keras.layers.GroupNormalization(2, axis=1)(y)
    y = keras.layers.MaxPooling2D(data_format="channels_first")(y)
    y = keras.layers.SeparableConv2D(6, 3, name="s", **settings)(y)
    z = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(y)
    y = keras.layers.Flatten(data_format="channels_first")(y)
    model = keras.Model(x, keras.layers.Dense(2)(keras.layers.Concatenate()([y, z])))
    plan = make_plan(model, ratio=0.5)
    assert {name: plan.widths[name] for name in ("a", "s")} == {"a": 4, "s": 3}
    verify_plan(model, plan)
