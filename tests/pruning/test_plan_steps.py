"""Plans of several steps: rebuilt from the original, proved, and the same as JSON."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.pruning import (
    BlockStep,
    ChannelStep,
    GroupPlan,
    LayerRank,
    PlanMismatchError,
    PruningPlan,
    RankStep,
    VerificationError,
    count_macs,
    count_parameters,
    decompose,
    find_groups,
    find_residual_blocks,
    make_plan,
    merge,
    plan_ranks,
    rank_plan,
    rebuild,
    verify_plan,
)
from spade_keras.pruning.basis import find_pairs
from spade_keras.pruning.verify import measure_difference
from tests.pruning.basis.random_model import randomize_weights


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
    return channels.then(rank_plan(low, importance="taylor")), merge(low)


def _ranks_then_channels(model):
    low = _pruned(model)
    merged = merge(low)
    channels = make_plan(merged, ratio=0.5)
    return rank_plan(low).then(channels), rebuild(merged, channels)


@pytest.mark.parametrize("make", [_channels_then_ranks, _ranks_then_channels])
def test_double_pruning_is_replayed_on_the_original_and_proved(model, make):
    plan, slim = make(model)
    again = PruningPlan.from_json(plan.to_json())
    assert again == plan
    made = rebuild(model, again)
    np.testing.assert_allclose(_run(made), _run(slim), rtol=1e-4, atol=1e-6)
    assert [tuple(w.shape) for w in made.weights] == [tuple(w.shape) for w in slim.weights]
    assert made.count_params() < 0.5 * model.count_params()
    report = verify_plan(model, again)
    assert {name.split(":")[0] for name in report.errors} == {"step 1", "step 2"}
    assert report.largest_error < 1e-3
    assert report.slim_parameters == made.count_params()
    assert plan.parameters_saved == model.count_params() - made.count_params()
    # Exact but for the strided transposed convolution, which is not padded to "same".
    saved = count_macs(model).total - count_macs(made).total
    assert plan.macs_saved == pytest.approx(saved, rel=0.02)
    assert all(type(x).__module__.startswith("keras.") for x in made.layers)


@pytest.mark.once
def test_each_order_leaves_fewer_parameters_than_its_first_step(model):
    for make in (_channels_then_ranks, _ranks_then_channels):
        plan, slim = make(model)
        first = rebuild(model, PruningPlan("net", plan.steps[:1]))
        assert slim.count_params() < first.count_params() < model.count_params()


@pytest.mark.once
@pytest.mark.parametrize("layer", ["one", "two", "up", "head"])
def test_the_proof_sees_one_swapped_component_and_one_scale(model, layer):
    plan = rank_plan(_pruned(model))
    assert measure_difference(model, plan, plan).largest_error < 1e-4
    for change in (_swap, _double_first_scale):
        entries = tuple(change(x) if x.name == layer else x for x in plan.steps[0].layers)
        wrong = PruningPlan("net", (RankStep(entries),))
        report = measure_difference(model, plan, wrong)
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
    verify_plan(model, plan)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, ops.convert_to_numpy(new))


@pytest.mark.once
def test_the_summary_names_layers_ranks_and_forms(model):
    text = _channels_then_ranks(model)[0].summary()
    assert "Pruning plan for 'net'" in text
    assert "two layers" in text and "head" in text and "->" in text


@pytest.mark.once
def test_chosen_ranks_are_built_as_their_plan_says(model):
    ranks = {"one": 5, "two": 5, "up": 3}
    plan = plan_ranks(model, ranks)
    made = rebuild(model, plan)
    low = decompose(model)
    for pair in find_pairs(low):
        pair.scaling.keep(range(ranks.get(pair.name, pair.scaling.rank)))
    np.testing.assert_allclose(_run(made), _run(low), rtol=1e-4, atol=1e-6)
    assert plan.ranks == ranks
    # r* = 27 * 12 / 39 = 8.3, 54 * 6 / 60 = 5.4 and 108 * 8 / (108 + 4 * 8) = 6.2.
    assert {layer.form for layer in plan.steps[0].layers} == {"pair"}
    assert plan_ranks(model, {"one": 9}).steps[0].layers[0].form == "one"
    assert plan.parameters_saved == model.count_params() - made.count_params()
    exact = plan_ranks(model, {"one": 5, "two": 5})
    slim = rebuild(model, exact)
    assert exact.macs_saved == count_macs(model).total - count_macs(slim).total
    assert made.get_layer("one_basis").filters == 5 and made.get_layer("head").units == 4
    for wrong in ({"one": 0}, {"one": 13}, {"three": 1}, {"one": 2.0}, {"norm": 1}):
        with pytest.raises(ValueError, match="`ranks` must give each layer"):
            plan_ranks(model, wrong)
    with pytest.raises(ValueError, match="must lower the rank"):
        plan_ranks(model, {"one": 12})


@pytest.mark.once
def test_ranks_are_channel_groups_of_a_model_whose_pairs_are_kept(model):
    pairs = merge(decompose(model), by="none")
    widths = {group.name: group.width for group in find_groups(pairs) if group.fixed is None}
    assert widths["one_basis"] == 12 and widths["head_basis"] == 4 and "one" in widths
    ranks = {"one": 5, "up": 3, "head": 2}
    given = {f"{name}_basis": rank for name, rank in ranks.items()}
    # The norms of a basis are all 1, so that the consumer's rows, sigma_i v_i, decide.
    slim = rebuild(pairs, make_plan(pairs, widths=given, importance="group_l2"))
    np.testing.assert_allclose(
        _run(slim), _run(rebuild(model, plan_ranks(model, ranks))), rtol=1e-4, atol=1e-6
    )


@pytest.mark.once
def test_the_priors_of_a_network_are_pruned_doubly():
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[8, 8]), iterations=2)
    for prior in network.priors.values():
        randomize_weights(prior, seed=0)
    channels = make_plan(network, ratio=0.5)
    low = _pruned(rebuild(network, channels))
    plan = channels.then(rank_plan(low))
    assert all(layer.name.startswith("prior/") for layer in plan.steps[1].layers)
    again = PruningPlan.from_json(plan.to_json())
    assert verify_plan(network, again).largest_error < 1e-3
    slim = rebuild(network, plan)
    assert type(slim) is UnrolledPGD
    assert [w.shape for w in slim.weights] == [w.shape for w in merge(low).weights]


@pytest.mark.once
def test_plans_of_other_models_are_refused(model):
    for wrong in (
        LayerRank("three", 12, (0,)),
        LayerRank("one", 11, (0,)),
        LayerRank("norm", 12, (0,)),
        LayerRank("two", 6, (0,), scales=(1.0,)),
    ):
        with pytest.raises(PlanMismatchError):
            rebuild(model, PruningPlan("net", (RankStep((wrong,)),)))


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
        (lambda: RankStep(()), "at least one layer"),
        (lambda: RankStep((LayerRank("a", 3, (0,)),) * 2), r"twice: \['a'\]"),
        (lambda: BlockStep(("a", "a")), r"every block once. Received twice: \['a'\]"),
        (lambda: PruningPlan("net", ()), "at least one BlockStep, ChannelStep or RankStep"),
        (lambda: PruningPlan("net", (GroupPlan("a", 3, (0,)),)), "nothing else.*GroupPlan"),
    ],
)
def test_bad_plans_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(format_version=9),
        lambda d: d.update(extra=1),
        lambda d: d.update(steps="none"),
        lambda d: d.update(steps=[]),
        lambda d: d.update(model=3),
        lambda d: d["steps"].append({"layers": []}),
        lambda d: d["steps"].append({"kind": "rows", "layers": []}),
        lambda d: d["steps"][0].update(layers=[]),
        lambda d: d["steps"][0].update(importance=3),
        lambda d: d["steps"][0].pop("layers"),
        lambda d: d["steps"][0]["layers"][0].update(kept=[0.5]),
        lambda d: d["steps"][0]["layers"][0].update(rank=True),
        lambda d: d["steps"][0]["layers"][0].update(scales=["1"]),
        lambda d: d["steps"][0]["layers"][0].update(form="both"),
        lambda d: d["steps"][0]["layers"][0].pop("name"),
        lambda d: d["steps"][0]["layers"].append("a"),
        lambda d: d["steps"][1].update(dropped="a"),
        lambda d: d["steps"][1].update(parameters_saved=1.5),
    ],
)
def test_damaged_json_is_refused(change):
    plan = PruningPlan("net", (RankStep((LayerRank("a", 3, (0,)),)), BlockStep(("b",))))
    data = json.loads(plan.to_json())
    change(data)
    with pytest.raises(ValueError, match="Received"):
        PruningPlan.from_json(json.dumps(data))
    with pytest.raises(ValueError, match="must be JSON"):
        PruningPlan.from_json("{")


@pytest.fixture
def network():
    network = UnrolledPGD(CartesianMRI(), priors.edsr(filters=[8, 8, 8], trunk=8), iterations=2)
    randomize_weights(network.prior, seed=0)
    return network


@pytest.mark.once
def test_blocks_channels_and_ranks_in_one_plan(network):
    block = find_residual_blocks(network)[1].name
    plan = make_plan(network, ratio=0.5, blocks=[block], inputs=None)
    slim = rebuild(network, plan)
    rank = plan_ranks(slim, {"prior/block_0_conv_0": 3})
    whole = plan.then(rank)
    assert [type(step) for step in whole.steps] == [BlockStep, ChannelStep, RankStep]
    assert (whole.dropped, whole.ranks) == ((block,), {"prior/block_0_conv_0": 3})
    assert whole.widths == {g.name: g.width for g in find_groups(slim)}
    assert PruningPlan.from_json(whole.to_json()) == whole
    made = rebuild(network, whole)
    assert type(made) is UnrolledPGD
    assert whole.parameters_saved == count_parameters(network) - count_parameters(made)
    assert verify_plan(network, whole).largest_error < 1e-3
    text = whole.summary()
    assert block in text and "Ranks for" in text and "groups narrowed" in text


@pytest.mark.once
def test_a_plan_after_another_is_made_for_what_that_leaves(model):
    first = make_plan(model, widths={"one": 4})
    whole = make_plan(model, widths={"one": 2}, after=first)
    assert len(whole.steps) == 2 and whole.steps[0] == first.steps[0]
    assert whole.steps[1].parameters == model.count_params() - first.parameters_saved
    assert whole.widths["one"] == 2
    assert whole == first.then(make_plan(rebuild(model, first), widths={"one": 2}))
    assert count_parameters(rebuild(model, whole)) == (
        model.count_params() - whole.parameters_saved
    )
    assert verify_plan(model, whole).largest_error < 1e-3


def _swapped_channel(plan):
    (block, channels, ranks) = plan.steps
    groups = list(channels.groups)
    number = next(i for i, g in enumerate(groups) if len(g.kept) < g.width)
    entry = groups[number]
    other = next(c for c in range(entry.width) if c not in entry.kept)
    kept = tuple(sorted((*entry.kept[1:], other)))
    groups[number] = dataclasses.replace(entry, kept=kept)
    return block, dataclasses.replace(channels, groups=tuple(groups)), ranks


def _swapped_component(plan):
    (block, channels, ranks) = plan.steps
    return block, channels, RankStep((_swap(ranks.layers[0]),))


def _other_block(plan):
    (_, channels, ranks) = plan.steps
    return BlockStep(("prior/block_2",)), channels, ranks


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "step"),
    [(_other_block, "step 1"), (_swapped_channel, "step 2"), (_swapped_component, "step 3")],
)
def test_the_proof_of_a_whole_plan_sees_every_single_mistake(network, change, step):
    plan = make_plan(network, ratio=0.5, blocks=["prior/block_1"])
    plan = plan.then(plan_ranks(rebuild(network, plan), {"prior/block_0_conv_0": 3}))
    assert measure_difference(network, plan, plan).largest_error < 1e-4
    report = measure_difference(network, plan, PruningPlan(plan.model, change(plan)))
    wrong = {name.split(":")[0] for name, error in report.errors.items() if error > 1e-2}
    assert wrong == {step}
    with pytest.raises(VerificationError, match=step):
        report.check()
