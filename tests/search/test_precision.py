"""Compute dtypes: same weights, float32 outputs, the rounding of the dtype asked for."""

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.pruning import find_groups, make_plan, rebuild
from spade_keras.search.candidate import with_dtype

ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}


def answer(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def picture(channels=2):
    return np.random.default_rng(0).normal(size=(2, 8, 8, channels)).astype("float32")


def denoiser():
    model = priors.dncnn(filters=[8, 6])
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.normal(0, 0.2, weight.shape))
    return model


@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_computes_in_that_dtype_and_answers_in_float32(dtype):
    model, x = denoiser(), picture()
    before = answer(model, x)
    lower = with_dtype(model, dtype)
    computed = {layer.name: layer.compute_dtype for layer in lower.layers[1:]}
    assert computed.pop("skip") == "float32"
    assert set(computed.values()) == {dtype}
    assert {weight.dtype for weight in lower.weights} == {"float32"}
    for old, new in zip(model.get_weights(), lower.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    after = answer(lower, x)
    assert after.dtype == lower.predict(x, verbose=0).dtype == np.float32
    error = np.abs(after - before).max() / np.abs(before - x).max()
    assert 0.05 * ROUNDING[dtype] < error < 4 * ROUNDING[dtype]
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    np.testing.assert_array_equal(answer(model, x), before)


def test_a_global_skip_does_not_round_the_image():
    lower = with_dtype(priors.dncnn(filters=[4]), "bfloat16")
    x = picture() + 100
    np.testing.assert_array_equal(answer(lower, x), x)


@pytest.mark.once
def test_there_and_back():
    model, x = denoiser(), picture()
    again = with_dtype(with_dtype(model, "float16"), "float32")
    assert again.get_config() == with_dtype(model, "float32").get_config()
    np.testing.assert_array_equal(answer(again, x), answer(model, x))


@pytest.mark.once
def test_a_network_changes_its_priors_alone():
    network = UnrolledPGD(CartesianMRI(), denoiser(), iterations=2)
    network.step_sizes.assign([0.7, 0.4])
    lower = with_dtype(network, "bfloat16")
    assert lower.prior.get_layer("conv_0").compute_dtype == "bfloat16"
    assert network.prior.get_layer("conv_0").compute_dtype == "float32"
    assert lower.compute_dtype == "float32"
    np.testing.assert_allclose(lower.step_sizes, [0.7, 0.4])


class Block(layers.Layer):
    """A composite layer whose configuration does not tell the dtype of what is inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6, name="dense")

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x):
        return keras.ops.relu(self.dense(x))


def classifier():
    x = image = keras.Input((8, 8, 2))
    y = layers.Conv2D(4, 3, name="first")(x)
    y = layers.Flatten(name="flat")(layers.BatchNormalization(name="norm")(y))
    inner = keras.Sequential([keras.Input((144,)), layers.Dense(6, name="inner")], name="nested")
    y = Block(name="block")(inner(y))
    y = layers.Dense(3, name="logits")(y)
    return keras.Model(image, keras.ops.softmax(keras.ops.multiply(y, 2.0)))


def test_nested_models_and_composite_layers_are_saved_with_their_dtype(tmp_path):
    model, x = classifier(), picture()
    lower = with_dtype(model, "bfloat16")
    lower.save(tmp_path / "lower.keras")
    loaded = keras.saving.load_model(tmp_path / "lower.keras")
    for found in (lower, loaded):
        computed = {layer.name: layer.compute_dtype for layer in found._flatten_layers()}
        for name in ("first", "norm", "flat", "inner", "dense"):
            assert computed[name] == "bfloat16", name
        assert computed["logits"] == "float32"
    np.testing.assert_array_equal(answer(loaded, x), answer(lower, x))
    np.testing.assert_allclose(answer(lower, x).sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(answer(lower, x), answer(model, x), atol=0.05)


@pytest.mark.once
def test_the_groups_stay_and_a_pruned_model_keeps_its_dtype():
    model = classifier()
    lower = with_dtype(model, "bfloat16")
    assert [g.name for g in find_groups(lower)] == [g.name for g in find_groups(model)]
    slim = rebuild(lower, make_plan(lower, ratio=0.5))
    assert slim.get_layer("first").filters == 2
    assert slim.get_layer("first").compute_dtype == "bfloat16"


@pytest.mark.once
def test_what_cannot_change_is_refused():
    with pytest.raises(ValueError, match=r"one of \['float32', 'bfloat16', 'float16'\].*'int8'"):
        with_dtype(denoiser(), "int8")
    quantized = layers.Dense(8, name="small", dtype="int8_from_float32")
    model = keras.Sequential([keras.Input((4,)), quantized, layers.Dense(2)])
    with pytest.raises(ValueError, match=r"must not be quantized.*small' with .*'int8_from"):
        with_dtype(model, "bfloat16")
