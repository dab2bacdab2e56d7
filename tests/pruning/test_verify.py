import dataclasses

import keras
import numpy as np
import pytest
from keras import layers

import spade_keras.pruning.graph.partition as narrowing
from spade_keras.errors import VerificationError
from spade_keras.pruning import blocks, drop_blocks, make_plan, plan_ranks
from spade_keras.pruning.basis.scaling import BasisScaling
from spade_keras.pruning.verify import measure_difference, verify_plan


def network():
    x = keras.Input((None, None, 3))
    y = layers.Conv2D(8, 3, padding="same", activation="relu", name="a")(x)
    y = layers.BatchNormalization()(y)
    y = layers.Conv2D(8, 3, padding="same", name="b")(y)
    y = layers.LayerNormalization()(y)
    y = layers.GlobalAveragePooling2D()(y)
    return keras.Model(x, layers.Dense(4, activation="softmax", name="classes")(y))


def swap(plan, name):
    groups = []
    for group in plan.groups:
        if group.name == name:
            missing = sorted(set(range(group.width)) - set(group.kept))
            group = dataclasses.replace(group, kept=tuple(sorted((*group.kept[1:], missing[0]))))
        groups.append(group)
    step = dataclasses.replace(plan.steps[0], groups=tuple(groups))
    return dataclasses.replace(plan, steps=(step,))


def test_report_compares_logits_and_a_tensor_inside():
    model = network()
    report = verify_plan(model, make_plan(model, ratio=0.5))
    assert "classes" in report.errors
    assert len(report.errors) == 2
    assert report.largest_error < 1e-4
    assert report.slim_parameters < report.parameters == model.count_params()
    assert all(std > 1e-2 for std in report.stds.values())


def test_the_model_is_not_touched():
    model = network()
    before = [np.array(w) for w in model.get_weights()]
    verify_plan(model, make_plan(model, ratio=0.5))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", ["a", "b"])
def test_one_kept_channel_swapped_is_noticed(name):
    model = network()
    plan = make_plan(model, ratio=0.5)
    report = measure_difference(model, plan, swap(plan, name))
    assert report.errors["classes"] > 0.05
    with pytest.raises(VerificationError, match="differs from the masked original"):
        report.check()


def test_a_mistake_in_the_slicing_is_noticed(monkeypatch):
    """The masked original does not come from the code that cuts the weights."""
    model = network()
    plan = make_plan(model, ratio=0.5)
    original = narrowing.Narrowing.value

    def reversed_bias(self, variable):
        value = original(self, variable)
        return value[::-1].copy() if variable.name == "beta" else value

    monkeypatch.setattr(narrowing.Narrowing, "value", reversed_bias)
    with pytest.raises(VerificationError):
        verify_plan(model, plan)


def test_a_mistake_in_the_factors_is_noticed(monkeypatch):
    """The approximated kernels do not come from the code that decomposes and merges."""
    model = network()
    plan = plan_ranks(model, {"a": 3, "b": 5})
    assert verify_plan(model, plan).largest_error < 1e-4
    original = BasisScaling.effective_directions
    monkeypatch.setattr(BasisScaling, "effective_directions", lambda x: original(x)[:, ::-1])
    with pytest.raises(VerificationError, match="differs"):
        verify_plan(model, plan)


def test_a_block_that_stays_is_noticed(monkeypatch):
    """The zeroed branch does not come from the code that leaves blocks out."""
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(6, 3, padding="same", name="stem")(x)
    for name in ("first", "second"):
        y = layers.Add(name=name)([y, layers.Conv2D(6, 3, padding="same")(y)])
    model = keras.Model(x, layers.Conv2D(2, 1, name="head")(y))
    plan = drop_blocks(model, ["first"])
    assert verify_plan(model, plan).largest_error < 1e-4
    monkeypatch.setattr(blocks, "leave_out", lambda graph, skips: graph)
    with pytest.raises(VerificationError, match="differs"):
        verify_plan(model, plan)


def test_blind_checks_are_refused():
    model = network()
    plan = make_plan(model, ratio=0.5)
    with pytest.raises(VerificationError, match="proves nothing"):
        verify_plan(model, plan, inputs=np.zeros((2, 8, 8, 3), "float32"))


def test_the_trained_weights_can_be_checked_too():
    model = network()
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    plan = make_plan(model, ratio=0.5)
    classes = model.get_layer("classes")
    classes.set_weights([10 * w for w in classes.get_weights()])
    report = verify_plan(model, plan, inputs, randomize=False)
    assert report.largest_error < 1e-4


def test_trained_weights_mean_the_original_with_channels_masked():
    """Independent of the library: a two-layer network masked by hand."""
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, activation="tanh", name="a"), layers.Dense(3)]
    )
    plan = make_plan(model, ratio=0.5)
    kept = list(next(group.kept for group in plan.groups if group.name == "a"))
    w, b, v, c = model.get_weights()
    mask = np.isin(np.arange(6), kept).astype("float32")
    x = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    from spade_keras.pruning.rebuild import rebuild

    slim = rebuild(model, plan)
    wanted = (np.tanh(x @ w + b) * mask) @ v + c
    np.testing.assert_allclose(slim.predict(x, verbose=0), wanted, atol=1e-5)
