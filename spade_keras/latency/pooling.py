"""One result of several processes' measurements, whose differences between processes count."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from spade_keras.latency.interval import quantile_interval
from spade_keras.latency.results import Comparison, Estimate, Latency, Ratio, summarize


def pool(comparisons: Sequence[Comparison], *, confidence: float = 0.95) -> Comparison:
    """Makes one comparison of those of several processes.

        log r = mean_i log r_i +- t(n - 1) s(log r_i) / sqrt(n)

    Where memory lies, which threads start on which core and what the compiler chose differ from
    process to process and shift all windows of one together. So an interval of windows, however
    many, says nothing of the next process; the differences between n processes do.

    Args:
        comparisons: The same two models, timed in processes of their own.
        confidence: Probability that the interval covers the ratio of the average process.

    Returns:
        A `Comparison`; the only one itself if there is but one.

    Raises:
        ValueError: If there is none.

    Reference:
        Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013.
    """
    if not comparisons:
        raise ValueError("`comparisons` must hold at least one. Received: comparisons=[]")
    if len(comparisons) == 1:
        return comparisons[0]
    value, low, high = _interval([each.ratio.value for each in comparisons], confidence)
    return Comparison(
        a=_joined([each.a for each in comparisons]),
        b=_joined([each.b for each in comparisons]),
        ratio=Ratio(
            value=value,
            low=low,
            high=high,
            confidence=confidence,
            pairs=sum(each.ratio.pairs for each in comparisons),
            processes=len(comparisons),
        ),
    )


def latency_quantile(latency: Latency, q: float = 0.5, *, confidence: float = 0.95) -> Estimate:
    """Estimates a quantile of a model's times from one process or from several pooled ones.

    Args:
        latency: Of one process: the interval is that of `quantile_interval`. Of several: it is
            made from each one's quantile, as in `pool`.
        q: The quantile, in (0, 1).
        confidence: Probability that the interval covers it.

    Returns:
        The quantile and its interval.
    """
    runs = latency.samples_by_run
    if len(runs) == 1:
        return quantile_interval(latency.samples, q, confidence=confidence)
    value, low, high = _interval([float(np.quantile(run, q)) for run in runs], confidence)
    return Estimate(value, low, high, confidence, len(latency.samples))


def _interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """The geometric mean of positive values and its t interval."""
    # scipy.stats takes a second to import, which only those who time models shall wait for.
    from scipy import stats

    logs = np.log(values)
    error = logs.std(ddof=1) / math.sqrt(logs.size)
    reach = stats.t.ppf((1 + confidence) / 2, logs.size - 1) * error
    middle = logs.mean()
    value, low, high = np.exp([middle, middle - reach, middle + reach])
    return float(value), float(low), float(high)


def _joined(latencies: Sequence[Latency]) -> Latency:
    samples = [sample for latency in latencies for sample in latency.samples]
    first = latencies[0]
    peaks = [latency.peak_memory_bytes for latency in latencies]
    joined = summarize(
        samples,
        first_ms=0.0,
        calls_per_window=first.calls_per_window,
        stable=all(latency.stable for latency in latencies),
        peak_memory_bytes=None if None in peaks else max(peak for peak in peaks if peak),
        fingerprint=first.fingerprint,
    )
    return dataclasses.replace(
        joined,
        compile_ms=float(np.median([latency.compile_ms for latency in latencies])),
        runs=tuple(len(latency.samples) for latency in latencies),
    )
