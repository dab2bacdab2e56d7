"""Selection: allowed widths, kept channels, names, and the global ranking."""

import numpy as np
import pytest

from spade_keras.pruning import Group, Slot
from spade_keras.pruning.selection import (
    allowed_widths,
    kept_channels,
    match_groups,
    nearest_width,
    rank_globally,
    removal_order,
)


def _group(name="conv", width=8, layers=(), **settings):
    slots = tuple(
        Slot(layer, "kernel", 0, 3, np.arange(width)[:, None], role) for layer, role in layers
    )
    return Group(name, width, slots, **settings)


@pytest.mark.parametrize(
    ("settings", "round_to", "minimum", "expected"),
    [
        ({"width": 5}, 1, 1, (1, 2, 3, 4, 5)),
        ({"width": 10}, 4, 1, (4, 8, 10)),
        ({"width": 10}, 1, 8, (8, 9, 10)),
        ({"width": 12}, 4, 5, (8, 12)),
        ({"width": 12, "divisor": 3}, 2, 1, (6, 12)),
        ({"width": 12, "divisor": 3}, 1, 4, (6, 9, 12)),
        ({"width": 8, "blocks": np.repeat([0, 1], 4)}, 1, 1, (2, 4, 6, 8)),
        ({"width": 6}, 8, 1, (6,)),
        ({"width": 6}, 1, 9, (6,)),
    ],
)
def test_allowed_widths(settings, round_to, minimum, expected):
    assert allowed_widths(_group(**settings), round_to, minimum) == expected


@pytest.mark.parametrize(
    ("widths", "ratio", "expected"),
    [
        (range(1, 65), 0.4, 38),  # int(64 * 0.6), as the method says
        (range(1, 101), 0.9, 10),  # 100 * (1 - 0.9) is 9.999... in floating point
        (range(1, 11), 0.99, 1),
        ((8, 16, 24, 32), 0.4, 16),  # 19 is nearer to 16 than to 24
        ((8, 16, 24, 32), 0.375, 24),  # of two equally near widths the wider
        ((6,), 0.5, 6),
    ],
)
def test_nearest_width(widths, ratio, expected):
    assert nearest_width(tuple(widths), ratio) == expected


def test_kept_channels_are_the_strongest_in_ascending_order():
    scores = np.array([3.0, 1, 5, 2, 4, 0, 7, 6])
    assert kept_channels(_group(), scores, 3) == (2, 6, 7)
    assert kept_channels(_group(), scores, 8) == tuple(range(8))


def test_of_equal_scores_the_earlier_channel_stays():
    assert kept_channels(_group(width=4), np.zeros(4), 2) == (0, 1)


def test_every_block_keeps_equally_many():
    blocks = np.array([0, 1, 0, 1, 0, 1])
    scores = np.array([9.0, 1, 8, 2, 7, 3])
    group = _group(width=6, blocks=blocks)
    assert kept_channels(group, scores, 4) == (0, 2, 3, 5)
    assert removal_order(group, scores) == [4, 1, 2, 3, 0, 5]


def test_names_match_groups_and_their_own_layers_but_not_consumers():
    groups = [
        _group("a", layers=[("a", "producer"), ("norm", "parameter"), ("b", "consumer")]),
        _group("b", layers=[("b", "producer")]),
    ]
    assert match_groups({"norm": 0.1}, groups, "ratio") == {"a": ("norm", 0.1)}
    assert match_groups({"b": 0.2}, groups, "ratio") == {"b": ("b", 0.2)}


def test_an_exact_name_beats_wildcards_and_a_later_wildcard_an_earlier():
    groups = [_group(name) for name in ("conv1", "conv2", "head")]
    wanted = {"conv1": 0.1, "*": 0.2, "conv*": 0.3}
    matched = match_groups(wanted, groups, "ratio")
    assert {name: value for name, (_, value) in matched.items()} == {
        "conv1": 0.1,
        "conv2": 0.3,
        "head": 0.2,
    }


def test_unknown_and_contradicting_names_are_errors():
    groups = [_group("conv_one", layers=[("conv_one", "producer"), ("conv_two", "producer")])]
    with pytest.raises(ValueError, match=r"'conv_on', which matches none. Did you mean .*conv_one"):
        match_groups({"conv_on": 0.5}, groups, "ratio")
    with pytest.raises(ValueError, match=r"'x\*', which matches none"):
        match_groups(["x*"], groups, "protect")
    with pytest.raises(ValueError, match=r"as group 'conv_one', with 0\.1 and 0\.2"):
        match_groups({"conv_one": 0.1, "conv_two": 0.2}, groups, "ratio")
    same = match_groups({"conv_one": 0.1, "conv_two": 0.1}, groups, "ratio")
    assert same["conv_one"][1] == 0.1


def _rank(scores, limit, round_to=1, minimum=1, price=None, **settings):
    groups = [_group(name, len(values), **settings) for name, values in scores.items()]
    arrays = {name: np.array(values, float) for name, values in scores.items()}
    allowed = {group.name: allowed_widths(group, round_to, minimum) for group in groups}
    price = price or dict.fromkeys(scores, 1)

    def remaining(widths):
        return sum(width * price[name] for name, width in widths.items())

    return rank_globally(groups, arrays, allowed, remaining, limit)


def test_global_ranking_takes_the_weakest_channels_wherever_they_are():
    scores = {"a": [1, 9, 2, 8], "b": [3, 7, 10, 11]}
    assert _rank(scores, 8) == {"a": 4, "b": 4}
    assert _rank(scores, 6) == {"a": 2, "b": 4}
    assert _rank(scores, 5) == {"a": 2, "b": 3}
    assert _rank(scores, 2) == {"a": 1, "b": 1}


def test_global_ranking_stops_as_soon_as_the_target_is_met():
    scores = {"a": [1, 9, 2, 8], "b": [3, 7, 10, 11]}
    # 4 * 10 + 4 = 44; the two weakest channels of a are worth 20, the next of b only 1.
    assert _rank(scores, 24, price={"a": 10, "b": 1}) == {"a": 2, "b": 4}
    assert _rank(scores, 23.5, price={"a": 10, "b": 1}) == {"a": 2, "b": 3}


def test_global_ranking_respects_rounding_and_minimum():
    scores = {"a": [1, 1, 1, 1], "b": [2, 2, 2, 2]}
    assert _rank(scores, 7, round_to=2) == {"a": 2, "b": 4}
    assert _rank(scores, 5, minimum=2) == {"a": 2, "b": 3}
    with pytest.raises(ValueError, match=r"at least 4.*Received: a target of 3"):
        _rank(scores, 3, minimum=2)


def test_a_step_costs_the_mean_of_the_channels_it_takes():
    # From 8 to 4, b gives up four channels of 1; from 5 to 4, a gives up one of 3.
    scores = {"a": [3, 9, 9, 9, 9], "b": [1, 1, 1, 1, 9, 9, 9, 9]}
    assert _rank(scores, 12, round_to=4) == {"a": 5, "b": 4}
    assert _rank(scores, 8, round_to=4) == {"a": 4, "b": 4}


def test_equal_scores_go_one_step_at_a_time_however_their_mean_rounds():
    assert np.mean([0.1] * 3) > np.mean([0.1] * 4)
    assert _rank({"a": [0.1] * 11}, 8, round_to=4) == {"a": 8}
    assert _rank({"a": [0.1] * 11}, 4, round_to=4) == {"a": 4}
