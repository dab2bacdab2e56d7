"""Importances, against scores computed by hand from the weights."""

import keras
import numpy as np
import pytest

from spade_keras.pruning import Group, Slot, calibrate, importance
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.importance import IMPORTANCES, group_scores


def _slot(layer, weight, index, axis, width, role, places=1):
    positions = np.arange(width * places).reshape(width, places)
    return Slot(layer, weight, index, axis, positions, role)


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((4, 4, 2))
    x = keras.layers.Conv2D(5, 3, padding="same", name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    generator = np.random.default_rng(0)
    model.set_weights([generator.normal(size=w.shape) for w in model.weights])
    variance = model.get_layer("norm").moving_variance
    variance.assign(keras.ops.absolute(variance))
    return model


@pytest.fixture
def group():
    # Flatten puts channel c at the places c, c + 5, c + 10, ... of the dense kernel's input.
    places = np.arange(80).reshape(16, 5).T
    return Group(
        "conv",
        5,
        (
            _slot("conv", "kernel", 0, 3, 5, "producer"),
            _slot("conv", "bias", 1, 0, 5, "parameter"),
            _slot("norm", "gamma", 0, 0, 5, "parameter"),
            _slot("norm", "beta", 1, 0, 5, "parameter"),
            _slot("norm", "moving_mean", 2, 0, 5, "parameter"),
            Slot("head", "kernel", 0, 0, places, "consumer"),
        ),
    )


def _arrays(model):
    kernel = keras.ops.convert_to_numpy(model.get_layer("conv").kernel).astype("float64")
    gamma = keras.ops.convert_to_numpy(model.get_layer("norm").gamma).astype("float64")
    head = keras.ops.convert_to_numpy(model.get_layer("head").kernel).astype("float64")
    return kernel, gamma, head


def _by_hand(model, measure):
    """Members' scores channel by channel: conv slice, gamma, and the 16 head rows."""
    kernel, gamma, head = _arrays(model)
    rows = np.zeros((3, 5))
    for channel in range(5):
        rows[0, channel] = measure(kernel[:, :, :, channel])
        rows[1, channel] = measure(gamma[channel])
        rows[2, channel] = measure(head[[channel + 5 * pixel for pixel in range(16)], :])
    return rows


def _scores(name, group, model, **settings):
    return group_scores(IMPORTANCES.make(name, **settings), group, WeightTable(model))


def test_group_l1_averages_members_then_divides_by_the_mean(model, group):
    expected = _by_hand(model, lambda part: np.abs(part).sum()).mean(axis=0)
    scores = _scores("group_l1", group, model)
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-6)
    assert scores.mean() == pytest.approx(1)


def test_group_l2_takes_the_norm_of_each_member(model, group):
    expected = _by_hand(model, lambda part: np.sqrt(np.square(part).sum())).mean(axis=0)
    scores = _scores("group_l2", group, model)
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-6)


def test_batch_norm_scale_is_the_absolute_gamma_undivided(model, group):
    scores = _scores("batch_norm_scale", group, model)
    np.testing.assert_allclose(scores, np.abs(_arrays(model)[1]), rtol=1e-6)


def test_batch_norm_scale_has_no_say_without_a_norm(model, group):
    bare = Group("conv", 5, group.slots[:2])
    assert _scores("batch_norm_scale", bare, model) is None


def test_fpgm_sums_distances_to_the_other_filters(model, group):
    kernel = _arrays(model)[0].reshape(-1, 5)
    expected = [
        sum(np.linalg.norm(kernel[:, c] - kernel[:, d]) for d in range(5)) for c in range(5)
    ]
    scores = _scores("fpgm", group, model)
    np.testing.assert_allclose(scores, expected / np.mean(expected), rtol=1e-6)


def test_fpgm_spares_the_outlier_and_not_the_largest(model, group):
    # Four filters of norm 10 close together and a small one far away: only a distance sees it.
    kernel = np.ones((3, 3, 2, 5)) * 10 / np.sqrt(18)
    kernel[0, 0, 0, :4] += 0.01 * np.arange(4)
    kernel[..., 4] = 0
    model.get_layer("conv").kernel.assign(kernel)
    scores = _scores("fpgm", group, model)
    assert np.argmax(scores) == 4


def test_lamp_divides_by_what_outlives_the_channel(model, group):
    squares = np.square(_arrays(model)[0]).sum(axis=(0, 1, 2))
    expected = [square / squares[squares >= square].sum() for square in squares]
    scores = _scores("lamp", group, model)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    assert scores.max() == pytest.approx(1)


def test_random_repeats_for_a_seed_and_differs_between_groups(model, group):
    other = Group("other", 5, group.slots)
    first = _scores("random", group, model, seed=1)
    np.testing.assert_array_equal(first, _scores("random", group, model, seed=1))
    assert not np.allclose(first, _scores("random", group, model, seed=2))
    assert not np.allclose(first, _scores("random", other, model, seed=1))


def test_taylor_squares_gradient_times_weight_and_averages_over_batches():
    # y = x W v with loss = mean((y - t)^2): the gradients are written out below.
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, use_bias=False, name="a")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, use_bias=False, name="b")(hidden))
    generator = np.random.default_rng(1)
    w, v = generator.normal(size=(3, 4)), generator.normal(size=(4, 1))
    model.set_weights([w, v])
    batches = [(generator.normal(size=(2, 3)), generator.normal(size=(2, 1))) for _ in range(3)]
    group = Group(
        "a",
        4,
        (_slot("a", "kernel", 0, 1, 4, "producer"), _slot("b", "kernel", 0, 0, 4, "consumer")),
    )
    effects = np.zeros((2, 4))
    for x, t in batches:
        slope = 2 * (x @ w @ v - t) / len(x)
        grad_w, grad_v = x.T @ slope @ v.T, (x @ w).T @ slope
        effects[0] += (w * grad_w).sum(axis=0) ** 2 / 3
        effects[1] += (v * grad_v).sum(axis=1) ** 2 / 3
    expected = effects.mean(axis=0)
    taylor = IMPORTANCES.make("taylor", loss="mean_squared_error", batches=batches)
    scores = group_scores(taylor, group, WeightTable(model))
    np.testing.assert_allclose(scores, expected / expected.mean(), rtol=1e-4)


def test_taylor_reads_a_dataset_by_index_and_needs_a_batch():
    class Endless(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return np.full((1, 3), index), np.zeros((1, 1))

    assert len(importance.Taylor("mse", Endless()).batches) == 2
    with pytest.raises(ValueError, match="at least one pair"):
        importance.Taylor("mse", [])


@pytest.mark.parametrize("name", [name for name in IMPORTANCES if name != "taylor"])
def test_every_importance_scores_every_channel(model, group, name):
    x = np.random.default_rng(0).normal(size=(32, *model.input_shape[1:])).astype("float32")
    settings = {"calibration": calibrate(model, x)} if name == "obs" else {}
    scores = _scores(name, group, model, **settings)
    assert scores.shape == (5,)
    assert np.isfinite(scores).all() and (scores >= 0).all() and len(set(scores)) == 5


def test_zero_weights_score_zero(model, group):
    model.set_weights([np.zeros(w.shape) for w in model.weights])
    for name in ("group_l1", "group_l2", "fpgm", "lamp"):
        scores = _scores(name, group, model)
        np.testing.assert_array_equal(scores, np.zeros(5))


def test_nan_weights_are_an_error_that_names_the_group(model, group):
    gamma = model.get_layer("norm").gamma
    gamma.assign([1, 2, np.nan, 1, 1])
    with pytest.raises(ValueError, match=r"group 'conv'.*NaN or infinite score for channel 2"):
        _scores("group_l1", group, model)


def test_a_function_may_serve_as_importance_but_must_fit(model, group):
    scores = group_scores(lambda group, weights: np.arange(5.0), group, WeightTable(model))
    np.testing.assert_allclose(scores, np.arange(5) / 2)
    with pytest.raises(ValueError, match=r"\(members, 5\).*Received: shape=\(1, 4\)"):
        group_scores(lambda group, weights: np.arange(4.0), group, WeightTable(model))


def test_scores_that_are_not_divided_are_means_too(model, group):
    class Given(importance.Importance):
        normalize = False

        def __call__(self, group, weights):
            return np.array([[1.0, 2, 3, 4, 5], [3, 2, 1, 0, -1]])

    np.testing.assert_allclose(group_scores(Given(), group, WeightTable(model)), np.full(5, 2.0))


def test_registry_adds_refuses_doubles_and_suggests():
    IMPORTANCES.register("mine", importance.GroupL2)
    try:
        assert isinstance(IMPORTANCES.make("mine"), importance.GroupL2)
        with pytest.raises(ValueError, match="'mine' exists already"):
            IMPORTANCES.register("mine", importance.GroupL1)
    finally:
        IMPORTANCES.unregister("mine")
    with pytest.raises(ValueError, match="Did you mean 'group_l1'"):
        IMPORTANCES.make("grup_l1")
    with pytest.raises(ValueError, match=r"takes other arguments: .*batches"):
        IMPORTANCES.make("taylor")
