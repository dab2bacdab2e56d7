import keras
import numpy as np
import pytest
from keras import layers, ops

from spade_keras.errors import TraceError
from spade_keras.pruning.groups import find_groups
from spade_keras.pruning.plan import ChannelStep, GroupPlan, PruningPlan
from spade_keras.pruning.rebuild import rebuild
from spade_keras.pruning.rules import register_channel_rule, rule_for
from spade_keras.pruning.rules.passing import PassThrough
from spade_keras.pruning.verify import verify_plan


def half(model):
    """A plan that keeps every other channel of each free group."""
    entries = []
    for group in find_groups(model):
        step = 1 if group.fixed or group.width == 1 else 2
        entries.append(GroupPlan(group.name, group.width, tuple(range(0, group.width, step))))
    return PruningPlan(model.name, (ChannelStep(tuple(entries), "every other"),))


def free(model):
    return {group.name: group.width for group in find_groups(model) if group.fixed is None}


class Block(layers.Layer):
    """A composite layer without a rule: two convolutions and a skip."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.first = layers.Conv2D(filters, 3, padding="same", activation="relu")
        self.second = layers.Conv2D(filters, 3, padding="same")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], self.filters))

    def call(self, x):
        y = self.first(x)
        return y + self.second(y)


class Raw(layers.Layer):
    """A layer with an inner layer and a weight of its own, which a trace would lose."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 1)

    def build(self, shape):
        self.conv.build(shape)
        self.gain = self.add_weight(shape=(), initializer="ones", name="gain")

    def call(self, x):
        return ops.multiply(self.conv(x), self.gain)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.stem = layers.Conv2D(8, 3, padding="same", name="stem")
        self.block = Block(8, name="block")
        self.head = layers.Conv2D(2, 1, name="head")

    def call(self, x):
        y = ops.relu(self.stem(x))
        return self.head(y + self.block(y))


class Branching(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4)

    def call(self, x):
        y = self.dense(x)
        return y if float(ops.sum(y)) > 0 else -y


def test_groups_are_the_same_objects_on_every_call():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Dense(2)])
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    assert find_groups(model) is find_groups(model)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes


def test_slots_say_where_channels_live():
    x = keras.Input((3, 3, 2))
    y = layers.Flatten()(layers.Conv2D(4, 2, name="a")(x))
    model = keras.Model(x, layers.Dense(3, name="b")(y))
    group = find_groups(model)[0]
    found = {(s.layer, s.weight, s.axis, s.role): s.positions for s in group.slots}
    assert list(found) == [
        ("a", "kernel", 3, "producer"),
        ("a", "bias", 0, "parameter"),
        ("b", "kernel", 0, "consumer"),
    ]
    assert found["b", "kernel", 0, "consumer"].tolist() == [
        [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
    ]  # fmt: skip
    assert group.members == ("a", "b")


def test_group_normalization_and_grouped_convolutions_ask_for_equal_blocks():
    x = keras.Input((6, 6, 3))
    y = layers.GroupNormalization(4)(layers.Conv2D(8, 1, name="a")(x))
    model = keras.Model(x, layers.Conv2D(2, 1)(layers.Conv2D(8, 1, groups=2, name="g")(y)))
    groups = {group.name: group for group in find_groups(model)}
    assert groups["g"].divisor == 2
    assert groups["g"].blocks.tolist() == [0] * 4 + [1] * 4
    assert groups["a"].fixed is None
    verify_plan(model, half(model))


def test_an_unknown_layer_is_a_boundary_and_says_how_to_add_a_rule():
    class Mystery(layers.Layer):
        def call(self, x):
            return ops.flip(x, axis=-1) + x

    x = keras.Input((4, 4, 2))
    y = Mystery(name="mystery")(layers.Conv2D(6, 1, name="a")(x))
    model = keras.Model(x, layers.Conv2D(2, 1)(layers.Conv2D(4, 1, name="b")(y)))
    assert free(model) == {"b": 4}
    reason = find_groups(model)[0].fixed
    assert "mystery is a Mystery" in reason
    assert "register_channel_rule" in reason


def test_a_registered_rule_frees_the_layer():
    class Scale(layers.Layer):
        def call(self, x):
            return 2.0 * x

    def model():
        x = keras.Input((4, 4, 2))
        y = Scale()(layers.Conv2D(6, 1, name="a")(x))
        return keras.Model(x, layers.Conv2D(2, 1)(y))

    assert free(model()) == {}
    register_channel_rule(Scale, PassThrough())
    taught = model()
    assert free(taught) == {"a": 6}
    verify_plan(taught, half(taught))
    with pytest.raises(ValueError, match="has a channel rule already"):
        register_channel_rule(Scale, PassThrough())
    with pytest.raises(ValueError, match="`rule` must be an instance"):
        register_channel_rule(Raw, "pass")


def test_a_subclass_of_a_stock_layer_is_not_trusted():
    class Odd(layers.Dense):
        def call(self, x):
            return ops.flip(super().call(x), axis=-1)

    assert rule_for(Odd) is None


def test_composite_layers_are_opened():
    x = keras.Input((5, 5, 3))
    model = keras.Model(x, layers.Conv2D(2, 1)(Block(6, name="block")(x)))
    assert free(model) == {"block/" + model.layers[1].first.name: 6}
    verify_plan(model, half(model))


def test_a_composite_layer_with_a_raw_weight_is_a_boundary():
    x = keras.Input((5, 5, 3))
    y = Raw(name="raw")(layers.Conv2D(6, 1, name="a")(x))
    model = keras.Model(x, layers.Conv2D(2, 1)(layers.Conv2D(4, 1, name="b")(y)))
    assert free(model) == {"b": 4}
    assert "uses weights outside of any layer" in find_groups(model)[0].fixed


def test_a_subclassed_model_is_traced():
    model = Subclassed()
    model(np.zeros((1, 6, 6, 3), "float32"))
    assert free(model) == {"stem": 8}
    plan = half(model)
    verify_plan(model, plan)
    slim = rebuild(model, plan)
    assert slim.get_layer("stem").filters == 4
    assert slim.get_layer("block").weights[0].shape[-1] == 4


def test_what_cannot_be_traced_is_refused_with_the_reason():
    model = Branching()
    model(np.ones((1, 3), "float32"))
    with pytest.raises(TraceError, match="register_channel_rule"):
        find_groups(model)


def test_a_subclassed_model_with_raw_weights_is_refused():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(4)
            self.gain = self.add_weight(shape=(), name="gain")

        def call(self, x):
            return ops.multiply(self.dense(x), self.gain)

    model = Model()
    model(np.ones((1, 3), "float32"))
    with pytest.raises(TraceError, match="gain"):
        find_groups(model)


def test_models_that_are_not_built_are_refused():
    with pytest.raises(TraceError, match="must be built"):
        find_groups(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(TraceError, match="must be built"):
        find_groups(Subclassed())
    with pytest.raises(TraceError, match=r"must be a keras\.Model"):
        find_groups("model.keras")


def test_a_network_gives_the_groups_of_its_priors():
    class Network:
        def __init__(self, priors):
            self.priors = priors

        def with_priors(self, priors):
            return Network({**self.priors, **priors})

    def prior():
        x = keras.Input((None, None, 2))
        y = layers.Conv2D(6, 3, padding="same", activation="relu", name="wide")(x)
        return keras.Model(x, layers.Conv2D(2, 3, padding="same", name="last")(y))

    network = Network({"first": prior(), "second": prior()})
    names = [group.name for group in find_groups(network)]
    assert names == ["first/wide", "first/last", "second/wide", "second/last"]
    groups = GroupPlan("first/wide", 6, (0, 2, 4)), GroupPlan("second/wide", 6, (1,))
    plan = PruningPlan("network", (ChannelStep(groups, "by hand"),))
    report = verify_plan(network, plan)
    assert {"first/last", "second/last"} <= set(report.errors)
    slim = rebuild(network, plan)
    assert slim.priors["first"].get_layer("wide").filters == 3
    assert slim.priors["second"].get_layer("wide").filters == 1
    assert network.priors["first"].get_layer("wide").filters == 6
