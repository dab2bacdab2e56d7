"""The front of quality against latency: as a figure, and as a slider along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spade_keras.report.figures import CHOSEN, FEASIBLE, GRID, INFEASIBLE, INK, quality_axis, styled
from spade_keras.report.findings import FrontPanel, SearchFindings, ratio_words
from spade_keras.report.page import data_uri, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from spade_keras.search import LatencyBudget, SearchResult, TrialRecord

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 44
_STRIP_MARKERS = {"infeasible": "|", "stopped": "x", "failed": "x"}
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
    rejected = [trial for trial in timed if trial.quality is None]
    with styled(8, 4.8 if scored else 2.2) as figure:
        ratios = [10 if scored else 2, 1]
        axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=ratios)
        _draw_front(axes, result)
        rest = [trial for trial in scored if trial.number != chosen]
        for state, color in (("infeasible", INFEASIBLE), ("feasible", FEASIBLE)):
            _scatter(axes, [t for t in rest if t.state == state], budget, (color, "o", 7))
        _scatter(axes, [t for t in scored if t.number == chosen], budget, (CHOSEN, "*", 17))
        for part in (axes, strip):
            part.axvline(limit, color=INK, linestyle="--", linewidth=1.2)
        _draw_rejected(strip, rejected, budget)
        left, right = _span(timed, budget)
        axes.set_xlim(left, right)
        axes.axvspan(limit, right, color=GRID, alpha=0.5, linewidth=0)
        quality_axis(axes, result.quality_name, empty=not scored)
        strip.set_xlabel(_AXIS_NAMES[budget.quantity].format(budget.conditions))
        _tradeoff_legend(figure, limit, chosen, {trial.state for trial in rejected})
        return figure


def _time(trial: TrialRecord, budget: LatencyBudget) -> float:
    return float(getattr(trial.timing, budget.quantity))


def _interval(trial: TrialRecord, budget: LatencyBudget) -> tuple[float, float]:
    """The 95 % interval of a trial's time; the time twice where none is kept."""
    if budget.kind == "fraction" and trial.timing is not None:
        return trial.timing.ratio_low, trial.timing.ratio_high
    return (_time(trial, budget),) * 2


def _draw_front(axes: Any, result: SearchResult) -> None:
    points = result.front_over(result.budget.quantity)
    if len(points) > 1:
        times = [_time(trial, result.budget) for trial in points]
        look = {"color": FEASIBLE, "linewidth": 1.2, "alpha": 0.6}
        axes.step(times, [trial.quality for trial in points], where="post", **look)


def _draw_rejected(strip: Any, rejected: Sequence[TrialRecord], budget: LatencyBudget) -> None:
    ends = np.array([_interval(trial, budget) for trial in rejected]).reshape(-1, 2)
    look = {"color": INFEASIBLE, "linewidth": 1, "alpha": 0.6}
    strip.hlines(np.zeros(len(ends)), ends[:, 0], ends[:, 1], **look)
    for state, marker in _STRIP_MARKERS.items():
        times = [_time(trial, budget) for trial in rejected if trial.state == state]
        look = {"color": INFEASIBLE, "markersize": 14 if marker == "|" else 7, "mew": 1.8}
        strip.plot(times, np.zeros(len(times)), marker, **look)
    strip.set_yticks([0], ["not scored"], fontsize=8)
    strip.spines["left"].set_visible(False)
    strip.tick_params(axis="y", length=0)


def _span(timed: Sequence[TrialRecord], budget: LatencyBudget) -> tuple[float, float]:
    """Ends of the horizontal axis: a very uncertain trial's interval may run out of it."""
    limit = budget.as_time(budget.limit)
    times = [limit, *(_time(trial, budget) for trial in timed)]
    ends = [limit, *(end for trial in timed for end in _interval(trial, budget))]
    reach = 0.5 * (max(times) - min(times))
    left, right = max(min(ends), min(times) - reach), min(max(ends), max(times) + reach)
    margin = 0.04 * (right - left) + 0.01 * limit
    return max(0.0, left - margin), right + margin


def _scatter(
    axes: Any, trials: Sequence[TrialRecord], budget: LatencyBudget, look: tuple[str, str, float]
) -> None:
    color, marker, size = look
    times = np.array([_time(trial, budget) for trial in trials])
    ends = np.array([_interval(trial, budget) for trial in trials]).reshape(-1, 2)
    axes.errorbar(
        times,
        [trial.quality for trial in trials],
        xerr=np.maximum(0, [times - ends[:, 0], ends[:, 1] - times]),
        fmt=marker,
        color=color,
        ecolor=color,
        elinewidth=1,
        markersize=size,
        markeredgecolor="white",
        zorder=3,
    )


def _tradeoff_legend(figure: Any, limit: float, chosen: int | None, strip: set[str]) -> None:
    from matplotlib.lines import Line2D

    def handle(label: str, color: str, **look: Any) -> Any:
        return Line2D([], [], color=color, label=label, **{"linestyle": "", **look})

    handles = [handle("within budget", FEASIBLE, marker="o")]
    if chosen is not None:
        handles.append(handle("chosen", CHOSEN, marker="*", markersize=12))
    handles.append(handle("over budget", INFEASIBLE, marker="|", mew=2))
    if "stopped" in strip:
        handles.append(handle("stopped early", INFEASIBLE, marker="x", mew=2))
    handles.append(handle("front", FEASIBLE, linestyle="-", alpha=0.6))
    handles.append(handle(f"budget {limit:.4g}", INK, linestyle="--"))
    spacing = {"columnspacing": 1.2, "handletextpad": 0.5}
    place = {"loc": "outside upper center", "ncols": 6}
    figure.legend(handles=handles, frameon=False, fontsize=9, **place, **spacing)


def slider(findings: SearchFindings) -> dict[str, Any] | None:
    """Returns the content of the slider, or None if the front has fewer than two points.

    Args:
        findings: The search. With `front_panels`, one stop for each of them; without, one for
            each trial on the front, in numbers alone.

    Returns:
        "stops" (dicts with "label", "rows" of name and value, "image" and "error" as addresses of
        images or None, "x" and "y" in the small plot), "first" (the stop to begin with), "axes"
        (ticks), "image_top" and "error_top" (the values of the last color), "quality" (its name).

    Raises:
        ValueError: If the values of a panel are not finite.
    """
    panels = findings.front_panels or [FrontPanel(trial) for trial in findings.result.front]
    panels = sorted(panels, key=lambda panel: panel.trial.latency_ratio or 0.0)
    if len(panels) < 2:
        return None
    at = [
        (float(panel.trial.latency_ratio or 0.0), float(panel.trial.quality or 0.0))
        for panel in panels
    ]
    if not np.isfinite(at).all():
        raise ValueError(
            "`front_panels` must have a finite latency ratio and quality each. Received: "
            f"{[point for point in at if not np.isfinite(point).all()]}"
        )
    tops = {key: _top(panels, key) for key in ("image", "error")}
    axes, budget = _axes(at), findings.result.budget
    if budget.kind == "fraction" and axes["x"][0] < budget.limit < axes["x"][1]:
        axes["budget"] = _place(axes["x"], axes["y"], budget.limit, axes["y"][0])[0]
    stops = [_stop(findings, panel, tops) for panel in panels]
    for stop, (ratio, quality) in zip(stops, at, strict=True):
        stop["x"], stop["y"] = _place(axes["x"], axes["y"], ratio, quality)
    slowest = (findings.taken and findings.taken.latency_ratio) or 0.0
    return {
        "stops": stops,
        "first": max((i for i, (ratio, _) in enumerate(at) if ratio <= slowest), default=0),
        "axes": axes,
        "image_top": tops["image"],
        "error_top": tops["error"],
        "image_colors": _colors("gray") if tops["image"] is not None else None,
        "error_colors": _colors("magma") if tops["error"] is not None else None,
        "quality": findings.result.quality_name,
        "width": WIDTH,
        "height": HEIGHT,
    }


def _stop(
    findings: SearchFindings, panel: FrontPanel, tops: Mapping[str, float | None]
) -> dict[str, Any]:
    trial, time = panel.trial, panel.trial.timing
    assert time is not None  # it is on the front
    shown: dict[str, str | None] = {}
    for key, colors in (("image", "gray"), ("error", "magma")):
        array = getattr(panel, key)
        top = tops[key] or 1.0
        shown[key] = None if array is None else data_uri(picture(array, colors=colors, top=top))
    rows = [
        ("median latency / full (95 % interval)", ratio_words(trial)),
        ("median latency", f"{time.latency_ms:.3g} ms"),
        (findings.result.quality_name, f"{trial.quality:.4g}"),
        ("keeps", findings.changes(trial)),
    ]
    label = f"trial {trial.number}" + (", chosen" if findings.is_taken(trial) else "")
    return {"label": f"{label}, as pruned" if shown["image"] else label, "rows": rows, **shown}


def _top(panels: Sequence[FrontPanel], key: str) -> float | None:
    """The largest value of all panels: one scale for all, so that they can be compared."""
    arrays = [getattr(panel, key) for panel in panels]
    tops = [float(np.max(array)) for array in arrays if array is not None]
    if not np.isfinite(tops).all():
        raise ValueError(f"`front_panels` must have finite values. Received: {key} with {tops}")
    return (max(tops) or 1.0) if tops else None


def _colors(name: str) -> str:
    return data_uri(picture(np.linspace(0, 1, 256)[None], colors=name, top=1.0))


def _axes(at: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Ticks of the small plot and, per axis, the values at its ends."""
    ends = {}
    for name, values in zip("xy", np.transpose(at), strict=True):
        low, high = float(values.min()), float(values.max())
        margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        ends[name] = (low - margin, high + margin)
    ticks: dict[str, Any] = {**ends, "budget": None}
    ticks["x_ticks"] = [
        (round(_place(ends["x"], ends["y"], value, ends["y"][0])[0], 1), text)
        for value, text in _ticks(*ends["x"])
    ]
    ticks["y_ticks"] = [
        (round(_place(ends["x"], ends["y"], ends["x"][0], value)[1], 1), text)
        for value, text in _ticks(*ends["y"])
    ]
    ticks["box"] = (_LEFT, _TOP, WIDTH - _RIGHT, HEIGHT - _BOTTOM)
    return ticks


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Three to six round values between two ends, and how they are written."""
    rough = (high - low) / 5
    unit = 10.0 ** np.floor(np.log10(rough))
    step = float(next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough))
    decimals = max(0, int(-np.floor(np.log10(step)))) + (step / unit == 2.5)
    first = np.ceil(low / step)
    count = int(np.floor(high / step) - first) + 1
    return [(value, f"{value:.{decimals}f}") for value in (first + np.arange(count)) * step]


def _place(
    x_ends: tuple[float, float], y_ends: tuple[float, float], x: float, y: float
) -> tuple[float, float]:
    across = (x - x_ends[0]) / (x_ends[1] - x_ends[0])
    up = (y - y_ends[0]) / (y_ends[1] - y_ends[0])
    left = _LEFT + across * (WIDTH - _LEFT - _RIGHT)
    top = HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)
    return round(left, 1), round(top, 1)
