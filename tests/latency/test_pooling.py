import dataclasses

import numpy as np
import pytest
from scipy import stats

from spade_keras import latency
from spade_keras.latency import latency_quantile, pool

pytestmark = pytest.mark.once


def process(shift, *, windows=20, noise=0.002, seed=0):
    """Two models in one process that slows the second one by `shift`."""
    generator = np.random.default_rng(seed)

    def times(milliseconds):
        samples = milliseconds * (1 + noise * generator.standard_normal(windows))
        return latency.summarize(
            samples,
            first_ms=50.0,
            calls_per_window=1,
            stable=True,
            peak_memory_bytes=1000 + seed,
            fingerprint={"device": "clock"},
        )

    a, b = times(10.0), times(5.0 * shift)
    return latency.Comparison(a, b, latency.ratio_interval(a.samples, b.samples))


SHIFTS = (0.98, 1.0, 1.03)


@pytest.fixture
def pooled():
    return pool([process(shift, seed=n) for n, shift in enumerate(SHIFTS)])


def test_the_interval_is_that_of_the_differences_between_processes(pooled):
    ratios = [process(shift, seed=n).ratio.value for n, shift in enumerate(SHIFTS)]
    expected = stats.t.interval(0.95, 2, np.mean(np.log(ratios)), stats.sem(np.log(ratios)))
    assert pooled.ratio.value == pytest.approx(stats.gmean(ratios))
    assert (pooled.ratio.low, pooled.ratio.high) == pytest.approx(np.exp(expected))
    single = process(1.0).ratio
    assert pooled.ratio.high - pooled.ratio.low > 10 * (single.high - single.low)
    assert (pooled.ratio.processes, single.processes) == (3, 1)
    assert pooled.ratio.pairs == 60


def test_it_covers_the_average_process_as_often_as_it_says():
    generator = np.random.default_rng(1)
    covered = []
    for draw in range(200):
        shifts = np.exp(0.02 * generator.standard_normal(3))
        ratio = pool([process(s, windows=5, seed=3 * draw + n) for n, s in enumerate(shifts)]).ratio
        covered.append(ratio.low <= 0.5 <= ratio.high)
    # A single process's own interval covers it in a few of them.
    assert 0.9 <= np.mean(covered) <= 0.99


def test_quantiles_of_several_processes_are_told_apart(pooled):
    assert [len(run) for run in pooled.b.samples_by_run] == [20, 20, 20]
    medians = [np.median(run) for run in pooled.b.samples_by_run]
    assert medians == [process(s, seed=n).b.median_ms for n, s in enumerate(SHIFTS)]
    estimate = latency_quantile(pooled.b)
    assert estimate.value == pytest.approx(stats.gmean(medians))
    low, high = np.exp(
        stats.t.interval(0.95, 2, np.mean(np.log(medians)), stats.sem(np.log(medians)))
    )
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    one = process(1.0).b
    assert latency_quantile(one) == latency.quantile_interval(one.samples)
    tail = latency_quantile(pooled.b, 0.99)
    assert tail.value > estimate.value


def test_a_pooled_latency_survives_its_json(pooled):
    again = latency.Comparison.from_dict(pooled.as_dict())
    assert again == pooled
    old = {key: value for key, value in pooled.b.as_dict().items() if key != "runs"}
    assert latency.Latency.from_dict(old).samples_by_run == [pooled.b.samples]
    assert pooled.b.peak_memory_bytes == 1002
    assert pooled.b.compile_ms == pytest.approx(45, abs=0.2)


def test_one_is_itself_and_none_is_an_error():
    one = process(1.0)
    assert pool([one]) is one
    with pytest.raises(ValueError, match=r"at least one\. Received: comparisons=\[\]"):
        pool([])
    unstable = dataclasses.replace(one, b=dataclasses.replace(one.b, stable=False))
    assert not pool([one, unstable]).b.stable
