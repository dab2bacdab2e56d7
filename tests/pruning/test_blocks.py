"""Residual blocks: which are found, and that leaving one out is the identity."""

import zipfile

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.applications import resnet

from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.pruning import (
    PlanMismatchError,
    PruningPlan,
    VerificationError,
    copy_model,
    count_macs,
    drop_blocks,
    find_residual_blocks,
    rebuild,
    verify_plan,
)
from spade_keras.pruning.verify import measure_difference


def randomize(model, seed=0):
    """Draws every weight anew, moving statistics included."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if any(word in weight.path for word in ("gamma", "variance")):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif len(weight.shape) < 2:
            weight.assign(rng.normal(0, 0.1, weight.shape))
        else:
            weight.assign(rng.normal(0, 1 / np.sqrt(np.prod(weight.shape[:-1])), weight.shape))
    return model


def silence(layer):
    """Makes a layer answer zero."""
    for weight in layer.trainable_weights:
        weight.assign(np.zeros(weight.shape))


def answer(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def pictures(channels=3, size=8, seed=1):
    return np.random.default_rng(seed).normal(size=(2, size, size, channels)).astype("float32")


def names(model):
    return [block.name for block in find_residual_blocks(model)]


def without(model, blocks):
    return rebuild(model, drop_blocks(model, blocks))


def assert_dropped(model, block, last_layer, x):
    """Leaving the block out equals the original with the end of its branch silenced."""
    plan = drop_blocks(model, [block])
    dropped = rebuild(model, PruningPlan.from_json(plan.to_json()))
    assert plan.dropped == (block,)
    assert plan.parameters_saved == model.count_params() - dropped.count_params()
    assert verify_plan(model, plan).largest_error < 1e-4
    before = answer(model, x)
    silenced = copy_model(model)
    np.testing.assert_array_equal(answer(silenced, x), before)
    silence(last_layer(silenced))
    wanted = answer(silenced, x)
    scale = wanted.std()
    np.testing.assert_allclose(answer(dropped, x), wanted, atol=1e-5 * scale)
    np.testing.assert_array_equal(answer(model, x), before)
    assert np.abs(wanted - before).max() > 0.01 * scale
    return dropped


def convolution(width, name):
    return layers.Conv2D(width, 3, padding="same", name=name)


def residual_network():
    """A stem, a block with a block and a weightless sum inside, another one, and a head."""
    image = keras.Input((None, None, 3), name="image")
    x = stem = convolution(6, "stem")(image)
    y = layers.BatchNormalization(name="norm")(convolution(6, "outer")(x))
    z = convolution(6, "inner")(layers.ReLU(name="relu")(y))
    y = layers.Add(name="inner_sum")([z, y])
    y = layers.Add(name="doubled")([y, y])
    x = layers.Add(name="outer_sum")([x, layers.Rescaling(0.5, name="half")(y)])
    y = convolution(6, "second")(layers.ReLU()(x))
    x = x + layers.Multiply(name="gate")([y, layers.Activation("sigmoid", name="sigmoid")(y)])
    x = layers.Concatenate(name="both")([x, stem])
    return randomize(keras.Model(image, convolution(2, "head")(x)))


def test_finds_blocks_with_their_layers_and_parameters():
    found = {block.name: block for block in find_residual_blocks(residual_network())}
    inner, outer, plus = found.values()
    assert list(found)[:2] == ["inner_sum", "outer_sum"]
    assert inner.layers == ("relu", "inner")
    assert inner.parameters == 9 * 36 + 6
    assert outer.layers == (
        *("outer", "norm", "relu", "inner", "inner_sum", "doubled"),
        "half",
    )
    assert outer.parameters == 2 * inner.parameters + 24
    assert plus.layers[0].startswith("re_lu")
    assert plus.layers[1:] == ("second", "sigmoid", "gate")


def test_a_dropped_block_is_the_identity():
    model, x = residual_network(), pictures()
    inner, outer, plus = names(model)
    assert_dropped(model, inner, lambda m: m.get_layer("inner"), x)
    dropped = assert_dropped(model, plus, lambda m: m.get_layer("second"), x)
    assert "second" not in [layer.name for layer in dropped.layers]
    both = without(model, [outer, plus])
    assert [layer.name for layer in both.layers] == ["image", "stem", "both", "head"]
    np.testing.assert_array_equal(answer(without(model, [plus, inner, outer]), x), answer(both, x))
    stem = answer(keras.Model(model.inputs[0], model.get_layer("stem").output), x)
    head = answer(model.get_layer("head"), np.concatenate([stem, stem], axis=-1))
    np.testing.assert_allclose(answer(both, x), head, atol=1e-5)


def test_no_names_give_a_copy():
    model, x = residual_network(), pictures()
    copy = without(model, [])
    np.testing.assert_array_equal(answer(copy, x), answer(model, x))
    silence(copy.get_layer("stem"))
    assert np.abs(answer(copy, x) - answer(model, x)).max() > 0.1


def test_wrong_names():
    model = residual_network()
    with pytest.raises(ValueError, match=r"Known ones: \['inner_sum', 'outer_sum'.*'doubled'"):
        drop_blocks(model, ["doubled"])
    with pytest.raises(ValueError, match=r"`names` must be a list.*names='inner_sum'"):
        drop_blocks(model, "inner_sum")


@pytest.mark.once
def test_the_proof_sees_that_another_block_was_dropped():
    model = residual_network()
    inner, outer, plus = names(model)
    for block, other in ((plus, outer), (outer, plus), (inner, plus), (outer, inner)):
        right, wrong = drop_blocks(model, [block]), drop_blocks(model, [other])
        report = measure_difference(model, right, wrong)
        assert report.largest_error > 1e-2
        with pytest.raises(VerificationError, match="differs from the masked original"):
            report.check()


@pytest.mark.once
def test_what_dropping_saves():
    model = residual_network()
    inputs = (1, 8, 8, 3)
    plan = drop_blocks(model, names(model)[:1], inputs=inputs)
    saved = count_macs(model, inputs).total - count_macs(rebuild(model, plan), inputs).total
    assert plan.macs_saved == saved == 64 * 9 * 36
    assert drop_blocks(model, names(model)[:1]).macs_saved is None
    assert "inner_sum" in plan.summary() and "-330" in plan.summary()


@pytest.mark.once
def test_a_plan_of_other_blocks_is_refused():
    plan = drop_blocks(residual_network(), ["inner_sum"])
    for use in (rebuild, verify_plan):
        with pytest.raises(PlanMismatchError, match=r"no residual blocks \['inner_sum'\]"):
            use(priors.edsr(filters=[4, 4]), plan)


def not_a_block(kind):
    """A stem, a sum that is a block unless `kind` says otherwise, and a head."""
    image = keras.Input((None, None, 4), name="image")
    side = keras.Input((None, None, 4), name="side")
    stem = convolution(4, "stem")(image)
    branch = convolution(4, "branch")(stem)
    relu, dtype = layers.ReLU(name="relu"), None
    outputs, terms = [], [stem, branch]
    if kind == "read elsewhere":
        outputs = [relu(branch)]
    elif kind == "another output":
        outputs = [branch]
    elif kind == "another input":
        terms = [stem, layers.Multiply()([branch, side])]
    elif kind == "no weights":
        terms = [stem, relu(stem)]
    elif kind == "no skip":
        terms = [convolution(4, "other")(image), branch]
    elif kind == "three terms":
        terms = [stem, branch, relu(stem)]
    elif kind == "broadcast":
        terms = [stem, layers.GlobalAveragePooling2D(keepdims=True)(branch)]
    elif kind == "another dtype":
        dtype = "bfloat16"
    total = layers.Multiply if kind == "product" else layers.Add
    x = total(name="sum", dtype=dtype)(terms)
    inputs = [image, side] if kind == "another input" else image
    return keras.Model(inputs, [convolution(2, "head")(x), *outputs])


KINDS = (
    *("read elsewhere", "another output", "another input", "no weights", "no skip"),
    *("three terms", "broadcast", "another dtype", "product"),
)


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_block(kind):
    assert names(not_a_block("")) == ["sum"]
    assert names(not_a_block(kind)) == []


@pytest.mark.once
def test_skips_around_the_whole_model_are_not_listed():
    assert names(priors.dncnn(filters=[4, 4])) == []
    assert names(priors.edsr(filters=[4, 4])) == ["block_0", "block_1"]
    assert names(priors.edsr(filters=[4])) == ["block_0"]


@pytest.mark.once
def test_something_with_weights_must_remain():
    image = keras.Input((None, None, 2))
    x = layers.Add(name="a")([image, convolution(2, "first")(image)])
    model = keras.Model(image, layers.Add(name="b")([x, convolution(2, "second")(x)]))
    assert names(model) == ["a", "b"]
    with pytest.raises(ValueError, match=r"weights before every output.*\['a', 'b'\]"):
        drop_blocks(model, ["b", "a"])


def test_a_shared_branch_stays_where_it_is_still_called():
    image, branch, total = keras.Input((None, None, 4)), convolution(4, "branch"), layers.Add()
    x = convolution(4, "stem")(image)
    for _ in range(3):
        x = total([x, branch(x)])
    model = randomize(keras.Model(image, convolution(2, "head")(x)))
    found = find_residual_blocks(model)
    assert [block.name for block in found] == [f"{total.name}{end}" for end in ("", ":2", ":3")]
    assert [block.parameters for block in found] == [0, 0, 0]
    x = pictures(4)
    twice = answer(without(model, [found[1].name]), x)
    h = answer(model.get_layer("stem"), x)
    for _ in range(2):
        h = h + answer(branch, h)
    np.testing.assert_allclose(twice, answer(model.get_layer("head"), h), atol=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class Residual(layers.Layer):
    """A composite layer, traced when it is looked into."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.conv = convolution(width, "conv")
        self.norm = layers.BatchNormalization(name="norm")

    def build(self, shape):
        self.conv.build(shape)
        self.norm.build(shape)
        self.built = True

    def call(self, x):
        return x + self.norm(self.conv(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def nested_block(name):
    x = keras.Input((8, 8, 4))
    y = layers.BatchNormalization(name="norm")(convolution(4, "conv")(x))
    return keras.Model(x, layers.Add(name="add")([x, y]), name=name)


@pytest.mark.parametrize("make", [nested_block, lambda name: Residual(4, name=name)])
@pytest.mark.parametrize("kind", ["functional", "sequential"])
def test_blocks_inside_models_and_layers(make, kind):
    stack = [convolution(4, "stem"), make("one"), make("two"), convolution(2, "head")]
    x = image = keras.Input((8, 8, 3), name="image")
    if kind == "sequential":
        model = keras.Sequential([image, *stack])
    else:
        for layer in stack:
            x = layer(x)
        model = keras.Model(image, x)
    randomize(model)
    assert names(model) == ["one/add", "two/add"]
    assert find_residual_blocks(model)[0].layers == ("one/conv", "one/norm")
    x = pictures()
    dropped = assert_dropped(
        model, "two/add", lambda m: next(x for x in last(m, "two") if x.name == "norm"), x
    )
    assert [layer.name for layer in dropped.layers if layer.name != "image"] == [
        *("stem", "one", "head")
    ]
    assert type(dropped.get_layer("one")) is type(model.get_layer("one"))
    assert isinstance(dropped, keras.Sequential) == (kind == "sequential")


def last(model, name):
    return model.get_layer(name)._flatten_layers(include_self=False)


@keras.saving.register_keras_serializable(package="tests")
class TwoResiduals(keras.Model):
    """A composite layer, or a subclassed model, with two blocks inside."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = convolution(4, "first")
        self.second = convolution(4, "second")

    def call(self, x):
        x = x + self.first(x)
        x = x + self.second(x)
        return keras.ops.tanh(x)


@pytest.mark.once
@pytest.mark.parametrize("inside", [True, False])
def test_a_layer_that_loses_one_of_its_blocks_becomes_a_model(inside):
    pair, x = TwoResiduals(name="pair"), pictures(4)
    pair(x)
    image = keras.Input((8, 8, 4))
    stem, head = convolution(4, "stem"), convolution(2, "head")
    model = randomize(keras.Model(image, head(pair(stem(image)))) if inside else pair)
    prefix = "pair/" if inside else ""
    assert names(model) == [f"{prefix}add", f"{prefix}add:2"]
    second = [block.layers for block in find_residual_blocks(model)][1]
    assert second == (f"{prefix}second",)
    dropped = without(model, [f"{prefix}add:2"])
    h = answer(stem, x) if inside else x
    wanted = np.tanh(h + answer(pair.first, h))
    wanted = answer(head, wanted) if inside else wanted
    np.testing.assert_allclose(answer(dropped, x), wanted, atol=1e-5)
    assert model.count_params() - dropped.count_params() == 4 * (9 * 4 + 1)


@pytest.mark.once
def test_a_layer_the_plan_spares_keeps_its_flags():
    x = image = keras.Input((8, 8, 3))
    for layer in (convolution(4, "stem"), Residual(4, name="one"), convolution(2, "head")):
        x = layer(x)
    model = keras.Model(image, x)
    model.get_layer("one").norm.trainable = False
    copied = copy_model(model).get_layer("one")
    assert isinstance(copied, Residual)
    assert [copied.trainable, copied.conv.trainable, copied.norm.trainable] == [True, True, False]


@pytest.mark.once
def test_the_blocks_of_a_network():
    prior = randomize(priors.edsr(filters=[4, 3, 5], trunk=6, residual_scale=0.5))
    network = UnrolledPGD(CartesianMRI(), prior, iterations=2)
    network.step_sizes.assign([0.7, 0.4])
    assert names(network) == ["prior/block_0", "prior/block_1", "prior/block_2"]
    block = find_residual_blocks(network)[1]
    assert block.layers == tuple(
        f"prior/block_1_{x}" for x in ("conv_0", "relu", "conv_1", "scale")
    )
    assert block.parameters == (9 * 6 + 1) * 3 + (9 * 3 + 1) * 6
    slim = without(network, [block.name])
    np.testing.assert_allclose(slim.step_sizes, [0.7, 0.4])
    x = pictures(2)
    wanted = assert_dropped(prior, "block_1", lambda m: m.get_layer("block_1_conv_1"), x)
    np.testing.assert_array_equal(answer(slim.prior, x), answer(wanted, x))
    with pytest.raises(ValueError, match=r"Known ones: \['prior/block_0'"):
        drop_blocks(network, ["block_0"])


def resnet_v2(x):
    """ResNet50V2's first two stages, of four and three blocks, an eighth as wide."""
    x = resnet.stack_residual_blocks_v2(x, 8, 4, name="conv2")
    return resnet.stack_residual_blocks_v2(x, 16, 3, name="conv3")


@pytest.mark.once
def test_every_block_of_a_published_network(tmp_path):
    model = resnet.ResNet(resnet_v2, True, True, weights=None, input_shape=(32, 32, 3), classes=5)
    randomize(model)
    found = names(model)
    # A convolution stands in the skip of each stage's first block, a pooling in its last one's.
    assert found == ["conv2_block2_out", "conv2_block3_out", "conv3_block2_out"]
    dropped = without(model, found)
    x = pictures(size=32)
    silenced = copy_model(model)
    for name in found:
        silence(silenced.get_layer(name.replace("_out", "_3_conv")))
    wanted = answer(silenced, x)
    np.testing.assert_allclose(answer(dropped, x), wanted, rtol=1e-4)
    assert np.abs(wanted - answer(model, x)).max() > 1e-2
    dropped.save(tmp_path / "dropped.keras")
    with zipfile.ZipFile(tmp_path / "dropped.keras") as archive:
        assert b"spade_keras" not in archive.read("config.json")
    np.testing.assert_array_equal(
        answer(keras.saving.load_model(tmp_path / "dropped.keras"), x), answer(dropped, x)
    )
