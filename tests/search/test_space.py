"""Budgets, widths allowed and seeds."""

import numpy as np
import pytest

from spade_keras.pruning import Group
from spade_keras.search import LatencyBudget, WidthSpace
from spade_keras.search.seeds import uniform_seeds


def group(name, width, **kwargs):
    return Group(name=name, width=width, slots=(), **kwargs)


def space():
    return WidthSpace.from_groups(
        [group("a", 16), group("image", 2, fixed="a model output"), group("b", 24)],
        multiple=8,
        minimum=8,
    )


def test_budget_aims_below_itself_by_the_margin():
    assert LatencyBudget(0.5).target == 0.5
    assert LatencyBudget(0.5, safety_margin=0.04).target == pytest.approx(0.48)


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 50, float("nan")])
def test_wrong_budget(wrong):
    with pytest.raises(ValueError, match="fraction="):
        LatencyBudget(wrong)
    with pytest.raises(ValueError, match="safety_margin=1"):
        LatencyBudget(0.5, safety_margin=1)


def test_edges_are_multiples_and_the_full_width():
    assert space().as_dict() == {"a": [8, 16], "b": [8, 16, 24]}
    assert space().full == {"a": 16, "b": 24}
    odd = WidthSpace.from_groups([group("a", 13)], multiple=4, minimum=6)
    assert odd.as_dict() == {"a": [8, 12, 13]}


def test_edges_respect_what_the_group_demands():
    grouped = WidthSpace.from_groups([group("a", 24, divisor=6)], multiple=4, minimum=4)
    assert grouped.as_dict() == {"a": [12, 24]}


def test_snap_takes_the_nearest_width():
    assert space().snap({"a": 11, "b": 21}) == {"a": 0, "b": 2}
    assert space().uniform(0.5) == {"a": 0, "b": 0}
    assert space().uniform(0.0) == {"a": 1, "b": 2}


def test_nothing_to_search():
    with pytest.raises(ValueError, match="No channel group may change"):
        WidthSpace.from_groups([group("a", 8, fixed="reason")])
    with pytest.raises(ValueError, match="minimum=32"):
        WidthSpace.from_groups([group("a", 16)], minimum=32)


def test_seeds_are_distinct_legal_and_end_with_the_narrowest():
    seeds = uniform_seeds(space())
    assert len({tuple(seed.items()) for seed in seeds}) == len(seeds) > 1
    for seed in seeds:
        assert all(
            0 <= seed[v.group] < len(v.edges) and np.issubdtype(type(seed[v.group]), np.integer)
            for v in space().variables
        )
    wide = WidthSpace.from_groups([group("a", 64)], multiple=4, minimum=4)
    assert uniform_seeds(wide)[-1] == {"a": 0}
    assert uniform_seeds(wide)[0] == {"a": wide.snap({"a": 32})["a"]}
