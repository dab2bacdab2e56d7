"""Plans: what they hold, how they travel, what they say, and what `make_plan` refuses."""

import dataclasses
import json
import time

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras.pruning import (
    Group,
    GroupPlan,
    PruningPlan,
    Slot,
    count_macs,
    count_parameters,
    make_plan,
    rebuild,
)
from spade_keras.pruning.cost import PlanCost
from spade_keras.pruning.graph.weights import WeightTable
from spade_keras.pruning.importance import Taylor


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(5)
    x = inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, padding="same", name="one")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU(name="relu")(x)
    y = layers.Conv2D(8, 3, padding="same", name="two")(x)
    x = layers.Add(name="sum")([x, y])
    x = layers.Conv2D(6, 3, name="three")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1, name="last")(x), name="net")


def _kernel(model, name):
    return keras.ops.convert_to_numpy(model.get_layer(name).kernel).astype("float64")


def test_one_ratio_keeps_the_channels_with_the_largest_group_l1(model):
    one, two, three, last = (_kernel(model, name) for name in ("one", "two", "three", "last"))
    plan = make_plan(model, ratio=0.5)
    # one and two are tied by the sum: members are both outputs, both inputs, and gamma (= 1).
    members = [
        np.abs(one).sum(axis=(0, 1, 2)),
        np.ones(8),
        np.abs(two).sum(axis=(0, 1, 3)),
        np.abs(two).sum(axis=(0, 1, 2)),
        np.abs(three).sum(axis=(0, 1, 3)),
    ]
    tied = np.mean(members, axis=0)
    free = np.mean([np.abs(three).sum(axis=(0, 1, 2)), np.abs(last).sum(axis=(0, 1, 3))], axis=0)
    kept = {group.name: group.kept for group in plan.groups}
    assert kept["one"] == tuple(sorted(np.argsort(-tied)[:4]))
    assert kept["three"] == tuple(sorted(np.argsort(-free)[:3]))
    assert plan.widths == {"one": 4, "three": 3, "last": 2}


def test_savings_are_those_of_the_slim_model(model):
    for settings in ({"ratio": 0.5}, {"widths": {"three": 1}}, {"target": {"macs": 0.3}}):
        plan = make_plan(model, **settings)
        slim = rebuild(model, plan)
        assert plan.steps[0].parameters - plan.parameters_saved == count_parameters(slim)
        assert plan.steps[0].macs - plan.macs_saved == count_macs(slim).total
        assert plan.steps[0].parameters == count_parameters(model)


def _recurrent():
    x = inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(30, 12)(x)
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True))(x)
    return keras.Model(inputs, layers.Dense(3)(layers.LSTM(8)(x)))


def _attention():
    inputs = keras.Input((9, 16))
    x = layers.Dense(16)(inputs)
    x = layers.Add()([x, layers.MultiHeadAttention(4, 6)(x, x)])
    x = layers.Add()([x, layers.GroupQueryAttention(4, 4, 2)(x, x)])
    return keras.Model(inputs, layers.Dense(4)(layers.LayerNormalization()(x)))


def _convolutional():
    x = inputs = keras.Input((10, 10, 3))
    x = layers.SeparableConv2D(8, 3)(layers.Conv2D(8, 3)(x))
    x = layers.Conv2D(8, 3, groups=4, padding="same")(layers.DepthwiseConv2D(3)(x))
    x = layers.Concatenate()([x, layers.Conv2DTranspose(6, 3, padding="same")(x)])
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@pytest.mark.parametrize("make", [_recurrent, _attention, _convolutional])
def test_savings_are_exact_for_layers_of_many_kinds(make):
    model = make()
    plan = make_plan(model, ratio=0.5)
    slim = rebuild(model, plan)
    assert plan.steps[0].parameters - plan.parameters_saved == count_parameters(slim)
    assert plan.steps[0].macs - plan.macs_saved == count_macs(slim).total
    assert plan.parameters_saved > 0.5 * plan.steps[0].parameters


def test_two_slots_of_a_group_in_one_weight_save_both():
    inputs = keras.Input((4,))
    x = layers.Dense(3, name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="b")(layers.Concatenate()([x, x])))
    rows = np.arange(6).reshape(2, 3).T
    group = Group(
        "a",
        3,
        (
            Slot("a", "kernel", 0, 1, rows[:, :1], "producer"),
            Slot("b", "kernel", 0, 0, rows[:, :1], "consumer"),
            Slot("b", "kernel", 0, 0, rows[:, 1:], "consumer"),
        ),
    )
    cost = PlanCost(model, [group], WeightTable(model))
    assert cost.savings({"a": 2}) == [(4 + 2 * 2, 4 + 2 * 2)]
    assert cost.total({"a": 1}) == (4 * 3 + 3 + 6 * 2 + 2 - 16, 4 * 3 + 6 * 2 - 16)
    found = make_plan(model, widths={"a": 2})
    assert found.groups[0].parameters_saved == 4 + 1 + 2 * 2


def test_taylor_ranks_by_the_data(model):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 12, 12, 3)).astype("float32")
    taylor = Taylor("mse", [(x, np.zeros((2, 10, 10, 2), "float32"))])
    plan = make_plan(model, ratio=0.5, importance=taylor)
    assert plan.steps[0].importance == "Taylor" and plan.widths["three"] == 3
    # The loss is zero without data: nothing matters, and the first channels stay.
    silent = Taylor("mse", [(0 * x, np.zeros((2, 10, 10, 2), "float32"))])
    assert make_plan(model, ratio=0.5, importance=silent).groups[1].kept == (0, 1, 2)


def test_savings_per_group_count_what_the_groups_before_left(model):
    plan = make_plan(model, ratio=0.5)
    one, three, last = plan.groups
    # one: 4 of 8 channels go from one (3 in), the norm, two (both ways) and three's input.
    assert one.parameters_saved == (4 * (9 * 3 + 1) + 4 * 4 + 9 * (64 - 16) + 4 + 9 * 6 * 4)
    assert three.parameters_saved == 3 * (9 * 4 + 1) + 3 * 2
    assert (last.parameters_saved, last.macs_saved) == (0, 0)
    assert three.macs_saved == 100 * (3 * 9 * 4 + 3 * 2)


def test_targets_are_met_and_missing_one_step_would_not_do(model):
    for quantity in ("parameters", "macs"):
        plan = make_plan(model, target={quantity: 0.5})
        whole = getattr(plan.steps[0], quantity)
        left = whole - getattr(plan, f"{quantity}_saved")
        assert left <= 0.5 * whole
        same = make_plan(model, target={quantity: left})
        assert same.widths == plan.widths
        wider = make_plan(model, target={quantity: 0.5 * whole + 200})
        assert sum(wider.widths.values()) >= sum(plan.widths.values())
    plan = make_plan(model, target={"width": 7})
    assert plan.widths["one"] + plan.widths["three"] == 7
    assert make_plan(model, ratio=0.5, scope="global").widths == plan.widths
    # Of 14 free channels 30 % go, at least: 9 stay.
    plan = make_plan(model, ratio=0.3, scope="global")
    assert plan.widths["one"] + plan.widths["three"] == 9


def test_ratios_by_name_leave_the_other_groups_alone(model):
    plan = make_plan(model, ratio={"two": 0.25, "thr*": 0.5})
    assert plan.widths == {"one": 6, "three": 3, "last": 2}
    plan = make_plan(model, ratio={"three": 0.5, "last": 0})
    assert plan.widths == {"one": 8, "three": 3, "last": 2}


def test_wildcards_pass_over_fixed_groups(model):
    assert make_plan(model, widths={"*": 5}).widths == {"one": 5, "three": 5, "last": 2}
    assert make_plan(model, ratio={"*": 0.5}).widths == {"one": 4, "three": 3, "last": 2}


def test_rounding_minimum_and_protection(model):
    assert make_plan(model, ratio=0.6, round_to=4).widths["one"] == 4
    assert make_plan(model, ratio=0.9, minimum_width=3).widths == {"one": 3, "three": 3, "last": 2}
    plan = make_plan(model, ratio=0.5, protect=["thr*"])
    assert plan.widths["three"] == 6
    assert "protected by 'thr*'" in plan.summary()
    plan = make_plan(model, ratio=0.5, round_to=8)
    assert plan.widths["one"] == 8
    assert "no narrower width is allowed" in plan.groups[0].fixed


def test_groups_an_importance_cannot_score_stay_and_say_so(model):
    plan = make_plan(model, ratio=0.5, importance="batch_norm_scale")
    assert plan.widths == {"one": 4, "three": 6, "last": 2}
    assert plan.groups[1].fixed == "batch_norm_scale has no score for it"
    with pytest.raises(ValueError, match="'three' is fixed: batch_norm_scale has no score"):
        make_plan(model, widths={"three": 2}, importance="batch_norm_scale")


def test_summary_lists_every_group_with_its_reason(model):
    lines = make_plan(model, ratio=0.5).summary().splitlines()
    assert "'net': 2 of 3 groups narrowed, ranked by group_l1 (ratio=0.5" in lines[0]
    assert lines[2].split()[:4] == ["one", "8", "->", "4"]
    assert "-780" in lines[2].replace(",", "") and "norm" in lines[2]
    assert "fixed: " in lines[4] and "output" in lines[4]
    assert "43.8% of the channels" in lines[5]


def test_the_model_stays_as_it_is(model):
    before = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    make_plan(model, ratio=0.5)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))


def test_json_gives_the_plan_back_and_keeps_a_version(model):
    for settings in ({"ratio": {"o*": 0.5}, "protect": ["last"]}, {"target": {"macs": 0.5}}):
        plan = make_plan(model, **settings)
        assert PruningPlan.from_json(plan.to_json()) == plan
    assert json.loads(plan.to_json())["format_version"] == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.model = "other"


def groups(data):
    return data["steps"][0]["groups"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(format_version=1), "format_version 2. Received: .*1"),
        (lambda data: data.pop("format_version"), "format_version=None"),
        (lambda data: data["steps"][0].pop("groups"), "channels.groups`: Field required"),
        (lambda data: data.update(extra=1), "`extra`: Unexpected"),
        (
            lambda data: groups(data)[0].pop("kept"),
            "`steps.0.channels.groups.0.kept`: Field required",
        ),
        (lambda data: groups(data)[0].update(kept=[0, 0]), "each once"),
        (lambda data: groups(data)[0].update(kept=[1, 0]), "ascending"),
        (lambda data: groups(data)[0].update(kept=[]), "at least one channel"),
        (lambda data: groups(data)[0].update(kept=[8]), r"lie in \[0, 8\)"),
        (lambda data: groups(data)[0].update(kept=[-1, 2]), r"lie in \[0, 8\)"),
        (
            lambda data: groups(data)[0].update(kept=[0.5]),
            "kept.0`: .* Received: 0.5",
        ),
        (
            lambda data: groups(data)[0].update(width="8"),
            "0.width`: .* integer. Received: 8",
        ),
        (lambda data: groups(data).append(groups(data)[0]), "Received twice: .*one"),
        (lambda data: groups(data).append(7), "groups.3`: .* Received: 7"),
        (lambda data: data["steps"][0].update(selection=[]), "selection`: .* Received: "),
    ],
)
def test_json_that_is_no_plan_is_refused(model, change, message):
    data = json.loads(make_plan(model, ratio=0.5).to_json())
    change(data)
    with pytest.raises(ValueError, match=message):
        PruningPlan.from_json(json.dumps(data))


def test_text_that_is_no_json_is_refused():
    with pytest.raises(ValueError, match="must be JSON"):
        PruningPlan.from_json("kept: 3")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"Exactly one of .* Received: \[\]"),
        ({"ratio": 0.5, "widths": {"one": 4}}, r"Received: \['ratio', 'widths'\]"),
        ({"ratio": 50}, r"in \[0, 1\). Received: ratio=50. For 50 % pass 0.5"),
        ({"ratio": 1}, r"Received: ratio=1\."),
        ({"ratio": -0.1}, r"Received: ratio=-0.1"),
        ({"ratio": float("nan")}, "Received: ratio=nan"),
        ({"ratio": True}, "Received: ratio=True"),
        ({"ratio": "half"}, "Received: ratio='half'"),
        ({"ratio": {"one": 2}}, r"`ratio\['one'\]` must be in"),
        ({"ratio": {"on": 0.5}}, "Received: 'on', which matches none. Did you mean .*one"),
        ({"ratio": {"last": 0.5}}, "`ratio.'last'.` must be 0, because group 'last' is fixed"),
        ({"widths": 4}, "`widths` must be a dict"),
        ({"widths": {"one": 9}}, "must be 8 or a smaller multiple of 1 for group 'one'"),
        ({"widths": {"one": 0}}, "at least 1"),
        ({"widths": {"one": 4.0}}, "must be an integer"),
        ({"widths": {"last": 1}}, "group 'last' is fixed: "),
        ({"widths": {"one": 4}, "protect": ["two"]}, "is fixed: protected by 'two'"),
        ({"target": {"flops": 0.5}}, "exactly one of the keys"),
        ({"target": {"macs": 0}}, "must be positive"),
        ({"target": {"macs": 10}}, "`target` must be at least"),
        ({"ratio": 0.5, "importance": "group_l3"}, "Did you mean 'group_l"),
        ({"ratio": 0.5, "protect": ["nine"]}, "`protect` must name"),
        ({"ratio": 0.5, "round_to": 0}, "`round_to` must be an integer of at least 1"),
        ({"ratio": 0.5, "minimum_width": 0}, "`minimum_width` must be"),
        ({"ratio": 0.5, "scope": "all"}, "'local' or 'global'"),
        ({"ratio": {"one": 0.5}, "scope": "global"}, "must come with a single `ratio`"),
    ],
)
def test_bad_settings_are_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        make_plan(model, **settings)


def test_nan_weights_and_unbuilt_models_are_refused(model):
    broken = keras.models.clone_model(model)
    kernel = _kernel(broken, "two")
    kernel[0, 0, 0, 0] = np.nan
    broken.get_layer("two").kernel.assign(kernel)
    with pytest.raises(ValueError, match=r"NaN or infinite weights in .*'two'"):
        make_plan(broken, ratio=0.5)
    with pytest.raises(ValueError, match="must be built"):
        make_plan(keras.Sequential([layers.Dense(3)]), ratio=0.5)


def test_a_mac_target_needs_sizes():
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(8, 3, name="one")(inputs)
    model = keras.Model(inputs, layers.Conv2D(2, 3)(x))
    with pytest.raises(ValueError, match="`inputs` must be given for a MAC target"):
        make_plan(model, target={"macs": 0.5})
    assert make_plan(model, ratio=0.5).macs_saved is None
    plan = make_plan(model, target={"macs": 0.5}, inputs=(1, 9, 9, 3))
    assert plan.steps[0].macs == 49 * 9 * 3 * 8 + 25 * 9 * 8 * 2
    assert plan.macs_saved == (8 - plan.widths["one"]) * (49 * 27 + 25 * 18)


def test_planning_again_is_quick(model):
    make_plan(model, ratio=0.5)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        make_plan(model, ratio=0.5)
        times.append(time.perf_counter() - start)
    # A search makes one plan per trial: tenfold the usual time is still below 20 ms.
    assert min(times) < 0.02


def test_group_plans_check_themselves():
    with pytest.raises(ValueError, match="at least one channel"):
        GroupPlan("a", 3, ())
    with pytest.raises(ValueError, match=r"lie in \[0, 3\)"):
        GroupPlan("a", 3, (1, 3))
