"""Widths, iterations, blocks and dtype of one configuration, in one network."""

import keras
import numpy as np
import pytest

from spade_keras import latency, pruning, search
from spade_keras.networks import UnrolledPGD, VarNet, priors
from spade_keras.operators import CartesianMRI
from spade_keras.search.candidate import CandidateBuilder
from tests.parameter_clock import ParameterClock


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    prior = priors.edsr(filters=[8, 8], channels=2)
    network = UnrolledPGD(CartesianMRI(), prior, iterations=3)
    rng = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(rng.normal(scale=0.1, size=weight.shape))
    return network


@pytest.fixture(scope="module")
def blocks(network):
    return tuple(block.name for block in pruning.find_residual_blocks(network))


def timed(ratio):
    def taking(milliseconds):
        return latency.summarize(
            [milliseconds] * 3,
            first_ms=1.0,
            calls_per_window=1,
            stable=True,
            peak_memory_bytes=None,
            fingerprint={},
        )

    return latency.Comparison(
        taking(10.0), taking(10 * ratio), latency.Ratio(ratio, ratio, ratio, 0.95, 3)
    )


def without(network, blocks):
    return pruning.rebuild(network, pruning.drop_blocks(network, blocks))


def image(network, seed=0):
    return np.random.default_rng(seed).normal(size=(1, 6, 7, 2)).astype("float32")


def test_all_choices_at_once(network, blocks):
    assert len(blocks) == 2
    inner = [g.name for g in pruning.find_groups(network) if not g.fixed]
    widths = dict.fromkeys(inner, 4)
    configuration = search.Configuration(widths, 2, blocks[:1], "bfloat16")
    before = [keras.ops.convert_to_numpy(w) for w in network.weights]
    slim = search.build(network, configuration)
    assert slim.iterations == 2
    assert len(pruning.find_residual_blocks(slim)) == 1
    assert {g.width for g in pruning.find_groups(slim) if not g.fixed} == {4}
    computing = {layer.compute_dtype for layer in slim.prior.layers if layer.weights}
    assert "bfloat16" in computing
    assert {keras.backend.standardize_dtype(w.dtype) for w in slim.weights} == {"float32"}
    for weight, value in zip(network.weights, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), value)


def test_the_plan_is_for_the_network_of_that_depth(network, blocks):
    widths = {g.name: g.width for g in pruning.find_groups(network) if not g.fixed}
    configuration = search.Configuration(widths, 2, blocks[:1])
    plan = search.plan_for(network, configuration)
    assert plan.dropped == blocks[:1]
    slim = search.realize(network, configuration, plan)
    assert (slim.iterations, network.iterations) == (2, 3)
    base = pruning.rebuild(network, pruning.drop_blocks(network, blocks[:1]))
    x = image(network)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(slim.prior(x)),
        keras.ops.convert_to_numpy(base.prior(x)),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_plan_realizes_the_network_that_was_built(network, blocks):
    widths = {g.name: 4 for g in pruning.find_groups(network) if not g.fixed}
    name = "prior/block_1_conv_0"
    configuration = search.Configuration(widths, 2, blocks[:1], "bfloat16", {name: 2})
    plan = search.plan_for(network, configuration)
    assert (plan.dropped, plan.ranks) == (blocks[:1], {name: 2})
    again = pruning.PruningPlan.from_json(plan.to_json())
    made = search.realize(network, configuration, again)
    for one, other in zip(made.weights, search.build(network, configuration).weights, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))


def test_widths_of_a_block_that_is_left_out_make_no_difference(network, blocks):
    builder = CandidateBuilder(network)
    groups = {g.name: g.width for g in pruning.find_groups(network) if not g.fixed}
    left = {g.name for g in pruning.find_groups(without(network, blocks[:1]))}
    gone = [name for name in groups if name not in left]
    assert gone
    first = search.Configuration(groups, None, blocks[:1])
    other = search.Configuration({**groups, gone[0]: 4}, None, blocks[:1])
    assert first.key() != other.key()
    assert builder.canonical(first) == builder.canonical(other)
    assert builder.canonical(search.Configuration(groups)) == search.Configuration(groups)
    assert pruning.count_parameters(builder(first)) == pruning.count_parameters(builder(other))


def test_a_joint_search_finds_depth_before_width(network, blocks):
    """Where only iterations cost time, only iterations are given up."""
    widths = {g.name: (4, g.width) for g in pruning.find_groups(network) if not g.fixed}
    space = search.SearchSpace.from_edges(widths, iterations=(1, 2, 3), blocks=blocks)

    class Kept(search.Objective):
        name = "kept"

        def __call__(self, candidate, report=None):
            return float(pruning.count_parameters(candidate) + candidate.iterations)

    result = search.run(
        network,
        budget=search.LatencyBudget(0.7),
        data=None,
        objective=Kept(),
        timer=lambda candidate: timed(candidate.iterations / 3),
        space=space,
        trials=25,
        seeds=("uniform",),
    )
    best = result.best.configuration
    assert best.iterations == 2
    assert best.dropped == ()
    assert best.widths == {group: edges[-1] for group, edges in widths.items()}
    assert "fewer iterations" in {t.origin for t in result.trials}


def test_widths_of_priors_that_went_with_their_iteration_are_passed_over():
    network = VarNet(CartesianMRI(), priors.unet(filters=[4, 4]), iterations=2)
    widths = {group.name: 2 for group in pruning.find_groups(network) if not group.fixed}
    shorter = search.Configuration(widths, iterations=1)
    assert set(search.build(network, shorter).priors) == {"cascade_0"}
    canonical = CandidateBuilder(network).canonical(shorter)
    assert set(canonical.widths) == {name for name in widths if name.startswith("cascade_0/")}
    assert CandidateBuilder(network).canonical(search.Configuration(widths)).widths == widths


@pytest.fixture
def classifier():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(16, 3, activation="relu", name="first"),
            layers.Conv2D(24, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ]
    )


def test_ranks_to_choose_from(classifier):
    # Pairs are cheaper below 27 x 16 / 43 = 10.0 and 144 x 24 / 168 = 20.6 components.
    assert search.rank_choices(classifier, multiple=4) == {
        "first": (4, 8, 16),
        "second": (4, 8, 12, 16, 20, 24),
        # The head's three components cost more than it does.
    }
    assert len(search.rank_choices(classifier, multiple=1)["second"]) == 9
    assert search.rank_choices(classifier, multiple=64) == {}


def test_ranks_are_those_of_the_singular_values(classifier):
    choice = search.Configuration({"first": 16, "second": 24}, ranks={"second": 8})
    slim = search.build(classifier, choice)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    kernel = keras.ops.convert_to_numpy(classifier.get_layer("second").kernel)
    u, sigma, v = np.linalg.svd(kernel.reshape(-1, 24), full_matrices=False)
    approximate = pruning.copy_model(classifier)
    low = (u[:, :8] * sigma[:8]) @ v[:8]
    approximate.get_layer("second").kernel.assign(low.reshape(kernel.shape))
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(slim(x)),
        keras.ops.convert_to_numpy(approximate(x)),
        atol=1e-5,
    )
    saved = 144 * 24 - 8 * (144 + 24)
    assert classifier.count_params() - slim.count_params() == saved
    assert len(slim.layers) == len(classifier.layers) + 1


def test_a_layer_too_narrow_for_its_rank_stays_whole(classifier):
    widths = {"first": 4, "second": 8}
    narrow = search.build(classifier, search.Configuration(widths))
    # 36 x 8 / 44 = 6.5: a pair of 7 components would cost more, one of 4 less.
    whole = search.build(classifier, search.Configuration(widths, ranks={"second": 7}))
    pair = search.build(classifier, search.Configuration(widths, ranks={"second": 4}))
    for one, other in zip(whole.weights, narrow.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))
    assert narrow.count_params() - pair.count_params() == 36 * 8 - 4 * (36 + 8)


def test_ranks_of_a_network_with_priors(network):
    choices = search.rank_choices(network, multiple=2)
    assert choices
    assert all(name.startswith("prior/") for name in choices)
    configuration = search.Configuration({}, 2, ranks={name: 2 for name in choices})
    slim = search.build(network, configuration)
    assert slim.iterations == 2
    assert pruning.count_parameters(slim) < pruning.count_parameters(network)
    found = [group.name for group in pruning.find_rank_groups(slim)]
    assert len(found) == len(pruning.find_rank_groups(network)) + len(choices)
    assert np.isfinite(keras.ops.convert_to_numpy(slim.prior(image(network)))).all()


def test_a_search_lowers_ranks_where_they_cost_least(classifier):
    """A kernel that has four large components loses the others before any width is lost."""
    second = classifier.get_layer("second").kernel
    rng = np.random.default_rng(0)
    low = rng.normal(size=(144, 4)) @ rng.normal(size=(4, 24)) / 40
    second.assign((low + 1e-4 * rng.normal(size=low.shape)).reshape(second.shape))
    x = rng.normal(size=(8, 6, 6, 3)).astype("float32")
    ranks = {"second": search.rank_choices(classifier, multiple=4)["second"]}
    space = search.SearchSpace.from_edges({"first": (8, 16), "second": (12, 24)}, ranks=ranks)
    result = search.run(
        classifier,
        budget=search.LatencyBudget(0.4),
        data=x,
        objective=search.TeacherAgreement(x, classifier),
        timer=ParameterClock().timer(classifier, x),
        space=space,
        trials=12,
    )
    assert "lower ranks" in {trial.origin for trial in result.trials}
    best = result.best.configuration
    assert best.ranks == {"second": 4}
    assert best.widths == space.full.widths
    assert search.SearchResult.from_dict(result.as_dict()).best.configuration == best
    assert "second of rank 4" in str(best)
