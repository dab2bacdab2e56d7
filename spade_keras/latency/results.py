"""Results of measurements: times, ratios, and the conditions under which they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spade_keras.typing import Record


@dataclasses.dataclass(frozen=True)
class Latency(Record):
    """The time a model takes for one call.

    Args:
        median_ms: Median over the windows, per call, compilation left out.
        q1_ms: First quartile.
        q3_ms: Third quartile.
        p99_ms: 99th percentile; with fewer than a hundred windows close to the longest.
        compile_ms: Time of the first call beyond the median: tracing and compiling.
        samples: Milliseconds per call of every window, in the order measured.
        calls_per_window: Calls averaged in a window; more than one below a millisecond.
        stable: Whether warming up ended because the windows agreed; if not, it ran into its limit
            and the machine is noisy.
        peak_memory_bytes: See `backend.peak_memory_bytes`; None where unknown.
        fingerprint: Device, backend, versions, dtype, shapes: the times hold under these alone.
        runs: Windows of each process, where several were pooled (`latency.pool`).
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    p99_ms: float
    compile_ms: float
    samples: tuple[float, ...]
    calls_per_window: int
    stable: bool
    peak_memory_bytes: int | None
    fingerprint: Mapping[str, Any]
    runs: tuple[int, ...] = ()

    @property
    def samples_by_run(self) -> list[tuple[float, ...]]:
        """The samples of each process."""
        sizes = self.runs or (len(self.samples),)
        ends = np.cumsum(sizes)
        return [self.samples[end - n : end] for end, n in zip(ends, sizes, strict=True)]


@dataclasses.dataclass(frozen=True)
class Estimate(Record):
    """A quantile in milliseconds of so many `samples`, with its confidence interval.

    A limit is met when `high` is below it.
    """

    value: float
    low: float
    high: float
    confidence: float
    samples: int

    def __str__(self) -> str:
        return f"{self.value:.3g} ms [{self.low:.3g}, {self.high:.3g}]"


@dataclasses.dataclass(frozen=True)
class Ratio(Record):
    """The median time of one model divided by that of another, with its confidence interval.

    It is made of `pairs` of windows, in so many `processes`. A budget is met when `high` is below
    it.
    """

    value: float
    low: float
    high: float
    confidence: float
    pairs: int
    processes: int = 1

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclasses.dataclass(frozen=True)
class Comparison(Record):
    """Two models timed interleaved.

    `a` is the reference; `ratio` is the time of `b` / the time of `a`, below 1 when `b` is faster.
    """

    a: Latency
    b: Latency
    ratio: Ratio


@dataclasses.dataclass(frozen=True)
class SelfCheck(Record):
    """A model timed against itself: its ratio differs from 1 by noise alone.

    `resolvable` is the smallest relative difference that this machine resolves with this number of
    pairs: the larger distance of the interval's ends from 1.
    """

    comparison: Comparison
    resolvable: float

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values, those of the comparison beside `resolvable`."""
        return {"resolvable": self.resolvable, **self.comparison.as_dict()}

    def __str__(self) -> str:
        return (
            f"{self.comparison.a.median_ms:.3g} ms against itself: ratio {self.comparison.ratio}; "
            f"differences below {self.resolvable:.1%} cannot be resolved with "
            f"{self.comparison.ratio.pairs} pairs"
        )


def summarize(
    samples_ms: Sequence[float],
    *,
    first_ms: float,
    calls_per_window: int,
    stable: bool,
    peak_memory_bytes: int | None = None,
    fingerprint: Mapping[str, Any],
) -> Latency:
    """Makes a `Latency` of milliseconds per call and the time of the first, compiling call."""
    if len(samples_ms) == 0:
        raise ValueError("`samples_ms` must hold at least one time. Received: samples_ms=[]")
    q1, median, q3, p99 = np.percentile(samples_ms, [25, 50, 75, 99]).tolist()
    return Latency(
        median_ms=median,
        q1_ms=q1,
        q3_ms=q3,
        p99_ms=p99,
        compile_ms=max(0.0, float(first_ms - median)),
        samples=tuple(float(sample) for sample in samples_ms),
        calls_per_window=calls_per_window,
        stable=stable,
        peak_memory_bytes=peak_memory_bytes,
        fingerprint=dict(fingerprint),
    )
