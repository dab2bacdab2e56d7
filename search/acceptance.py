"""Whether a saved model meets a budget: measured in fresh processes, in more while undecided."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spade_keras import latency
from spade_keras.search.budget import LatencyBudget

Compare = Callable[..., latency.Comparison]
"""Has the signature of `latency.compare_in_fresh_process`."""

PROCESSES, MOST_PROCESSES = 3, 9
_PAIRS, _TAIL_PAIRS = 30, 600


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
    """Times two saved models in turn in several processes of their own, as a budget demands.

    Three processes say how much one process differs from the next. While the budget lies within
    the interval, three more are added, up to nine in all: a close call is decided by more
    evidence, and never by the best of several tries, since all of them count.

    Args:
        budget: What will be asked of the result.
        full: `.keras` file of the full model.
        slim: `.keras` file of the slim model.
        inputs: Inputs of both, with `budget.batch_size` samples.
        pairs: Timed windows of each in the first three processes together; by default 30, or 600
            single calls for a tail.
        mode: See `latency.compare`.
        imports: Modules that register the models' own classes.
        compare: Times them; by default `latency.compare_in_fresh_process`.

    Returns:
        The measurements of all processes, pooled.
    """
    compare = compare or latency.compare_in_fresh_process
    pairs = pairs or (_TAIL_PAIRS if budget.single_calls else _PAIRS)
    comparisons: list[latency.Comparison] = []
    while len(comparisons) < MOST_PROCESSES:
        comparisons += [
            compare(
                full,
                slim,
                inputs,
                pairs=max(5, math.ceil(pairs / PROCESSES)),
                mode=mode,
                single_calls=budget.single_calls,
                imports=imports,
            )
            for _ in range(PROCESSES)
        ]
        if not undecided(budget, latency.pool(comparisons)):
            break
    return latency.pool(comparisons)


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


def undecided(
    budget: LatencyBudget, comparison: latency.Comparison, *, margin: bool = False
) -> bool:
    """Whether the limit lies within the interval: the model may meet it, which was not shown.

    Args:
        budget: The budget.
        comparison: Full and slim model timed in turn.
        margin: Whether the safety margin is kept.
    """
    limit = budget.target if margin else budget.limit
    if budget.kind == "fraction":
        low, high = comparison.ratio.low, comparison.ratio.high
    else:
        estimate = _quantile(budget, comparison)
        low, high = estimate.low, estimate.high
        if budget.kind == "throughput":
            limit = 1e3 * budget.batch_size / limit
    return low <= limit < high


def _quantile(budget: LatencyBudget, comparison: latency.Comparison) -> latency.Estimate:
    return latency.latency_quantile(comparison.b, 0.99 if budget.kind == "p99_ms" else 0.5)
