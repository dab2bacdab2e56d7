import keras
import numpy as np
import pytest

from spade_keras.pruning import make_plan
from spade_keras.pruning.rebuild import PlanMismatchError, rebuild
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
