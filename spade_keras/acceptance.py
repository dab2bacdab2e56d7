"""Whether a saved model meets a budget: measured in a fresh process, longer while undecided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spade_keras import latency
from spade_keras.search import LatencyBudget

Compare = Callable[..., latency.Comparison]
"""Has the signature of `latency.compare_in_fresh_process`."""

_ATTEMPTS, _PAIRS, _TAIL_PAIRS = 3, 20, 200


def compare_for(
    budget: LatencyBudget,
    full: Path,
    slim: Path,
    inputs: Any,
    *,
    pairs: int | None = None,
    mode: str | None = None,
    imports: Sequence[str] = (),
    compare: Compare | None = None,
) -> latency.Comparison:
    """Times two saved models in turn in a process of their own, as a budget demands.

    While the budget lies within the interval, they are timed anew, twice as long, up to twice: a
    close call is then decided by more evidence, and never by the best of several tries, since
    only the last measurement counts.

    Args:
        budget: What will be asked of the result.
        full: `.keras` file of the full model.
        slim: `.keras` file of the slim model.
        inputs: Inputs of both, with `budget.batch_size` samples.
        pairs: Timed windows of each at first; by default 20, or 200 single calls for a tail.
        mode: See `latency.compare`.
        imports: Modules that register the models' own classes.
        compare: Times them; by default `latency.compare_in_fresh_process`.

    Returns:
        The last measurement.
    """
    compare = compare or latency.compare_in_fresh_process
    pairs = pairs or (_TAIL_PAIRS if budget.single_calls else _PAIRS)
    for attempt in range(_ATTEMPTS):
        comparison = compare(
            full,
            slim,
            inputs,
            pairs=pairs * 2**attempt,
            mode=mode,
            single_calls=budget.single_calls,
            imports=imports,
        )
        if not undecided(budget, comparison):
            break
    return comparison


def measured(budget: LatencyBudget, comparison: latency.Comparison) -> str:
    """Says what was measured, in the budget's own terms, with its 95 % interval.

    Args:
        budget: The budget.
        comparison: Full and slim model timed in turn.
    """
    if budget.kind == "fraction":
        ratio = comparison.ratio
        return (
            f"{ratio.value:.3f} of the full network's latency "
            f"(95 % interval {ratio.low:.3f} to {ratio.high:.3f})"
        )
    estimate = _quantile(budget, comparison)
    if budget.kind == "throughput":
        rates = [
            1e3 * budget.batch_size / ms for ms in (estimate.value, estimate.high, estimate.low)
        ]
        return "{:.4g} samples per second (95 % interval {:.4g} to {:.4g})".format(*rates)
    name = "p99" if budget.kind == "p99_ms" else "median"
    return (
        f"{name} {estimate.value:.3g} ms (95 % interval {estimate.low:.3g} to {estimate.high:.3g})"
    )


def undecided(budget: LatencyBudget, comparison: latency.Comparison) -> bool:
    """Whether the limit lies within the interval: the model may meet it, which was not shown.

    Args:
        budget: The budget.
        comparison: Full and slim model timed in turn.
    """
    if budget.kind == "fraction":
        low, high, limit = comparison.ratio.low, comparison.ratio.high, budget.limit
    else:
        estimate = _quantile(budget, comparison)
        low, high, limit = estimate.low, estimate.high, budget.limit
        if budget.kind == "throughput":
            limit = 1e3 * budget.batch_size / budget.limit
    return low <= limit < high


def _quantile(budget: LatencyBudget, comparison: latency.Comparison) -> Any:
    quantile = 0.99 if budget.kind == "p99_ms" else 0.5
    return latency.quantile_interval(comparison.b.samples, quantile)
