"""Families of seeds: monotone curves, brought to the budget by few measurements."""

import keras
import numpy as np
import pytest

from spade_keras import pruning
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.search.knapsack import kept_values, knapsack_curve, predicted_cost
from spade_keras.search.objective import KeptShare, kept_shares
from spade_keras.search.seeds import (
    SEEDS,
    iterations_curve,
    propose,
    ranks_curve,
    sensitivities,
    sensitivity_curve,
    to_budget,
    uniform_curve,
)
from spade_keras.search.space import SearchSpace

pytestmark = pytest.mark.once


def space(**joint):
    edges = {"a": range(4, 65, 4), "b": range(4, 65, 4), "c": range(8, 129, 8)}
    return SearchSpace.from_edges(edges, **joint)


def products(configuration):
    a, b, c = configuration.widths.values()
    return 3.0 * a + a * b + 2 * b * c + 3 * c


def milliseconds(configuration):
    """What is predicted plus an overhead that the prediction does not know."""
    share = (configuration.iterations or 6) / 6
    return 2 + share * products(configuration) / 1000


def values_of(space, weights):
    widths = space.full.widths.items()
    shares = {
        group: KeptShare(weight, np.linspace(0, 1, width + 1) ** 0.7)
        for (group, width), weight in zip(widths, weights, strict=True)
    }
    return kept_values(space, shares)


CURVES = {
    "uniform": uniform_curve,
    "sensitivity": lambda s: sensitivity_curve(s, {"a": 1.0, "b": 0.1, "c": 0.3}),
    "knapsack": lambda s: knapsack_curve(s, values_of(s, (2, 2, 6)), products),
}


@pytest.mark.parametrize("name", CURVES)
def test_curves_fall_from_full_to_narrowest(name):
    curve = CURVES[name](space())
    assert curve(0.0) == space().full
    assert curve(1.0) == space().narrowest
    costs = [products(curve(amount)) for amount in np.linspace(0, 1, 41)]
    assert np.all(np.diff(costs) <= (0.02 * costs[0] if name == "knapsack" else 0))
    assert len(set(costs)) > 12
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="amount="):
            curve(wrong)


def test_the_knapsack_follows_its_amount():
    curve = CURVES["knapsack"](space())
    full, least = products(space().full), products(space().narrowest)
    for amount in (0.1, 0.35, 0.6, 0.9):
        limit = full - amount * (full - least)
        assert limit - 0.03 * full < products(curve(amount)) <= limit


def test_uniform_is_uniform():
    widths = uniform_curve(space())(0.5 / (1 - 4 / 64)).widths
    assert widths == {"a": 32, "b": 32, "c": 64}


def test_the_sensitive_are_spared_in_proportion():
    wide = SearchSpace.from_edges({name: range(1, 1001) for name in "abc"})
    widths = sensitivity_curve(wide, {"a": 0.04, "b": 0.01, "c": float("inf")})(0.2).widths
    removed = {group: 1000 - width for group, width in widths.items()}
    # Four times the loss at one half allows half the ratio for an equal loss.
    assert removed["b"] == pytest.approx(2 * removed["a"], abs=2)
    assert removed["c"] < 0.02 * removed["a"] + 25
    assert sum(removed.values()) == pytest.approx(0.2 * 3 * 999, abs=3)
    with pytest.raises(ValueError, match=r"missing=\['c'\]"):
        sensitivity_curve(wide, {"a": 1, "b": 1})


def test_groups_that_gain_by_pruning_count_as_hardly_sensitive():
    wide = SearchSpace.from_edges({name: range(1, 101) for name in "ab"})
    widths = sensitivity_curve(wide, {"a": 1.0, "b": -3.0})(0.3).widths
    assert widths["b"] < 45 < 95 < widths["a"]
    level = sensitivity_curve(wide, {"a": 0.0, "b": 0.0})(0.5).widths
    assert level["a"] == level["b"]


def test_knapsack_keeps_what_many_kernels_read():
    even = knapsack_curve(space(), values_of(space(), (1, 1, 1)), products)
    kept = knapsack_curve(space(), values_of(space(), (1, 1, 20)), products)
    assert kept(0.5).widths["c"] > even(0.5).widths["c"]


def test_ranks_fall_together_at_full_widths():
    ranked = space(ranks={"x": (4, 8, 12, 32), "y": (2, 16)})
    curve = ranks_curve(ranked)
    assert curve(0.0) == ranked.full
    assert curve(1.0).ranks == {"x": 4, "y": 2}
    assert curve(1.0).widths == ranked.full.widths
    assert curve(0.75).ranks == {"x": 12, "y": 2}
    with pytest.raises(ValueError, match="amount="):
        curve(1.5)


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("share", [0.9, 0.5, 0.35])
@pytest.mark.parametrize("predicted", [None, products])
def test_brought_to_the_budget_by_few_measurements(name, share, predicted):
    full = milliseconds(space().full)
    measured = []

    def excess(configuration):
        measured.append(configuration)
        return milliseconds(configuration) / (share * full) - 1

    curve = CURVES[name](space())
    found = to_budget(curve, excess, predicted=predicted)
    assert len(measured) <= 6
    assert len({c.key() for c in measured}) == len(measured)
    ladder = {milliseconds(curve(rung / 32)) for rung in range(33)}
    met = sorted(time for time in ladder if time <= share * full)
    # Not far below what the family can reach.
    assert met[-1] <= milliseconds(found) or milliseconds(found) > 0.95 * share * full
    assert milliseconds(found) <= share * full


def test_a_prediction_saves_measurements():
    counts = {}
    for predicted in (None, products):
        measured = []
        for share in (0.9, 0.7, 0.5, 0.35):

            def excess(c, share=share, measured=measured):
                measured.append(c)
                return milliseconds(c) / (share * milliseconds(space().full)) - 1

            to_budget(CURVES["sensitivity"](space()), excess, predicted=predicted)
        counts[predicted] = len(measured)
    assert counts[products] < counts[None]


def test_a_true_prediction_needs_one_measurement():
    wide = SearchSpace.from_edges({"a": range(1, 1001)})
    measured = []

    def excess(configuration):
        measured.append(configuration.widths["a"])
        return measured[-1] / 400 - 1

    found = to_budget(uniform_curve(wide), excess, predicted=lambda c: 7.0 * c.widths["a"])
    assert measured == [1000, found.widths["a"]]
    assert 392 <= found.widths["a"] <= 396


def test_a_budget_that_the_full_network_meets():
    assert to_budget(uniform_curve(space()), lambda c: -0.3) == space().full


def test_a_budget_out_of_reach():
    measured = []

    def excess(configuration):
        measured.append(configuration)
        return milliseconds(configuration) / 1.0 - 1

    assert to_budget(uniform_curve(space()), excess, predicted=products) is None
    assert measured[-1] == space().narrowest
    assert len(measured) <= 6


def test_the_narrowest_is_asked_before_giving_up():
    """With so fine widths, that the steps before cannot arrive there."""
    wide = SearchSpace.from_edges({"a": range(1, 1001)})
    found = to_budget(uniform_curve(wide), lambda c: -0.01 if c.widths["a"] == 1 else 0.5)
    assert found == wide.narrowest


def test_only_the_narrowest_meets_the_budget():
    limit = milliseconds(space().narrowest) * 1.001

    def excess(configuration):
        return milliseconds(configuration) / limit - 1

    for predicted in (None, products):
        assert to_budget(uniform_curve(space()), excess, predicted=predicted) == space().narrowest


def test_a_noisy_clock_is_believed_but_not_followed_forever():
    rng = np.random.default_rng(0)
    for _ in range(50):
        measured = {}

        def excess(c, measured=measured):
            noise = 1 + 0.03 * rng.normal()
            measured[c.key()] = milliseconds(c) * noise / (0.5 * milliseconds(space().full)) - 1
            return measured[c.key()]

        found = to_budget(uniform_curve(space()), excess, predicted=products)
        assert len(measured) <= 6
        assert found is None or measured[found.key()] <= 0


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[16, 24, 16]), iterations=2)
    last = network.prior.get_layer("residual").kernel
    last.assign(np.random.default_rng(0).normal(scale=0.1, size=last.shape))
    return network


def network_space(network, **joint):
    return SearchSpace.from_groups(pruning.find_groups(network), multiple=2, minimum=2, **joint)


def time_of(network):
    """Time as a table would have it: products of widths, per iteration."""

    def predict_ms(configuration):
        a, b, c = configuration.widths.values()
        return (configuration.iterations or 2) * (2.0 * a + a * b + b * c + 2 * c)

    return predict_ms


class Table:
    def __init__(self, predict_ms):
        self.predict_ms = predict_ms


def test_every_family_is_proposed_at_the_budget(network):
    searched = network_space(network)
    clock = time_of(network)

    def excess(configuration):
        return clock(configuration) / (0.5 * clock(searched.full)) - 1

    def quality(configuration):
        return sum(configuration.widths.values())

    found = propose(
        list(SEEDS), network, searched, excess=excess, quality=quality, table=Table(clock)
    )
    origins = [origin for origin, _ in found]
    assert origins == ["uniform", "sensitivity", "knapsack (by layer times)", "narrowest"]
    for _, configuration in found[:-1]:
        assert -0.15 < excess(configuration) <= 0
    assert found[-1][1] == searched.narrowest
    assert len({configuration.key() for _, configuration in found}) == len(found)


def test_without_a_table_the_price_is_said_to_be_counted(network):
    searched = network_space(network)
    images = {
        "measurements": np.zeros((1, 2, 16, 16, 2)),
        "mask": np.ones((1, 1, 16)),
        "sensitivities": np.zeros((1, 2, 16, 16, 2)),
    }
    for inputs, unit in ((None, "parameters"), (images, "MACs")):
        ((origin, _), _) = propose(
            ["knapsack"],
            network,
            searched,
            excess=lambda c: -0.01 if c != searched.full else 1.0,
            inputs=inputs,
        )
        assert origin == f"knapsack (by {unit})"


def test_counted_costs_are_those_of_the_rebuilt_network(network):
    searched = network_space(network)
    name, cost = predicted_cost(network)
    assert name == "parameters"
    slim = pruning.rebuild(network, pruning.make_plan(network, widths=searched.uniform(0.5).widths))
    assert cost(searched.uniform(0.5)) == pruning.count_parameters(slim)
    assert cost(searched.full) == pruning.count_parameters(network)


def test_fewer_iterations_are_proposed_where_they_are_searched(network):
    searched = network_space(network, iterations=(1, 2), blocks=("prior/add",))
    clock = time_of(network)

    def excess(configuration):
        return clock(configuration) / (0.6 * clock(searched.full)) - 1

    found = dict(propose(["uniform"], network, searched, excess=excess, table=Table(clock)))
    assert list(found) == ["uniform", "fewer iterations", "narrowest"]
    assert found["fewer iterations"].iterations == 1
    assert found["fewer iterations"].widths == searched.full.widths
    assert (found["narrowest"].iterations, found["narrowest"].dropped) == (1, ("prior/add",))
    counts = [iterations_curve(searched)(amount).iterations for amount in (0.0, 0.4, 0.6, 1.0)]
    assert counts == [2, 2, 1, 1]


def test_wrong_names_and_missing_quality(network):
    searched = network_space(network)
    with pytest.raises(ValueError, match=r"Known ones: knapsack, sensitivity, uniform.*'greedy'"):
        propose(["greedy"], network, searched, excess=lambda c: 0.0)
    with pytest.raises(ValueError, match="quality=None"):
        propose(["sensitivity"], network, searched, excess=lambda c: 0.0)
    assert propose([], network, searched, excess=None) == [("narrowest", searched.narrowest)]


def test_a_registered_family_is_proposed_by_its_name(network):
    @SEEDS.register("first group")
    def first_group(proposer):
        first, *_ = proposer.space.variables

        def curve(amount):
            width = round(first.edges[-1] + amount * (first.edges[0] - first.edges[-1]))
            return proposer.space.snap({**proposer.space.full.widths, first.name: width})

        return curve

    searched = network_space(network)
    first, *others = searched.full.widths
    try:
        ((origin, found), _) = propose(
            ["first group"],
            network,
            searched,
            excess=lambda c: c.widths[first] / searched.full.widths[first] - 0.7,
        )
    finally:
        SEEDS.unregister("first group")
    assert origin == "first group"
    assert found.widths[first] < searched.full.widths[first]
    assert all(found.widths[group] == searched.full.widths[group] for group in others)


def test_sensitivities_prune_one_group_at_a_time():
    asked = []

    def quality(configuration):
        asked.append(dict(configuration.widths))
        return 10.0 - 0.1 * (64 - configuration.widths["a"]) + 0.05 * configuration.widths["b"]

    found = sensitivities(space(), quality)
    assert asked[0] == space().full.widths
    assert asked[1:] == [
        {"a": 32, "b": 64, "c": 128},
        {"a": 64, "b": 32, "c": 128},
        {"a": 64, "b": 64, "c": 64},
    ]
    assert found == pytest.approx({"a": 3.2, "b": 1.6, "c": 0.0})


def test_sensitivities_off_the_grid():
    """A loss at another ratio counts by the square; a NaN cannot be afforded."""
    coarse = SearchSpace.from_edges({"a": [16, 64], "b": [32, 64], "c": [64]})
    found = sensitivities(coarse, lambda c: -9.0 if c.widths["a"] == 16 else 0.0)
    assert found == {"a": pytest.approx(4.0), "b": 0.0, "c": 0.0}
    lost = sensitivities(coarse, lambda c: float("nan") if c.widths["b"] == 32 else 0.0)
    assert lost["b"] == float("inf")


def test_kept_shares_are_of_the_channels_that_a_plan_keeps(network):
    shares = kept_shares(network)
    groups = {group.name: group for group in pruning.find_groups(network) if not group.fixed}
    assert shares.keys() == groups.keys()
    for name, kept in shares.items():
        assert len(kept.shares) == groups[name].width + 1
        assert (kept.shares[0], kept.shares[-1]) == (0.0, pytest.approx(1.0))
        gains = np.diff(kept.shares)
        assert np.all(gains[:-1] >= gains[1:] - 1e-12), "the best channels come first"
        assert kept.weight == 2
    name = next(iter(groups))
    rows = np.abs(network.prior.layers[1].kernel.numpy()).sum(axis=(0, 1, 2))
    assert shares[name].shares[1] > 1 / len(rows)
