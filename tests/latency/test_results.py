import json

import numpy as np
import pytest

from spade_keras.latency import quantile_interval, ratio_interval, summarize

pytestmark = pytest.mark.once


def summary(samples, **changes):
    values = {
        "first_ms": 100.0,
        "calls_per_window": 1,
        "stable": True,
        "peak_memory_bytes": None,
        "fingerprint": {"backend": "fake"},
    }
    return summarize(samples, **{**values, **changes})


def test_quantiles_of_known_samples():
    latency = summary(np.random.default_rng(0).permutation(np.arange(101.0)))
    assert (latency.q1_ms, latency.median_ms, latency.q3_ms, latency.p99_ms) == (25, 50, 75, 99)
    assert latency.compile_ms == 50


def test_a_first_call_faster_than_the_median_compiled_nothing():
    assert summary([5.0, 6.0, 7.0], first_ms=4.0).compile_ms == 0


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="`samples_ms` must hold at least one"):
        summary([])


def test_results_survive_json():
    latency = summary([1.0, 2.0])
    assert json.loads(json.dumps(latency.as_dict())) == latency.as_dict()
    assert latency.as_dict()["samples"] == [1.0, 2.0]
    ratio = ratio_interval([1.0, 1.1, 1.2], [2.0, 2.1, 2.2])
    assert json.loads(json.dumps(ratio.as_dict())) == ratio.as_dict()


def test_ratio_is_that_of_the_medians_and_inside_its_interval():
    a = [10.0, 11.0, 12.0, 13.0, 30.0]
    b = [5.0, 5.5, 6.0, 6.4, 40.0]
    ratio = ratio_interval(a, b)
    assert ratio.value == 0.5
    assert ratio.low <= 0.5 <= ratio.high
    assert (ratio.pairs, ratio.confidence) == (5, 0.95)


def test_what_slows_both_of_a_pair_cancels():
    slow = np.random.default_rng(1).uniform(1, 3, 30)
    paired = ratio_interval(10 * slow, 5 * slow)
    assert paired.low == pytest.approx(0.5)
    assert paired.high == pytest.approx(0.5)
    unpaired = ratio_interval(10 * slow, 5 * slow[::-1])
    assert unpaired.high - unpaired.low > 0.1


def test_the_interval_repeats_and_widens_with_confidence():
    rng = np.random.default_rng(2)
    a, b = rng.uniform(9, 11, 20), rng.uniform(4, 6, 20)
    assert ratio_interval(a, b) == ratio_interval(a, b)
    narrow, wide = ratio_interval(a, b, confidence=0.5), ratio_interval(a, b, confidence=0.99)
    assert wide.low < narrow.low <= narrow.high < wide.high


def test_the_interval_covers_the_true_ratio():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(60):
        noise = 1 + 0.03 * rng.standard_exponential((2, 20))
        ratio = ratio_interval(40 * noise[0], 20 * noise[1])
        covered += ratio.low <= 0.5 <= ratio.high
    assert covered >= 52  # 57 expected; fewer than 52 has a probability below 2 %


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [1.0], "equally many times"),
        ([1.0], [1.0], "at least two each"),
        ([1.0, 0.0], [1.0, 1.0], "above 0"),
        ([1.0, float("nan")], [1.0, 1.0], "finite"),
    ],
)
def test_samples_that_make_no_ratio_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        ratio_interval(a, b)


def test_confidence_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"`confidence` must be in \(0, 1\).*confidence=95"):
        ratio_interval([1.0, 2.0], [1.0, 2.0], confidence=95)


def test_the_median_lies_inside_its_interval():
    samples = [10.0, 11.0, 12.0, 13.0, 30.0]
    estimate = quantile_interval(samples)
    assert estimate.value == 12.0
    assert 10.0 <= estimate.low < 12.0 < estimate.high <= 30.0
    assert (estimate.samples, estimate.confidence) == (5, 0.95)
    assert json.loads(json.dumps(estimate.as_dict())) == estimate.as_dict()
    assert quantile_interval(samples) == estimate


def test_the_interval_of_a_tail_covers_the_true_one():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(15):
        samples = 10 + rng.standard_exponential(500)
        estimate = quantile_interval(samples, 0.99)
        covered += estimate.low <= 10 - np.log(0.01) <= estimate.high
        assert estimate.high <= samples.max()
    assert covered >= 13


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([1.0], {}, "at least two times"),
        ([1.0, -1.0], {}, r"above 0.*samples_ms=\[1.0, -1.0\]"),
        ([1.0, 2.0], {"q": 99}, r"`q` must be in \(0, 1\).*q=99"),
        ([1.0, 2.0], {"confidence": 95}, "`confidence` must be"),
    ],
)
def test_samples_that_make_no_quantile_are_refused(samples, options, message):
    with pytest.raises(ValueError, match=message):
        quantile_interval(samples, **options)
