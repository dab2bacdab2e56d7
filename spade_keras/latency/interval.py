"""The confidence interval of a ratio of two models' times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spade_keras.latency.results import Ratio

_RESAMPLES = 4999


def ratio_interval(
    a_ms: Sequence[float], b_ms: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> Ratio:
    """Estimates the time of `b` / the time of `a` from interleaved samples.

        ratio = median(b) / median(a)

    The interval is the paired percentile bootstrap: pairs are drawn again with replacement, so
    that whatever slows both windows of a pair cancels. On skewed samples with bursts, 10 to 40
    pairs, it covers the true ratio as often as it says, more reliably than the basic or the
    bias-corrected one.

    Args:
        a_ms: Times of the reference, in the order measured.
        b_ms: Times of the other model, each measured next to its partner in `a_ms`.
        confidence: Probability that the interval covers the true ratio, in (0, 1).
        seed: Seed of the resampling: the same samples give the same interval.

    Returns:
        The ratio and its interval.

    Raises:
        ValueError: If the samples are not paired, are fewer than two, or are not positive.

    Example:
        >>> print(ratio_interval([10.0, 10.2, 9.9, 10.1], [5.1, 5.0, 5.0, 5.2]))
        0.502 [0.490, 0.515]
    """
    # scipy.stats takes a second to import, which only those who time models shall wait for.
    from scipy import stats

    a, b = np.asarray(a_ms, "float64"), np.asarray(b_ms, "float64")
    if a.ndim != 1 or a.shape != b.shape or a.size < 2:
        raise ValueError(
            "`a_ms` and `b_ms` must be two lists of equally many times, at least two each. "
            f"Received: shapes {a.shape} and {b.shape}"
        )
    if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b)) and a.min() > 0 and b.min() > 0):
        raise ValueError(
            f"Times must be finite and above 0. Received: a_ms={a.tolist()}, b_ms={b.tolist()}"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must be in (0, 1). Received: confidence={confidence}")
    result = stats.bootstrap(
        (a, b),
        _ratio_of_medians,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Ratio(
        value=float(_ratio_of_medians(a, b)),
        low=float(low),
        high=float(high),
        confidence=confidence,
        pairs=int(a.size),
    )


def _ratio_of_medians(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(b, axis=axis) / np.median(a, axis=axis)
