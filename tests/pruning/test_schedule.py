"""Gradual pruning: the widths of every step, and what happens in between."""

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.pruning import count_parameters, make_plan, prune_gradually


@pytest.fixture
def model():
    keras.utils.set_random_seed(2)
    inputs = keras.Input((6,))
    x = layers.Dense(12, name="one")(inputs)
    x = layers.Dense(8, name="two")(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


def _widths(made):
    return [(plan.widths["one"], plan.widths["two"]) for plan in made.plans]


def test_a_ratio_is_reached_in_a_straight_line(model):
    made = prune_gradually(model, steps=3, ratio=0.5)
    # 12 -> 6 and 8 -> 4; 8 - 4/3 = 6.67 and 8 - 8/3 = 5.33 go to the nearest width.
    assert _widths(made) == [(10, 7), (8, 5), (6, 4)]
    assert made.model.get_layer("one").units == 6 and model.get_layer("one").units == 12
    assert made.plans[1].groups[0].width == 10


def test_steps_keep_to_the_rounding(model):
    made = prune_gradually(model, steps=2, ratio=0.5, round_to=4)
    assert _widths(made) == [(8, 8), (4, 4)] or _widths(made) == [(12, 8), (8, 4)]
    final = make_plan(model, ratio=0.5, round_to=4).widths
    assert _widths(made)[-1] == (final["one"], final["two"])
    assert all(width % 4 == 0 for pair in _widths(made) for width in pair)


def test_given_widths_and_ratios_by_name_are_reached(model):
    made = prune_gradually(model, steps=2, widths={"one": 4})
    assert _widths(made) == [(8, 8), (4, 8)]
    made = prune_gradually(model, steps=2, ratio={"two": 0.5})
    assert _widths(made) == [(12, 6), (12, 4)]


def test_a_target_goes_down_in_a_straight_line_and_is_ranked_again(model):
    whole = count_parameters(model)
    made = prune_gradually(model, steps=2, target={"parameters": 0.5})
    left = [plan.steps[0].parameters - plan.parameters_saved for plan in made.plans]
    assert left[0] <= 0.75 * whole and left[1] <= 0.5 * whole
    assert left[0] > 0.6 * whole and count_parameters(made.model) == left[1]
    made = prune_gradually(model, steps=2, target={"width": 10})
    assert [sum(pair) for pair in _widths(made)] == [15, 10]


def test_training_in_between_decides_what_goes_next(model):
    seen = []

    def between(slim, plan, step):
        seen.append((slim.get_layer("one").units, len(plan.groups[0].kept), step))
        kernel = np.zeros(slim.get_layer("one").kernel.shape)
        kernel[:, -6:] = 1
        slim.get_layer("one").kernel.assign(kernel)

    before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    made = prune_gradually(model, steps=2, ratio={"one": 0.5}, between=between)
    assert seen == [(9, 9, 1), (6, 6, 2)]
    assert made.plans[1].groups[0].kept == (3, 4, 5, 6, 7, 8)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))


def test_pruning_continues_with_a_model_returned_in_between(model):
    replaced = []

    def between(slim, plan, step):
        replaced.append(keras.models.clone_model(slim))
        return replaced[-1]

    made = prune_gradually(model, steps=1, ratio=0.5, between=between)
    assert made.model is replaced[0]


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_must_be_a_count(model, steps):
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 1"):
        prune_gradually(model, steps=steps, ratio=0.5)


def test_settings_are_checked_before_anything_is_pruned(model):
    calls = []
    with pytest.raises(ValueError, match="Received: ratio=2"):
        prune_gradually(model, steps=2, ratio=2, between=lambda *args: calls.append(args))
    assert calls == []
