"""The knapsack against brute force, and its size."""

import itertools
import time

import numpy as np
import pytest

from spade_keras.search.knapsack import Knapsack
from spade_keras.search.space import Configuration, SearchSpace

pytestmark = pytest.mark.once


def chain(groups, edges, seed):
    """Layers in a row: each costs its input's width times its output's."""
    rng = np.random.default_rng(seed)
    full = rng.choice([32, 64, 128, 256], groups)
    space = SearchSpace.from_edges(
        {f"g{i}": [int(w) * (k + 1) // edges for k in range(edges)] for i, w in enumerate(full)}
    )
    prices = rng.uniform(0.2, 4, groups + 1)
    scores = [np.sort(rng.gamma(rng.uniform(0.5, 4), size=w))[::-1] for w in full]
    shares = [np.cumsum(score) / score.sum() for score in scores]
    values = {
        v.name: [float(np.log(share[edge - 1])) for edge in v.edges]
        for v, share in zip(space.variables, shares, strict=True)
    }

    def cost(configuration):
        widths = [3.0, *configuration.widths.values(), 3.0]
        return float(np.sum(prices * np.array(widths[:-1]) * np.array(widths[1:])))

    return space, values, cost


def value_of(space, values, configuration):
    return sum(values[v.name][v.edges.index(configuration.widths[v.name])] for v in space.variables)


def test_within_two_percent_of_the_best_of_all_widths():
    optimal = []
    for seed in range(6):
        space, values, cost = chain(5, 4, seed)
        every = [
            Configuration(dict(zip(space.full.widths, widths, strict=True)))
            for widths in itertools.product(*(v.edges for v in space.variables))
        ]
        costs = np.array([cost(c) for c in every])
        worth = np.array([value_of(space, values, c) for c in every])
        knapsack = Knapsack(space, values, cost)
        for share in (0.3, 0.5, 0.7):
            limit = share * cost(space.full)
            found = knapsack.solve(limit)
            assert cost(found) <= limit
            best = worth[costs <= limit].max()
            reached = value_of(space, values, found)
            assert reached >= best + 0.02 * best, "values are negative: 0 is the full network"
            optimal.append(reached > best - 1e-9)
    assert np.mean(optimal) >= 0.9


@pytest.mark.alone
def test_asks_for_edges_and_pairs_once_and_is_quick():
    space, values, cost = chain(50, 20, 0)
    asked = []

    def counted(configuration):
        asked.append(configuration.key())
        return cost(configuration)

    started = time.perf_counter()
    found = Knapsack(space, values, counted).solve(0.5 * cost(space.full))
    seconds = time.perf_counter() - started
    assert 0.49 * cost(space.full) < cost(found) <= 0.5 * cost(space.full)
    assert len(asked) <= 1 + 50 * 19 + 50 * 49 / 2 + 8
    assert seconds < 5  # 0.7 s on an idle core; wide, since tests share theirs


def test_answers_are_checked_with_the_cost_itself():
    """A cost with a product of three widths is none of pairs: the answer fits all the same."""
    space = SearchSpace.from_edges({name: range(2, 33, 2) for name in "abc"})
    values = {v.name: [float(np.log(e / 32)) for e in v.edges] for v in space.variables}

    def cost(configuration):
        return float(np.prod(list(configuration.widths.values())))

    knapsack = Knapsack(space, values, cost)
    for share in (0.1, 0.3, 0.6):
        found = cost(knapsack.solve(share * cost(space.full))) / cost(space.full)
        assert 0.6 * share < found <= share
    assert knapsack.solve(1.0) == space.narrowest
    assert knapsack.solve(cost(space.full)) == space.full


def test_a_bump_that_pairs_do_not_show_is_avoided():
    """Slow where both widths are in the middle, which neither the edges alone nor pairs tell."""
    space = SearchSpace.from_edges({name: range(2, 33, 2) for name in "ab"})
    values = {v.name: [float(np.log(e / 32)) for e in v.edges] for v in space.variables}

    def cost(configuration):
        a, b = configuration.widths.values()
        return a * b + 300 * np.exp(-((a - 16) ** 2 + (b - 16) ** 2) / 200)

    knapsack = Knapsack(space, values, cost)
    for limit in (240, 260, 300):
        assert 100 < cost(knapsack.solve(limit)) <= limit


def test_free_widenings_are_taken():
    space = SearchSpace.from_edges({"a": [8, 16, 24, 32], "b": [8, 16]})
    values = {"a": [-3.0, -2.0, -1.0, 0.0], "b": [-1.0, 0.0]}
    stairs = {8: 1.0, 16: 2.0, 24: 2.0, 32: 4.0}

    def cost(configuration):
        return stairs[configuration.widths["a"]] + configuration.widths["b"] / 16

    assert Knapsack(space, values, cost).solve(3.0).widths == {"a": 24, "b": 16}


def test_wrong_values():
    space = SearchSpace.from_edges({"a": [8, 16]})
    for wrong in ({}, {"a": [1.0]}, {"a": [1.0, float("nan")]}):
        with pytest.raises(ValueError, match=r"values\['a'\]="):
            Knapsack(space, wrong, lambda c: 1.0)
