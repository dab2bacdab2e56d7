"""Confidence intervals of a model's time and of the ratio of two, from one process or several."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from spade_keras.latency.results import Comparison, Estimate, Latency, Ratio, summarize

_RESAMPLES = 4999


def ratio_interval(
    a_ms: Sequence[float], b_ms: Sequence[float], *, confidence: float = 0.95
) -> Ratio:
    """Estimates the time of `b` / the time of `a` from interleaved samples.

        ratio = median(b) / median(a)

    The interval is the paired percentile bootstrap: pairs are resampled with replacement, so that
    anything that slows both windows of a pair cancels. On skewed samples with bursts, 10 to 40
    pairs, its coverage is closer to nominal than that of the basic or the bias-corrected one.

    Each time in `b_ms` was measured next to its partner in `a_ms`. The same samples give the same
    interval.

    Example:
        >>> print(ratio_interval([10.0, 10.2, 9.9, 10.1], [5.1, 5.0, 5.0, 5.2]))
        0.502 [0.490, 0.515]
    """
    a, b = np.asarray(a_ms, "float64"), np.asarray(b_ms, "float64")
    if a.ndim != 1 or a.shape != b.shape or a.size < 2:
        raise ValueError(
            "`a_ms` and `b_ms` must be two lists of equally many times, at least two each. "
            f"Received: shapes {a.shape} and {b.shape}"
        )
    _check_times(a_ms=a, b_ms=b)
    low, high = _bootstrap((a, b), _ratio_of_medians, confidence)
    return Ratio(float(_ratio_of_medians(a, b)), low, high, confidence, pairs=int(a.size))


def quantile_interval(
    samples_ms: Sequence[float], q: float = 0.5, *, confidence: float = 0.95
) -> Estimate:
    """Estimates a quantile of one model's times: the median, or a tail such as q = 0.99.

    The interval is the percentile bootstrap. Its upper bound is never above the longest sample,
    so that a tail needs samples beyond it: for q = 0.99 at 95 % at least 370 single calls
    (`measure(..., single_calls=True)`), since in fewer none may lie above the true quantile.

    Example:
        >>> print(quantile_interval([10.0, 10.2, 9.9, 10.1, 12.0]))
        10.1 ms [9.9, 12]
    """
    samples = np.asarray(samples_ms, "float64")
    if samples.ndim != 1 or samples.size < 2:
        raise ValueError(
            f"`samples_ms` must be a list of at least two times. Received: shape {samples.shape}"
        )
    if not 0 < q < 1:
        raise ValueError(
            f"`q` must be in (0, 1). Received: q={q}. For the 99th percentile pass 0.99."
        )
    _check_times(samples_ms=samples)

    def quantile(values: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.quantile(values, q, axis=axis)

    low, high = _bootstrap((samples,), quantile, confidence)
    return Estimate(float(quantile(samples)), low, high, confidence, samples=int(samples.size))


def pool(comparisons: Sequence[Comparison], *, confidence: float = 0.95) -> Comparison:
    """Pools the comparisons of several processes into one.

        log r = mean_i log r_i +- t(n - 1) s(log r_i) / sqrt(n)

    Memory layout, thread placement and the compiler's choices differ between processes and shift
    all windows of one process together. So more windows of one process do not predict the next
    process; the differences between n processes do.

    The interval covers the ratio of the average process.

    Reference:
        Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013.
    """
    if not comparisons:
        raise ValueError("`comparisons` must hold at least one. Received: comparisons=[]")
    if len(comparisons) == 1:
        return comparisons[0]
    bounds = _process_interval([each.ratio.value for each in comparisons], confidence)
    pairs = sum(each.ratio.pairs for each in comparisons)
    return Comparison(
        a=_joined([each.a for each in comparisons]),
        b=_joined([each.b for each in comparisons]),
        ratio=Ratio(*bounds, confidence, pairs, processes=len(comparisons)),
    )


def latency_quantile(latency: Latency, q: float = 0.5, *, confidence: float = 0.95) -> Estimate:
    """Estimates a quantile of a model's times from one process or from several pooled ones.

    The interval is that of `quantile_interval` for one process; for several it is made from each
    one's quantile, as in `pool`.
    """
    runs = latency.samples_by_run
    if len(runs) == 1:
        return quantile_interval(latency.samples, q, confidence=confidence)
    bounds = _process_interval([float(np.quantile(run, q)) for run in runs], confidence)
    return Estimate(*bounds, confidence, len(latency.samples))


def _check_times(**times: np.ndarray) -> None:
    if not all(np.all(np.isfinite(array)) and array.min() > 0 for array in times.values()):
        received = ", ".join(f"{name}={array.tolist()}" for name, array in times.items())
        raise ValueError(f"Times must be finite and above 0. Received: {received}")


def _bootstrap(
    samples: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray], confidence: float
) -> tuple[float, float]:
    """The percentile bootstrap; two samples are drawn in pairs."""
    # scipy.stats takes a second to import, so it is imported only when models are timed.
    from scipy import stats

    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1). Received: confidence={confidence}")
    result = stats.bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=500,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)


def _ratio_of_medians(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(b, axis=axis) / np.median(a, axis=axis)


def _process_interval(values: Sequence[float], confidence: float) -> tuple[float, float, float]:
    """The geometric mean of positive values and its t interval."""
    from scipy import stats

    logs = np.log(values)
    error = logs.std(ddof=1) / math.sqrt(logs.size)
    reach = stats.t.ppf((1 + confidence) / 2, logs.size - 1) * error
    middle = logs.mean()
    value, low, high = np.exp([middle, middle - reach, middle + reach])
    return float(value), float(low), float(high)


def _joined(latencies: Sequence[Latency]) -> Latency:
    peaks = [latency.peak_memory_bytes for latency in latencies]
    joined = summarize(
        [sample for latency in latencies for sample in latency.samples],
        first_ms=0.0,
        calls_per_window=latencies[0].calls_per_window,
        stable=all(latency.stable for latency in latencies),
        peak_memory_bytes=None if None in peaks else max(peak for peak in peaks if peak),
        fingerprint=latencies[0].fingerprint,
    )
    return dataclasses.replace(
        joined,
        compile_ms=float(np.median([latency.compile_ms for latency in latencies])),
        runs=tuple(len(latency.samples) for latency in latencies),
    )
