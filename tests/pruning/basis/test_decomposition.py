"""Decomposed models compute what the originals compute, and only their factors train."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.pruning.basis import decompose, find_pairs, find_rank_groups, merge
from spade_keras.pruning.basis.scaling import BasisScaling
from tests.pruning.basis.random_model import example_inputs, logits, randomize_weights

SAME = 1e-5
LAST = {"padding": "same", "activation": "relu"}
LAYERS = {
    "conv1d": ((12, 4), lambda: layers.Conv1D(6, 3, padding="causal", dilation_rate=2)),
    "conv2d": ((9, 8, 3), lambda: layers.Conv2D(7, (3, 2), strides=(2, 1), **LAST)),
    "pointwise": ((5, 5, 6), lambda: layers.Conv2D(9, 1, use_bias=False)),
    "conv3d": ((5, 6, 4, 2), lambda: layers.Conv3D(5, 2, activation="tanh")),
    "grouped": ((6, 7, 6), lambda: layers.Conv2D(8, 3, groups=2, **LAST)),
    "grouped wide": ((6, 7, 4), lambda: layers.Conv2D(12, 1, groups=2, activation="gelu")),
    "transposed1d": ((6, 4), lambda: layers.Conv1DTranspose(5, 4, strides=2)),
    "transposed2d": ((4, 5, 6), lambda: layers.Conv2DTranspose(3, 4, strides=2, **LAST)),
    "transposed3d": ((3, 3, 2, 3), lambda: layers.Conv3DTranspose(4, 2, strides=2)),
    "dense": ((11,), lambda: layers.Dense(6, activation="relu")),
    "dense on sequences": ((4, 5), lambda: layers.Dense(9, activation="softmax")),
}
# One of each kind under every backend; the others under one.
EVERYWHERE = ("conv2d", "grouped", "transposed2d", "dense")


def randomized(model, seed=0):
    """Every float weight and statistic drawn anew."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if "float" in str(variable.dtype):
            positive = any(word in variable.name for word in ("variance", "gamma"))
            draw = generator.uniform(0.5, 1.5, variable.shape)
            variable.assign(draw if positive else 0.4 * generator.normal(size=variable.shape))
    return model


def outputs(model, seed=1, batch=3):
    generator = np.random.default_rng(seed)
    shapes = [(batch, *(8 if n is None else n for n in x.shape[1:])) for x in model.inputs]
    arrays = [ops.convert_to_tensor(generator.normal(size=s).astype("float32")) for s in shapes]
    result = model(arrays[0] if len(arrays) == 1 else arrays)
    return [ops.convert_to_numpy(x) for x in keras.tree.flatten(result)]


def difference(first, second):
    errors = []
    for a, b in zip(outputs(first), outputs(second), strict=True):
        assert a.std() > 1e-3
        errors.append(np.abs(a - b).max() / a.std())
    return max(errors)


def mixed_model():
    """Nested and shared layers, a norm, a residual sum, groups, a head."""
    inner = keras.Sequential(
        [keras.Input((None, None, 8)), layers.Conv2D(6, 3, activation="relu", name="deep")],
        name="inner",
    )
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    inputs = keras.Input((None, None, 4))
    x = layers.Conv2D(8, 3, groups=2, padding="same", name="first")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Add()([x, shared(shared(x))])
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.GlobalAveragePooling2D()(inner(x))
    x = layers.Dense(5, activation="softmax", name="head")(x)
    return randomized(keras.Model(inputs, x))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in EVERYWHERE else pytest.mark.once) for name in LAYERS],
)
def test_a_layer_and_its_pair_are_equal(name):
    shape, make = LAYERS[name]
    layer = make()
    model = randomized(keras.Sequential([keras.Input(shape), layer]))
    low = decompose(model)
    assert difference(model, low) < SAME
    (pair,) = find_pairs(low)
    assert type(pair.basis) is type(layer) and not pair.basis.use_bias
    basis = pair.basis_matrix()
    gram = np.einsum("gnr,gns->grs", basis, basis)
    np.testing.assert_allclose(gram, np.tile(np.eye(gram.shape[1]), (len(gram), 1, 1)), atol=1e-6)
    assert [id(v) for v in low.trainable_variables] == [id(pair.scaling.scale)]
    assert difference(model, merge(low)) < SAME


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="needs a GPU there")
@pytest.mark.parametrize("groups", [1, 2])
def test_channels_may_come_first(groups):
    first = layers.Conv2D(6, 3, groups=groups, data_format="channels_first", activation="relu")
    model = randomized(keras.Sequential([keras.Input((4, 7, 8)), first]))
    low = decompose(model)
    low.layers[-1].keep([0, 2])
    assert difference(model, decompose(model)) < SAME
    assert difference(low, merge(low)) < SAME


def test_nested_and_shared_layers_are_decomposed_once_and_the_original_stays():
    model = mixed_model()
    before = [ops.convert_to_numpy(w) for w in model.weights]
    low = decompose(model)
    assert difference(model, low) < SAME
    names = [pair.name for pair in find_pairs(low)]
    assert names == ["first", "shared", "inner/deep", "head"]
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))
    ids = {id(v) for v in model.variables}
    assert not any(id(v) in ids for v in low.variables)


@pytest.mark.once
def test_layers_that_cannot_be_decomposed_are_listed_with_reasons():
    inputs = keras.Input((6, 4))
    x = layers.SeparableConv1D(4, 2, name="separable")(inputs)
    x = layers.TimeDistributed(layers.Dense(3), name="steps")(x)
    x = layers.LSTM(4, name="lstm")(x)
    model = keras.Model(inputs, layers.Dense(1, name="one")(layers.Dense(4, name="dense")(x)))
    groups = {group.name: group for group in find_rank_groups(model)}
    assert [name for name, group in groups.items() if group.fixed is None] == ["dense"]
    assert "SeparableConv1D" in groups["separable"].fixed
    assert "wrapper" in groups["steps"].fixed
    assert "LSTM" in groups["lstm"].fixed
    assert "single component" in groups["one"].fixed
    fixed = {g.name: g.fixed for g in find_rank_groups(mixed_model()) if g.fixed}
    assert list(fixed) == ["depthwise"]
    assert [pair.name for pair in find_pairs(decompose(model))] == ["dense"]


@pytest.mark.once
def test_break_even_ranks_are_those_of_the_costs():
    inputs = keras.Input((8, 8, 64))
    x = layers.Conv2D(64, 3, name="equal")(inputs)
    x = layers.Conv2D(64, 1, name="square")(x)
    x = layers.Conv2D(16, 1, name="narrow")(x)
    x = layers.Conv2DTranspose(8, 2, strides=2, name="up")(x)
    groups = find_rank_groups(keras.Model(inputs, x))
    shares = {group.name: group.break_even / group.rank for group in groups}
    # r*/r0 = 9/10 for 3x3 at equal width, 1/2 for 1x1 at equal width, 4/5 for 1x1 4:1.
    assert shares["equal"] == pytest.approx(0.9)
    assert shares["square"] == pytest.approx(0.5)
    assert shares["narrow"] == pytest.approx(0.8)
    # The second layer works on 4 times as many positions: n co / (n + 4 co), n = 64, co = 8.
    assert groups[3].break_even == pytest.approx(64 * 8 / (64 + 4 * 8))
    assert groups[1].allowed(8) == (8, 16, 24, 64)


def test_only_what_is_asked_for_trains():
    model = mixed_model()
    inside = {"first/scale", "shared/scale", "inner/deep/scale"}
    low = decompose(model)
    assert {v.path for v in low.trainable_variables} == inside | {"head/scale"}
    low = decompose(model, trainable=["head", "norms"])
    trained = {v.path for v in low.trainable_variables}
    assert trained == inside | {"head/kernel", "head/bias", "norm/gamma", "norm/beta"}
    assert difference(model, low) < SAME
    low.compile(keras.optimizers.SGD(0.1), "mse")
    before = {v.path: ops.convert_to_numpy(v) for v in low.weights}
    generator = np.random.default_rng(0)
    low.fit(generator.normal(size=(8, 8, 8, 4)), generator.normal(size=(8, 5)), verbose=0)
    changed = {
        v.path for v in low.weights if not np.array_equal(before[v.path], ops.convert_to_numpy(v))
    }
    assert trained <= changed
    assert changed - trained == {"norm/moving_mean", "norm/moving_variance"}


@pytest.mark.once
def test_a_frozen_norm_keeps_its_statistics():
    low = decompose(mixed_model())
    low.compile(keras.optimizers.SGD(0.1), "mse")
    before = ops.convert_to_numpy(low.get_layer("norm").moving_mean)
    low.fit(np.ones((4, 8, 8, 4)), np.ones((4, 5)), verbose=0)
    np.testing.assert_array_equal(before, ops.convert_to_numpy(low.get_layer("norm").moving_mean))


@pytest.mark.once
def test_max_rank_gives_the_best_approximation_of_that_rank():
    model = randomized(keras.Sequential([keras.Input((9,)), layers.Dense(7, name="a")]))
    kernel = ops.convert_to_numpy(model.layers[0].kernel).astype("float64")
    low = decompose(model, max_rank={"a": 3})
    merged = merge(low)
    product = np.linalg.multi_dot([ops.convert_to_numpy(x.kernel) for x in merged.layers])
    values = np.linalg.svd(kernel, compute_uv=False)
    error = np.linalg.norm(kernel - product)
    assert error == pytest.approx(np.sqrt(np.square(values[3:]).sum()), rel=1e-4)
    assert find_pairs(decompose(model, max_rank=100))[0].scaling.rank == 7


@pytest.mark.once
def test_few_components_of_a_large_layer_are_found_without_all_of_them():
    generator = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((600,)), layers.Dense(520, name="a")])
    kernel = generator.normal(size=(600, 4)) @ generator.normal(size=(4, 520))
    model.layers[0].kernel.assign(kernel)
    low = decompose(model, max_rank=4)
    assert find_pairs(low)[0].scaling.rank == 4
    assert difference(model, low) < SAME


@pytest.mark.once
def test_components_that_are_zero_are_dropped():
    model = randomized(keras.Sequential([keras.Input((9,)), layers.Dense(7, name="a")]))
    kernel = ops.convert_to_numpy(model.layers[0].kernel)
    kernel = np.concatenate([kernel[:, :2], kernel[:, :2], kernel[:, :2], kernel[:, :1]], axis=1)
    model.layers[0].kernel.assign(kernel)
    low = decompose(model)
    assert find_pairs(low)[0].scaling.rank == 2
    assert difference(model, low) < SAME


@pytest.mark.once
def test_layers_may_be_chosen_by_wildcards():
    low = decompose(mixed_model(), ["inner/*", "head"])
    assert [pair.name for pair in find_pairs(low)] == ["inner/deep", "head"]


@pytest.mark.once
def test_the_priors_of_a_network_are_decomposed():
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[8, 8]), iterations=2)
    (key,) = network.priors
    randomized(network.priors[key])
    low = decompose(network)
    assert difference(network.priors[key], low.priors[key]) < SAME
    assert all(pair.name.startswith(f"{key}/") for pair in find_pairs(low))
    merged = merge(low)
    assert difference(network.priors[key], merged.priors[key]) < SAME


@pytest.mark.once
def test_a_decomposed_model_is_saved_and_loaded(tmp_path):
    low = decompose(mixed_model())
    low.get_layer("shared").keep([0, 3, 5])
    low.save(tmp_path / "low.keras")
    loaded = keras.models.load_model(tmp_path / "low.keras")
    assert difference(low, loaded) < 1e-6
    assert len(loaded.trainable_variables) == len(low.trainable_variables) == 4
    assert list(loaded.get_layer("shared").alive) == [0, 3, 5]


def test_mixed_precision_stays(tmp_path):
    model = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(8, 3, dtype="mixed_bfloat16", name="a")]
    )
    low = decompose(randomized(model))
    assert {layer.dtype_policy.name for layer in low.layers} == {"mixed_bfloat16"}
    wanted, found = (ops.convert_to_numpy(ops.cast(m(np.ones((1, 6, 6, 3))), "float32"))
                     for m in (model, low))  # fmt: skip
    assert np.abs(wanted - found).max() < 0.05 * wanted.std()


@pytest.mark.once
def test_keep_must_name_components():
    low = decompose(mixed_model())
    for wrong in ([], [-1], [8]):
        with pytest.raises(ValueError, match="at least one of the 8 components of 'shared'"):
            low.get_layer("shared").keep(wrong)


@pytest.mark.once
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_rank": 0}, "`max_rank` must be an integer of at least 1. Received: max_rank=0"),
        ({"max_rank": {"head": -2}}, "Received: max_rank=-2 for layer 'head'"),
        ({"max_rank": {"heat": 2}}, "must name layers that are decomposed"),
        ({"layers": ["depthwise"]}, "'depthwise', which cannot be decomposed: a depthwise"),
        ({"layers": ["nothing"]}, "Received: 'nothing', which is none of"),
        ({"layers": []}, "must have a layer that can be decomposed"),
        ({"trainable": ["biases"]}, r"`trainable` must be a list out of \['head', 'norms'\]"),
        ({"trainable": "head"}, "`trainable` must be a list"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        decompose(mixed_model(), **settings)


@pytest.mark.once
@pytest.mark.parametrize(
    ("value", "message"),
    [(0.0, "must not have kernels that are zero"), (np.nan, "must have finite kernels")],
)
def test_kernels_without_a_basis_are_refused(value, message):
    model = mixed_model()
    kernel = model.get_layer("shared").kernel
    kernel.assign(np.full(kernel.shape, value))
    with pytest.raises(ValueError, match=f"{message}.*'shared'"):
        decompose(model)
    if value == 0:
        assert len(find_pairs(decompose(model, ["first", "head"]))) == 2


@pytest.mark.once
def test_a_decomposed_model_is_not_decomposed_again():
    with pytest.raises(ValueError, match=r"must not be decomposed already.*merge"):
        decompose(decompose(mixed_model()))


@pytest.mark.once
@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2"])
def test_applications_and_their_decomposition_are_equal(name):
    # In double precision, where rounding does not hide a small mistake; see the sweep.
    keras.config.set_dtype_policy("float64")
    try:
        build = getattr(keras.applications, name)
        alpha = {"MobileNet": 0.25, "MobileNetV2": 0.35}[name]
        model = build(weights=None, input_shape=(32, 32, 3), classes=10, alpha=alpha)
        randomize_weights(model, seed=0)
        low = decompose(model)
        assert sum(isinstance(x, BasisScaling) for x in low.layers) >= 15
        inputs = example_inputs(model, seed=0)
        (wanted,), (found,) = logits(model, inputs), logits(low, inputs)
        assert np.abs(wanted - found).max() < SAME * wanted.std()
    finally:
        keras.config.set_dtype_policy("float32")
