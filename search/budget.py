"""Latency budgets: limits on a ratio, a time, a tail or a rate."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spade_keras.latency import Comparison, Estimate, Ratio

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)(?:e-?\d+)?"
_FORMS = {
    "fraction": re.compile(rf"({_NUMBER})"),
    "median_ms": re.compile(rf"(?:median\s*<=\s*)?({_NUMBER})\s*ms"),
    "p99_ms": re.compile(rf"p99\s*<=\s*({_NUMBER})\s*ms"),
    "throughput": re.compile(rf"throughput\s*>=\s*({_NUMBER})\s*/\s*s"),
}
LIMITS = tuple(_FORMS)
_ROOM = 0.05


@dataclass(frozen=True)
class LatencyBudget:
    """A limit on measured latency; exactly one of the four is given.

    Args:
        fraction: Median time / the full network's, both timed interleaved on the device in use.
        median_ms: Median time of a call in milliseconds.
        p99_ms: 99th percentile of the time of a call in milliseconds.
        throughput: Samples per second at `batch_size`, at least.
        safety_margin: Share of the budget left unused by the search, 0 <= margin < 1, so that the
            network found still meets the budget when it is measured again.
        batch_size: Samples in a call: the budget is for this batch.
        dtype: Dtype of full network and candidates, such as "bfloat16"; None: their own.

    Raises:
        ValueError: If none or several limits are given, or one is out of its range.

    Example:
        >>> LatencyBudget(fraction=0.5, safety_margin=0.1).target
        0.45
        >>> print(LatencyBudget.parse("p99<=8ms"))
        p99 of at most 8 ms
    """

    fraction: float | None = None
    median_ms: float | None = None
    p99_ms: float | None = None
    throughput: float | None = None
    safety_margin: float = 0.0
    batch_size: int = 1
    dtype: str | None = None

    def __post_init__(self) -> None:
        given = {name: value for name in LIMITS if (value := getattr(self, name)) is not None}
        if len(given) != 1:
            raise ValueError(
                f"Exactly one of {', '.join(LIMITS)} must be given. Received: {given or 'none'}"
            )
        [(name, value)] = given.items()
        if name == "fraction" and not 0 < value < 1:
            raise ValueError(
                "`fraction` must be above 0 and below 1: the share of the full network's latency. "
                f"For milliseconds write '{value:g}ms'. Received: fraction={value}"
            )
        if not 0 < value < float("inf"):
            raise ValueError(f"`{name}` must be a number above 0. Received: {name}={value}")
        if not 0 <= self.safety_margin < 1:
            raise ValueError(
                "`safety_margin` must be at least 0 and below 1. "
                f"Received: safety_margin={self.safety_margin}"
            )
        if self.batch_size < 1:
            raise ValueError(
                f"`batch_size` must be at least 1. Received: batch_size={self.batch_size}"
            )

    @classmethod
    def parse(cls, text: str | float, **options: Any) -> LatencyBudget:
        """Reads a budget as people write it: 0.5, "8ms", "p99<=8ms" or "throughput>=200/s".

        Raises:
            ValueError: If it is none of these, or out of its range.
        """
        for name, form in _FORMS.items():
            found = form.fullmatch(str(text).strip().lower())
            if found:
                return cls(**{name: float(found.group(1)), **options})
        raise ValueError(
            "A latency budget must read 0.5 (a fraction of the full network's latency), '8ms', "
            f"'p99<=8ms' or 'throughput>=200/s'. Received: {text!r}"
        )

    @property
    def kind(self) -> str:
        """The kind of limit: one of `LIMITS`."""
        return next(name for name in LIMITS if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """The limit itself, in the unit of `kind`."""
        return float(getattr(self, self.kind))

    @property
    def target(self) -> float:
        """The limit that the search aims at, with the safety margin."""
        kept = 1 - self.safety_margin
        return self.limit / kept if self.kind == "throughput" else self.limit * kept

    @property
    def quantity(self) -> str:
        """The field of `Timing` that the budget limits."""
        return {"fraction": "latency_ratio", "p99_ms": "p99_ms"}.get(self.kind, "latency_ms")

    @property
    def conditions(self) -> str:
        """Batch size and dtype in words; empty for one sample in the network's own dtype."""
        batch = f" at batch size {self.batch_size}" if self.batch_size > 1 else ""
        return batch + (f" in {self.dtype}" if self.dtype else "")

    def as_time(self, limit: float) -> float:
        """Returns a limit in the unit of `quantity`: a throughput as milliseconds per call."""
        return 1e3 * self.batch_size / limit if self.kind == "throughput" else limit

    @property
    def single_calls(self) -> bool:
        """Whether every call must be timed by itself: windows of several calls hide a tail."""
        return self.kind == "p99_ms"

    def excess(self, comparison: Comparison, *, margin: bool = True) -> float:
        """Returns by how much a network misses the budget: measured / allowed - 1, met at 0.

        The pessimistic end of the 95 % interval counts, so that noise is not taken for speed. Full
        network (`a`) and candidate (`b`) were timed interleaved, with `batch_size` samples.
        """
        return self._measured(comparison).high / self._allowed(margin) - 1

    def is_met(self, comparison: Comparison) -> bool:
        """Whether a measurement meets the budget itself, safety margin aside; see `excess`."""
        return self.excess(comparison, margin=False) <= 0

    def is_met_again(self, comparison: Comparison) -> bool:
        """Whether as many processes again are expected to meet the budget, safety margin aside.

        The interval covers the average process. The average of n further processes differs from
        that of the n measured by sqrt(2) times as much: `high` of the prediction interval is

            value (high / value)^sqrt(2)
        """
        measured = self._measured(comparison)
        again = measured.value * (measured.high / measured.value) ** math.sqrt(2)
        return again <= self._allowed(margin=False)

    def is_missed(self, comparison: Comparison) -> bool:
        """Whether even the optimistic end of the interval misses the budget, margin aside."""
        return self._measured(comparison).low > self._allowed(margin=False)

    def leaves_room(self, comparison: Comparison) -> bool:
        """Whether the pessimistic end lies more than 5 % below what the search aims at.

        With margins up to 5 % what leaves none lies within 10 % of the budget itself.
        """
        return self.excess(comparison) < -_ROOM

    def is_undecided(self, comparison: Comparison, *, margin: bool = False) -> bool:
        """Whether the limit lies within the interval, so that the budget may or may not be met."""
        measured = self._measured(comparison)
        return measured.low <= self._allowed(margin) < measured.high

    def describe(self, comparison: Comparison) -> str:
        """Describes a measurement in the terms of the budget, with its 95 % interval."""
        measured = self._measured(comparison)
        ends = [measured.value, measured.low, measured.high]
        if self.kind == "throughput":
            ends = [1e3 * self.batch_size / ms for ms in (ends[0], ends[2], ends[1])]
        return {
            "fraction": "{:.3f} of the full network's latency (95 % interval {:.3f} to {:.3f})",
            "median_ms": "median {:.3g} ms (95 % interval {:.3g} to {:.3g})",
            "p99_ms": "p99 {:.3g} ms (95 % interval {:.3g} to {:.3g})",
            "throughput": "{:.4g} samples per second (95 % interval {:.4g} to {:.4g})",
        }[self.kind].format(*ends)

    @property
    def text(self) -> str:
        """The limit as `parse` reads it."""
        forms = {"median_ms": "{!r}ms", "p99_ms": "p99<={!r}ms", "throughput": "throughput>={!r}/s"}
        return forms.get(self.kind, "{!r}").format(self.limit)

    def _allowed(self, margin: bool) -> float:
        return self.as_time(self.target if margin else self.limit)

    def _measured(self, comparison: Comparison) -> Estimate | Ratio:
        """The ratio or time of the candidate, in the unit of `quantity`."""
        from spade_keras.latency import latency_quantile

        if self.kind == "fraction":
            return comparison.ratio
        return latency_quantile(comparison.b, 0.99 if self.kind == "p99_ms" else 0.5)

    def __str__(self) -> str:
        return {
            "fraction": f"{self.limit:g} of the full network's latency",
            "median_ms": f"median of at most {self.limit:g} ms",
            "p99_ms": f"p99 of at most {self.limit:g} ms",
            "throughput": f"at least {self.limit:g} samples per second",
        }[self.kind] + self.conditions
