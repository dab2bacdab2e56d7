"""What a budget says, and when a measured comparison meets it."""

import numpy as np
import pytest

from spade_keras import latency
from spade_keras.search import LatencyBudget

pytestmark = pytest.mark.once


def summary(samples):
    return latency.summarize(
        samples,
        first_ms=1.0,
        calls_per_window=1,
        stable=True,
        peak_memory_bytes=None,
        fingerprint={},
    )


def comparison(full, slim):
    return latency.Comparison(summary(full), summary(slim), latency.ratio_interval(full, slim))


def test_it_aims_below_itself_by_the_margin():
    assert LatencyBudget(0.5).target == 0.5
    assert LatencyBudget(0.5, safety_margin=0.04).target == pytest.approx(0.48)
    assert LatencyBudget(throughput=96, safety_margin=0.04).target == pytest.approx(100)


@pytest.mark.parametrize(
    ("text", "kind", "limit", "shown"),
    [
        (0.5, "fraction", 0.5, "0.5 of the full network's latency"),
        (" 0.5 ", "fraction", 0.5, "0.5 of the full network's latency"),
        (".25", "fraction", 0.25, "0.25 of the full network's latency"),
        ("8ms", "median_ms", 8, "median of at most 8 ms"),
        ("1e-1 ms", "median_ms", 0.1, "median of at most 0.1 ms"),
        ("P99 <= 8.5 ms", "p99_ms", 8.5, "p99 of at most 8.5 ms"),
        ("throughput>=200/s", "throughput", 200, "at least 200 samples per second"),
    ],
)
def test_it_is_read_as_people_write_it(text, kind, limit, shown):
    budget = LatencyBudget.parse(text, safety_margin=0.1)
    assert (budget.kind, budget.limit, budget.safety_margin) == (kind, limit, 0.1)
    assert str(budget) == shown
    assert budget.single_calls == (kind == "p99_ms")


@pytest.mark.parametrize("text", ["fast", "8", "-1", "0.5ms5", "p98<=8ms", "p99>=8ms", "200/s", ""])
def test_what_is_no_budget(text):
    with pytest.raises(ValueError, match="Received:"):
        LatencyBudget.parse(text)


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 50, float("nan")])
def test_wrong_values(wrong):
    with pytest.raises(ValueError, match="fraction="):
        LatencyBudget(wrong)
    with pytest.raises(ValueError, match="safety_margin=1"):
        LatencyBudget(0.5, safety_margin=1)
    with pytest.raises(ValueError, match="batch_size=0"):
        LatencyBudget(0.5, batch_size=0)
    with pytest.raises(ValueError, match="Exactly one"):
        LatencyBudget(0.5, median_ms=3.0)
    with pytest.raises(ValueError, match="Exactly one"):
        LatencyBudget()


def test_a_fraction_is_met_by_the_upper_end_of_the_ratio():
    rng = np.random.default_rng(0)
    full, slim = 10 + rng.normal(size=30), 5 + rng.normal(size=30)
    measured = comparison(full, slim)
    excess = LatencyBudget(0.5).excess(measured)
    assert excess == pytest.approx(measured.ratio.high / 0.5 - 1)
    assert measured.ratio.value < measured.ratio.high
    with_margin = LatencyBudget(0.5, safety_margin=0.2)
    assert with_margin.excess(measured) == pytest.approx(measured.ratio.high / 0.4 - 1)
    assert with_margin.excess(measured, margin=False) == pytest.approx(excess)


def test_milliseconds_and_rates_do_not_depend_on_the_full_network():
    slim = [4.0] * 20
    for full in ([8.0] * 20, [800.0] * 20):
        measured = comparison(full, slim)
        assert LatencyBudget(median_ms=5).excess(measured) == pytest.approx(-0.2)
        assert LatencyBudget(median_ms=2).excess(measured) == pytest.approx(1)
        rate = LatencyBudget(throughput=500, batch_size=4)  # 4 samples in 4 ms: 1000 a second
        assert rate.excess(measured) == pytest.approx(-0.5)


def test_a_tail_is_judged_by_its_slow_calls():
    slim = [4.0] * 190 + [40.0] * 10
    measured = comparison([50.0] * 200, slim)
    assert LatencyBudget(median_ms=5).excess(measured) < 0
    assert LatencyBudget(p99_ms=5).excess(measured) == pytest.approx(7)


def test_it_says_for_which_batch_and_dtype_it_is():
    budget = LatencyBudget.parse("8ms", batch_size=4, dtype="bfloat16")
    assert str(budget) == "median of at most 8 ms at batch size 4 in bfloat16"


def test_meeting_again_asks_for_more_than_meeting_once():
    close = latency.pool([comparison([10.0] * 9, [ms] * 9) for ms in (4.8, 4.9, 4.85)])
    # log-spread 0.0103: 4.303 * 0.0103 / sqrt(3) above the mean, and sqrt(2) times that
    assert close.ratio.high == pytest.approx(0.4976, abs=1e-4)
    for budget in (LatencyBudget(0.5), LatencyBudget(median_ms=5)):
        assert budget.is_met(close) and not budget.is_met_again(close)
    assert LatencyBudget(0.504).is_met_again(close)
    assert LatencyBudget(0.47).is_missed(close) and not LatencyBudget(0.48).is_missed(close)


def test_room_is_left_below_what_the_search_aims_at():
    measured = comparison([10.0] * 9, [4.4] * 9)
    assert LatencyBudget(0.5).leaves_room(measured)
    assert not LatencyBudget(0.5, safety_margin=0.1).leaves_room(measured)
