"""Which networks have a twin in Keras 2, and how the twin is described."""

import keras
import numpy as np
import pytest

from spade_keras.export import ExportError
from spade_keras.export.tfmot.twin import describe, weights_of, with_weights
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI

pytestmark = pytest.mark.once

layers = keras.layers


def by_name(description):
    return {entry["name"]: entry for entry in description["layers"]}


def test_a_prior_gets_the_size_of_the_arrays_and_keeps_its_graph():
    description = describe(priors.dncnn(filters=[4, 6]), (12, 10, 2))
    found = by_name(description)
    assert description["shape"] == [12, 10, 2]
    assert (description["input"], description["output"]) == ("image", "skip")
    assert found["skip"]["inputs"] == ["image", "residual"]
    assert found["conv_1"]["config"]["filters"] == 6
    assert found["conv_1"]["weights"] == {"kernel": "conv_1/kernel", "bias": "conv_1/bias"}


def test_a_sequential_model_is_a_chain():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")]
    )
    description = describe(model, (4,))
    assert [entry["inputs"] for entry in description["layers"]] == [[description["input"]], ["a"]]
    assert description["output"] == "b"


def test_a_separable_convolution_becomes_two_and_its_activation_a_layer():
    x = keras.Input((6, 6, 2))
    y = layers.SeparableConv2D(5, 3, strides=2, activation="silu", name="sep")(x)
    model = keras.Model(x, layers.Conv2D(2, 1, name="last")(y))
    found = by_name(describe(model, (6, 6, 2)))
    assert list(found) == ["sep__depthwise", "sep", "sep__activation", "last"]
    assert found["sep__depthwise"]["config"]["strides"] == (2, 2)
    assert found["sep__depthwise"]["weights"] == {"depthwise_kernel": "sep/depthwise_kernel"}
    assert found["sep"]["config"]["kernel_size"] == 1
    assert found["sep"]["weights"] == {"kernel": "sep/pointwise_kernel", "bias": "sep/bias"}
    assert found["sep__activation"]["config"] == {"activation": "silu"}
    assert found["last"]["inputs"] == ["sep__activation"]


def test_weights_are_carried_by_name_and_the_network_is_left_alone():
    x = keras.Input((4, 4, 1))
    y = layers.Conv2D(3, 3, name="conv")(x)
    model = keras.Model(x, layers.BatchNormalization(name="norm")(y))
    before = weights_of(model)
    new = {"conv/kernel": np.full((3, 3, 1, 3), 2.0), "norm/moving_variance": np.full(3, 5.0)}
    carried = weights_of(with_weights(model, new))
    assert set(carried) == set(before) and len(before) == 6
    for name, value in carried.items():
        np.testing.assert_array_equal(value, new.get(name, before[name]))
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(value, before[name])


class Doubled(layers.Layer):
    def call(self, x):
        return 2 * x


def shared(x):
    conv = layers.Conv2D(1, 1, name="bad")
    return conv(conv(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Doubled(name="bad"), r"bad \(Doubled\): not one of Activation, Add"),
        (lambda x: keras.ops.sin(x), r"\(Sin\): an operation outside of any layer"),
        (shared, r"bad \(Conv2D\): called 2 times; weights that are shared"),
        (keras.Sequential([layers.Dense(1)], name="bad"), r"bad \(Sequential\): a model inside"),
        (layers.Dense(1, dtype="mixed_bfloat16", name="bad"), r"bad \(Dense\): .*mixed_bfloat16"),
        (layers.Dense(1, activation="hard_sigmoid", name="bad"), r"activation 'hard_sigmoid'"),
        (layers.Dense(1, activation=layers.LeakyReLU(), name="bad"), r"bad \(Dense\): activation"),
        (layers.Flatten("channels_first", name="bad"), r"bad \(Flatten\): channels come first"),
    ],
)
def test_what_has_no_twin_is_refused_by_name_with_the_reason(call, message):
    x = keras.Input((4, 4, 1))
    model = keras.Model(x, call(x))
    with pytest.raises(ExportError, match=message):
        describe(model, (4, 4, 1))


def test_every_layer_without_a_twin_is_named():
    x = keras.Input((4,))
    model = keras.Model(x, layers.LayerNormalization(name="b")(Doubled(name="a")(x)))
    with pytest.raises(ExportError, match=r"(?s)a \(Doubled\).*b \(LayerNormalization\)"):
        describe(model, (4,))


def test_models_of_other_kinds_are_refused():
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[2]), iterations=1)
    with pytest.raises(ExportError, match=r"Received: UnrolledPGD.*`network.priors`"):
        describe(network, (4, 4, 2))
    x = keras.Input((4,))
    with pytest.raises(ExportError, match="1 inputs and 2 outputs"):
        describe(keras.Model(x, [layers.Dense(1)(x), layers.Dense(1)(x)]), (4,))
    with pytest.raises(ExportError, match="is not built"):
        describe(keras.Sequential([layers.Dense(1)]), (4,))
