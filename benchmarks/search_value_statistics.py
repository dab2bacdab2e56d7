"""Statistics of search_value.py: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 9999


def paired_interval(
    better: np.ndarray, worse: np.ndarray, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Mean difference of two arms with its interval over seeds x slices.

    Both were scored on the same slices for the same seeds. Seeds and slices are drawn again
    independently, with replacement, and every combination drawn counts: slices of one seed share a
    network, and a slice is the same anatomy for every seed, so neither axis may be taken for
    independent samples of the other.

    Args:
        better: Scores `(seeds, slices)`.
        worse: The same shape.
        confidence: Confidence of the percentile interval.
        seed: Seed of the resampling.
    """
    difference = np.asarray(better, "float64") - np.asarray(worse, "float64")
    if difference.ndim != 2:
        raise ValueError(
            "Scores must have the shape (seeds, slices). "
            f"Received: shapes {np.shape(better)} and {np.shape(worse)}"
        )
    generator = np.random.default_rng(seed)
    seeds, slices = difference.shape
    rows = generator.integers(seeds, size=(RESAMPLES, seeds))
    columns = generator.integers(slices, size=(RESAMPLES, slices))
    means = difference[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return {"mean_db": float(difference.mean()), "low_db": float(low), "high_db": float(high)}


def rank_correlation(
    predictor: Sequence[float], outcome: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Spearman's rank correlation with a percentile bootstrap interval over configurations."""
    x, y = np.asarray(predictor, "float64"), np.asarray(outcome, "float64")
    if x.shape != y.shape or x.ndim != 1 or x.size < 4:
        raise ValueError(
            "`predictor` and `outcome` must be two lists of equally many numbers, at least four. "
            f"Received: shapes {x.shape} and {y.shape}"
        )
    generator = np.random.default_rng(seed)
    draws = []
    for chosen in generator.integers(x.size, size=(RESAMPLES // 4, x.size)):
        if np.ptp(x[chosen]) > 0 and np.ptp(y[chosen]) > 0:  # else it has no ranks
            draws.append(stats.spearmanr(x[chosen], y[chosen]).statistic)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    value = stats.spearmanr(x, y).statistic
    return {"rho": float(value), "low": float(low), "high": float(high), "count": int(x.size)}


def recovered(reference: float, baseline: float, better: float) -> float | None:
    """Share of the baseline's loss against the reference that the better arm wins back.

    None where the baseline lost nothing.
    """
    loss = reference - baseline
    return (better - baseline) / loss if loss > 0 else None


def on_curve(ratios: Sequence[float], scores: Sequence[float], ratio: float) -> float | None:
    """The score at a ratio, on straight lines between measured points; None outside them."""
    order = np.argsort(ratios)
    x, y = np.asarray(ratios, "float64")[order], np.asarray(scores, "float64")[order]
    return float(np.interp(ratio, x, y)) if x[0] <= ratio <= x[-1] else None
