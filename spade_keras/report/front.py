"""The front of quality against latency: as a figure, and as a slider along it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_keras.report import figures
from spade_keras.report.findings import FrontPanel, SearchFindings, ratio_words
from spade_keras.report.page import data_uri, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spade_keras.search import LatencyBudget, SearchResult, TrialRecord

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 346, 14, 206
_COLORS = {"image": "gray", "error": "magma"}
_STRIP = {
    "infeasible": ("|", 14, "over budget, not scored"),
    "stopped": ("x", 7, "stopped early"),
    "failed": ("x", 7, None),
}
_AXIS_NAMES = {
    "latency_ratio": "median latency / full network's",
    "latency_ms": "median latency{} / ms",
    "p99_ms": "p99 latency{} / ms",
}


def tradeoff(result: SearchResult, *, chosen: int | None = None) -> Figure:
    """Draws quality against the budget's quantity, with the budget and the front as lines.

    A trial that was rejected by its latency before its quality was computed stands on a strip
    below the axes.

    Args:
        result: The search.
        chosen: Number of the trial that was taken.
    """
    budget = result.budget
    limit = budget.as_time(budget.limit)
    timed = [trial for trial in result.trials if trial.timing is not None]
    scored = [trial for trial in timed if trial.quality is not None]
    with figures.styled(8, 4.8 if scored else 2.2) as figure:
        ratios = [10 if scored else 2, 1]
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
        points = result.front_over(budget.quantity)
        if len(points) > 1:
            look = {"color": figures.FEASIBLE, "linewidth": 1.2, "alpha": 0.6, "label": "front"}
            times = [_time(trial, budget) for trial in points]
            axes.step(times, [trial.quality for trial in points], where="post", **look)
        for state, label, color in (
            ("infeasible", "over budget", figures.INFEASIBLE),
            ("feasible", "within budget", figures.FEASIBLE),
        ):
            own = [t for t in scored if t.state == state and t.number != chosen]
            _scatter(axes, own, budget, color=color, fmt="o", markersize=7, label=label)
        taken = [t for t in scored if t.number == chosen]
        _scatter(axes, taken, budget, color=figures.CHOSEN, fmt="*", markersize=17, label="chosen")
        _draw_rejected(strip, [t for t in timed if t.quality is None], budget)
        for part, label in ((axes, f"budget {limit:.4g}"), (strip, "")):
            part.axvline(limit, color=figures.INK, linestyle="--", linewidth=1.2, label=label)
        left, right = _span(timed, budget)
        axes.set_xlim(left, right)
        axes.axvspan(limit, right, color=figures.GRID, alpha=0.5, linewidth=0)
        figures.quality_axis(axes, result.quality_name, empty=not scored)
        strip.set_xlabel(_AXIS_NAMES[budget.quantity].format(budget.conditions))
        figures.legend(figure, 6, fontsize=9, columnspacing=1.2, handletextpad=0.5)
        return figure


def _time(trial: TrialRecord, budget: LatencyBudget) -> float:
    return float(getattr(trial.timing, budget.quantity))


def _intervals(trials: Sequence[TrialRecord], budget: LatencyBudget) -> np.ndarray:
    """The 95 % interval of each trial's time; the time twice where none is kept."""
    if budget.kind == "fraction":
        ends = [(t.timing.ratio_low, t.timing.ratio_high) for t in trials if t.timing is not None]
    else:
        ends = [(_time(trial, budget),) * 2 for trial in trials]
    return np.array(ends).reshape(-1, 2)


def _scatter(axes: Any, trials: Sequence[TrialRecord], budget: LatencyBudget, **look: Any) -> None:
    if not trials:
        return
    times = np.array([_time(trial, budget) for trial in trials])
    low, high = _intervals(trials, budget).T
    axes.errorbar(
        times,
        [trial.quality for trial in trials],
        xerr=np.maximum(0, [times - low, high - times]),
        elinewidth=1,
        markeredgecolor="white",
        zorder=3,
        **look,
    )


def _draw_rejected(strip: Any, rejected: Sequence[TrialRecord], budget: LatencyBudget) -> None:
    low, high = _intervals(rejected, budget).T
    strip.hlines(np.zeros(len(low)), low, high, color=figures.INFEASIBLE, linewidth=1, alpha=0.6)
    for state, (marker, size, label) in _STRIP.items():
        if times := [_time(trial, budget) for trial in rejected if trial.state == state]:
            look = {"color": figures.INFEASIBLE, "markersize": size, "mew": 1.8, "label": label}
            strip.plot(times, np.zeros(len(times)), marker, **look)
    figures.name_rows(strip, ["not scored"])


def _span(timed: Sequence[TrialRecord], budget: LatencyBudget) -> tuple[float, float]:
    """Ends of the horizontal axis: a very uncertain trial's interval may run out of it."""
    limit = budget.as_time(budget.limit)
    times = [limit, *(_time(trial, budget) for trial in timed)]
    ends = [limit, *_intervals(timed, budget).flat]
    reach = 0.5 * (max(times) - min(times))
    left, right = max(min(ends), min(times) - reach), min(max(ends), max(times) + reach)
    margin = 0.04 * (right - left) + 0.01 * limit
    return max(0.0, left - margin), right + margin


def slider(findings: SearchFindings) -> dict[str, Any] | None:
    """Returns what `front_slider.html.jinja` shows, or None for a front of fewer than two points.

    Args:
        findings: The search. With `front_panels`, one stop for each of them; without, one for
            each trial on the front, in numbers alone.

    Raises:
        ValueError: If the values of a panel are not finite.
    """
    panels = findings.front_panels or [FrontPanel(trial) for trial in findings.result.front]
    panels = sorted(panels, key=lambda panel: panel.trial.latency_ratio or 0.0)
    if len(panels) < 2:
        return None
    ratios = [float(panel.trial.latency_ratio or 0.0) for panel in panels]
    qualities = [float(panel.trial.quality or 0.0) for panel in panels]
    tops = {key: _top([getattr(panel, key) for panel in panels], key) for key in _COLORS}
    x = _Axis(_finite(ratios, "latency ratio"), _LEFT, _RIGHT)
    y = _Axis(_finite(qualities, "quality"), _BOTTOM, _TOP)
    stops = [
        {**_stop(findings, panel, tops), "x": x.place(ratio), "y": y.place(quality)}
        for panel, ratio, quality in zip(panels, ratios, qualities, strict=True)
    ]
    budget, taken = findings.result.budget, findings.taken
    marked = budget.kind == "fraction" and x.ends[0] < budget.limit < x.ends[1]
    slowest = (taken and taken.latency_ratio) or 0.0
    return {
        "stops": stops,
        "first": max((i for i, ratio in enumerate(ratios) if ratio <= slowest), default=0),
        "box": (_LEFT, _TOP, _RIGHT, _BOTTOM),
        "x_ticks": x.ticks(),
        "y_ticks": y.ticks(),
        "budget": x.place(budget.limit) if marked else None,
        "image_top": tops["image"],
        "error_top": tops["error"],
        "colors": {
            key: data_uri(picture(np.linspace(0, 1, 256)[None], colors=colors, top=1.0))
            for key, colors in _COLORS.items()
        },
        "quality": findings.result.quality_name,
        "width": WIDTH,
        "height": HEIGHT,
    }


def _stop(
    findings: SearchFindings, panel: FrontPanel, tops: dict[str, float | None]
) -> dict[str, Any]:
    trial, time = panel.trial, panel.trial.timing
    assert time is not None  # it is on the front
    shown: dict[str, str | None] = dict.fromkeys(_COLORS)
    for key, colors in _COLORS.items():
        if (array := getattr(panel, key)) is not None:
            shown[key] = data_uri(picture(array, colors=colors, top=tops[key] or 1.0))
    rows = [
        ("median latency / full (95 % interval)", ratio_words(trial)),
        ("median latency", f"{time.latency_ms:.3g} ms"),
        (findings.result.quality_name, f"{trial.quality:.4g}"),
        ("keeps", findings.changes(trial)),
    ]
    label = f"trial {trial.number}" + (", chosen" if findings.is_taken(trial) else "")
    return {"label": f"{label}, as pruned" if shown["image"] else label, "rows": rows, **shown}


def _finite(values: Sequence[float], what: str) -> Sequence[float]:
    if not np.isfinite(values).all():
        raise ValueError(
            f"`front_panels` must have finite values. Received: {what} with {list(values)}"
        )
    return values


def _top(arrays: Sequence[np.ndarray | None], what: str) -> float | None:
    """The largest value of all panels: one scale for all, so that they can be compared."""
    tops = _finite([float(np.max(array)) for array in arrays if array is not None], what)
    return (max(tops) or 1.0) if tops else None


class _Axis:
    """An axis of the small plot, from one pixel to another, with a margin around the values."""

    def __init__(self, values: Sequence[float], start: int, stop: int) -> None:
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        self.ends = low - margin, high + margin
        self.pixels = start, stop

    def place(self, value: float) -> float:
        return round(float(np.interp(value, self.ends, self.pixels)), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Places of some round values, and how they are written."""
        from matplotlib.ticker import MaxNLocator

        values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(*self.ends)
        return [(self.place(v), f"{v:.6g}") for v in values if self.ends[0] <= v <= self.ends[1]]
