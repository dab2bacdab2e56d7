import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_keras.latency import Staircase, right_edges

pytestmark = pytest.mark.once


def test_plateaus_leave_their_widest_width():
    times = {8: 1.0, 16: 2.0, 24: 2.0, 32: 2.01, 40: 3.0, 48: 3.0}
    assert right_edges(list(times), list(times.values())) == (8, 32, 48)


def test_cliffs_leave_nothing():
    # 36 is slower than 40 and 63 slower than 64: nobody would choose them.
    times = {32: 2.0, 36: 4.0, 40: 3.0, 63: 9.0, 64: 5.0}
    assert right_edges(list(times), list(times.values())) == (32, 40, 64)


def test_a_smooth_line_keeps_steps_of_the_resolution():
    widths = list(range(1, 201))
    edges = right_edges(widths, [float(w) for w in widths], resolution=0.1)
    assert edges[-1] == 200
    assert edges[-4:-1] == (145, 162, 180)  # each at most 0.9 times the one before
    assert edges[0] == 1
    # Steps are measured from the last edge kept, so that small ones add up instead of vanishing.
    assert len(right_edges(widths, [100 + w / 10 for w in widths], resolution=0.05)) == 4


def test_a_flat_line_is_its_full_width():
    assert right_edges([8, 16, 24], [1.0, 1.0, 1.0], resolution=0.0) == (24,)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.integers(1, 300), st.floats(0.01, 100.0), min_size=1, max_size=30),
    st.floats(0.0, 0.5),
)
def test_edges_are_the_pareto_front_up_to_the_resolution(times, resolution):
    edges = right_edges(list(times), list(times.values()), resolution=resolution)
    assert edges == tuple(sorted(edges))
    assert edges[-1] == max(times)
    for narrow, wide in itertools.pairwise(edges):
        assert times[narrow] <= (1 - resolution) * times[wide]
        # Whatever lies between is no faster than the wider edge.
        between = [times[w] for w in times if narrow < w < wide]
        assert all(t > (1 - resolution) * times[wide] or t == times[wide] for t in between)
    # No width is worth more than the widest edge that is not slower.
    below = [times[w] for w in times if w < edges[0]]
    assert all(t > (1 - resolution) * times[edges[0]] or t == times[edges[0]] for t in below)


def test_free_widening_goes_up_to_the_next_step():
    stairs = Staircase.of([32, 36, 40, 48, 64], [2.0, 3.0, 3.05, 3.5, 5.0])
    assert stairs.edges == (32, 40, 48, 64)
    assert [stairs.free_widening(w) for w in stairs.widths] == [32, 40, 40, 48, 64]
    with pytest.raises(ValueError, match=r"one of the widths measured.*width=37"):
        stairs.free_widening(37)


def test_a_staircase_survives_json_and_sorts_its_widths():
    stairs = Staircase.of([48, 8, 16], [3.0, 1.0, 2.0], resolution=0.1)
    assert (stairs.widths, stairs.latency_ms) == ((8, 16, 48), (1.0, 2.0, 3.0))
    assert Staircase.from_dict(json.loads(json.dumps(stairs.as_dict()))) == stairs


@pytest.mark.parametrize(
    ("widths", "times", "options", "message"),
    [
        ([], [], {}, "at least one"),
        ([8, 8], [1.0, 2.0], {}, "distinct"),
        ([8], [1.0, 2.0], {}, "as long"),
        ([8, 16], [1.0, float("nan")], {}, "finite"),
        ([8, 16], [0.0, 1.0], {}, "above 0"),
        ([8], [1.0], {"resolution": 3}, r"`resolution` must be in \[0, 1\).*resolution=3"),
    ],
)
def test_what_makes_no_staircase_is_refused(widths, times, options, message):
    with pytest.raises(ValueError, match=message):
        right_edges(widths, times, **options)
