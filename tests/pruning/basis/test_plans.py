"""Plans of channels and ranks: replayed on the original, proved, and the same as JSON."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.pruning import (
    PlanMismatchError,
    VerificationError,
    find_groups,
    make_plan,
    rebuild,
)
from spade_keras.pruning.basis import (
    BasisPlan,
    LayerRank,
    RankBuilder,
    RankPlan,
    decompose,
    find_pairs,
    make_rank_plan,
    merge,
    rebuild_basis,
    rebuild_ranks,
    verify_basis_plan,
)
from spade_keras.pruning.basis.verification import measure_rank_difference, randomize_weights


@pytest.fixture
def model():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, padding="same", name="one")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(12, 3, padding="same", groups=2, activation="relu", name="two")(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2DTranspose(8, 3, strides=2, name="up")(x))
    model = keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x), name="net")
    generator = np.random.default_rng(0)
    for weight in model.weights:
        positive = "variance" in weight.name or "gamma" in weight.name
        draw = generator.uniform(0.5, 1.5, weight.shape)
        weight.assign(draw if positive else 0.4 * generator.normal(size=weight.shape))
    return model


def _run(model):
    x = np.random.default_rng(1).normal(size=(3, 8, 8, 3)).astype("float32")
    return ops.convert_to_numpy(model(x))


def _pruned(model, share=0.5, seed=2):
    """A decomposed model as training may leave it: factors moved, some components gone."""
    low = decompose(model)
    generator = np.random.default_rng(seed)
    for pair in find_pairs(low):
        pair.scaling.scale.assign(generator.uniform(0.5, 2, pair.scaling.scale.shape))
        count = max(1, round(share * pair.scaling.rank))
        pair.scaling.keep(np.sort(generator.permutation(pair.scaling.rank)[:count]))
    return low


def _channels_then_ranks(model):
    channels = make_plan(model, ratio=0.5)
    low = _pruned(rebuild(model, channels))
    return BasisPlan("net", (channels, make_rank_plan(low, importance="taylor"))), merge(low)


def _ranks_then_channels(model):
    low = _pruned(model)
    merged = merge(low)
    channels = make_plan(merged, ratio=0.5)
    return BasisPlan("net", (make_rank_plan(low), channels)), rebuild(merged, channels)


@pytest.mark.parametrize("make", [_channels_then_ranks, _ranks_then_channels])
def test_double_pruning_is_replayed_on_the_original_and_proved(model, make):
    plan, slim = make(model)
    again = BasisPlan.from_json(plan.to_json())
    assert again == plan
    made = rebuild_basis(model, again)
    np.testing.assert_allclose(_run(made), _run(slim), rtol=1e-4, atol=1e-6)
    assert [tuple(w.shape) for w in made.weights] == [tuple(w.shape) for w in slim.weights]
    assert made.count_params() < 0.5 * model.count_params()
    reports = verify_basis_plan(model, again)
    assert len(reports) == 2 and max(report.largest_error for report in reports) < 1e-3
    assert reports[-1].slim_parameters == made.count_params()
    assert all(type(x).__module__.startswith("keras.") for x in made.layers)


@pytest.mark.once
def test_each_order_leaves_fewer_parameters_than_its_first_step(model):
    for make in (_channels_then_ranks, _ranks_then_channels):
        plan, slim = make(model)
        first = rebuild_basis(model, BasisPlan("net", plan.steps[:1]))
        assert slim.count_params() < first.count_params() < model.count_params()


@pytest.mark.once
@pytest.mark.parametrize("layer", ["one", "two", "up", "head"])
def test_the_proof_sees_one_swapped_component_and_one_scale(model, layer):
    plan = make_rank_plan(_pruned(model))
    assert measure_rank_difference(model, plan, plan).largest_error < 1e-4
    for change in (_swap, _double_first_scale):
        entries = tuple(change(x) if x.name == layer else x for x in plan.layers)
        wrong = dataclasses.replace(plan, layers=entries)
        report = measure_rank_difference(model, plan, wrong)
        assert report.largest_error > 1e-2
        with pytest.raises(VerificationError):
            report.check()


def _swap(entry):
    other = next(i for i in range(entry.rank) if i not in entry.kept)
    return dataclasses.replace(entry, kept=tuple(sorted((*entry.kept[1:], other))))


def _double_first_scale(entry):
    return dataclasses.replace(entry, scales=(3 * entry.scales[0], *entry.scales[1:]))


@pytest.mark.once
def test_the_original_is_not_touched(model):
    before = [ops.convert_to_numpy(w) for w in model.weights]
    plan, _ = _channels_then_ranks(model)
    verify_basis_plan(model, plan)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))


@pytest.mark.once
def test_the_summary_names_layers_ranks_and_forms(model):
    text = _channels_then_ranks(model)[0].summary()
    assert "Pruning plan for 'net'" in text
    assert "two layers" in text and "head" in text and "->" in text


@pytest.mark.once
def test_chosen_ranks_are_built_as_their_plan_says(model):
    builder = RankBuilder(model)
    assert {g.name: g.rank for g in builder.groups} == {"one": 12, "two": 6, "up": 8, "head": 4}
    ranks = {"one": 5, "two": 5, "up": 3}
    made, planned = builder(ranks), rebuild_ranks(model, builder.plan(ranks))
    np.testing.assert_allclose(_run(made), _run(planned), rtol=1e-4, atol=1e-6)
    forms = {layer.name: layer.form for layer in builder.plan(ranks).layers}
    # r* = 27 * 12 / 39 = 8.3, 54 * 6 / 60 = 5.4 and 108 * 8 / (108 + 4 * 8) = 6.2.
    assert forms == {"one": "pair", "two": "pair", "up": "pair"}
    assert builder.plan({"one": 9}).layers[0].form == "one"
    assert made.get_layer("one_basis").filters == 5 and made.get_layer("head").units == 4
    np.testing.assert_allclose(_run(builder({})), _run(model), rtol=1e-4, atol=1e-6)
    for wrong in ({"one": 0}, {"one": 13}, {"three": 1}, {"one": 2.0}):
        with pytest.raises(ValueError, match="`ranks` must give each layer"):
            builder(wrong)
    with pytest.raises(ValueError, match="must lower the rank"):
        builder.plan({"one": 12})


@pytest.mark.once
def test_ranks_are_channel_groups_of_a_model_whose_pairs_are_kept(model):
    pairs = merge(decompose(model), by="none")
    widths = {group.name: group.width for group in find_groups(pairs) if group.fixed is None}
    assert widths["one_basis"] == 12 and widths["head_basis"] == 4 and "one" in widths
    ranks = {"one": 5, "up": 3, "head": 2}
    given = {f"{name}_basis": rank for name, rank in ranks.items()}
    # The norms of a basis are all 1, so that the consumer's rows, sigma_i v_i, decide.
    slim = rebuild(pairs, make_plan(pairs, widths=given, importance="group_l2"))
    np.testing.assert_allclose(_run(slim), _run(RankBuilder(model)(ranks)), rtol=1e-4, atol=1e-6)


@pytest.mark.once
def test_the_priors_of_a_network_are_pruned_doubly():
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[8, 8]), iterations=2)
    for prior in network.priors.values():
        randomize_weights(prior, seed=0)
    channels = make_plan(network, ratio=0.5)
    low = _pruned(rebuild(network, channels))
    plan = BasisPlan(network.name, (channels, make_rank_plan(low)))
    assert all(layer.name.startswith("prior/") for layer in plan.steps[1].layers)
    reports = verify_basis_plan(network, BasisPlan.from_json(plan.to_json()))
    assert max(report.largest_error for report in reports) < 1e-3
    slim = rebuild_basis(network, plan)
    assert type(slim) is UnrolledPGD
    assert [w.shape for w in slim.weights] == [w.shape for w in merge(low).weights]


@pytest.mark.once
def test_plans_of_other_models_are_refused(model):
    layer = LayerRank("one", 12, (0,))
    for wrong in (
        LayerRank("three", 12, (0,)),
        LayerRank("one", 11, (0,)),
        LayerRank("norm", 12, (0,)),
        LayerRank("two", 6, (0,), scales=(1.0,)),
    ):
        with pytest.raises(PlanMismatchError):
            rebuild_ranks(model, RankPlan("net", (layer, wrong)[-1:]))


@pytest.mark.once
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerRank("a", 3, ()), "at least one component"),
        (lambda: LayerRank("a", 3, (1, 0)), "ascending"),
        (lambda: LayerRank("a", 3, (3,)), r"must lie in \[0, 3\)"),
        (lambda: LayerRank("a", 3, (0,), "both"), "Received: form='both'"),
        (lambda: LayerRank("a", 3, (0, 1), scales=(1.0,)), "1 scales for 2 components"),
        (lambda: LayerRank("a", 3, (0,), scales=(float("nan"),)), "one finite factor"),
        (lambda: RankPlan("net", ()), "at least one layer"),
        (lambda: RankPlan("net", (LayerRank("a", 3, (0,)),) * 2), r"twice: \['a'\]"),
        (lambda: BasisPlan("net", ()), "at least one PruningPlan or RankPlan"),
    ],
)
def test_bad_plans_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(basis_format_version=9),
        lambda d: d.update(extra=1),
        lambda d: d.update(steps="none"),
        lambda d: d.update(model=3),
        lambda d: d["steps"].append({"layers": []}),
        lambda d: d["steps"][0].update(ranks=[]),
        lambda d: d["steps"][0]["ranks"].update(importance=3),
        lambda d: d["steps"][0]["ranks"].pop("layers"),
        lambda d: d["steps"][0]["ranks"]["layers"][0].update(kept=[0.5]),
        lambda d: d["steps"][0]["ranks"]["layers"][0].update(rank=True),
        lambda d: d["steps"][0]["ranks"]["layers"][0].update(scales=["1"]),
        lambda d: d["steps"][0]["ranks"]["layers"][0].pop("name"),
        lambda d: d["steps"][0]["ranks"]["layers"].append("a"),
    ],
)
def test_damaged_json_is_refused(change):
    data = json.loads(BasisPlan("net", (RankPlan("net", (LayerRank("a", 3, (0,)),)),)).to_json())
    change(data)
    with pytest.raises(ValueError, match="Received"):
        BasisPlan.from_json(json.dumps(data))
    with pytest.raises(ValueError, match="must be JSON"):
        BasisPlan.from_json("{")
