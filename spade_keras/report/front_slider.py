"""The slider along the front: what it shows at each of its stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from spade_keras.report.page import data_uri, picture
from spade_keras.report.search_summary import (
    Scale,
    SearchFindings,
    Trial,
    changes,
    front,
    ratio_words,
)

WIDTH, HEIGHT = 360, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 44


def slider(findings: SearchFindings) -> dict[str, Any] | None:
    """Returns what the slider shows, or None if the front has fewer than two points.

    Args:
        findings: The search. With `front_panels`, one stop for each of them; without, one for
            each trial on the front, in numbers alone.

    Returns:
        "stops" (dicts with "label", "rows" of name and value, "image" and "error" as addresses of
        images or None, "x" and "y" in the small plot), "first" (the stop to begin with), "axes"
        (ticks), "image_top" and "error_top" (the values of the last color), "quality" (its name).

    Raises:
        ValueError: If a panel lacks an entry, or its values are not finite.
    """
    panels = sorted(findings.front_panels, key=lambda panel: float(panel["latency_ratio"]))
    taken = findings.taken
    quality_name = str(findings.result["quality_name"])
    if panels:
        stops = [_panel_stop(panel, quality_name) for panel in panels]
        at = [(float(panel["latency_ratio"]), float(panel["quality"])) for panel in panels]
        tops = {key: _top(panels, key) for key in ("image", "error")}
        for stop, panel in zip(stops, panels, strict=True):
            stop |= _pictures(panel, tops)
    else:
        trials = front(findings.trials)
        stops = [_trial_stop(findings, trial, quality_name) for trial in trials]
        at = [(trial["latency_ratio"], trial["quality"]) for trial in trials]
        tops = {"image": None, "error": None}
    if len(stops) < 2:
        return None
    if not np.isfinite(at).all():
        raise ValueError(
            "`front_panels` must have a finite latency ratio and quality each. Received: "
            f"{[point for point in at if not np.isfinite(point).all()]}"
        )
    axes = _axes(at)
    scale = Scale.of(findings.result["budget"])
    if scale.value == "latency_ratio" and axes["x"][0] < scale.limit < axes["x"][1]:
        axes["budget"] = _place(axes["x"], axes["y"], scale.limit, axes["y"][0])[0]
    for stop, (ratio, quality) in zip(stops, at, strict=True):
        stop["x"], stop["y"] = _place(axes["x"], axes["y"], ratio, quality)
    reached = [i for i, (ratio, _) in enumerate(at) if taken and ratio <= taken["latency_ratio"]]
    return {
        "stops": stops,
        "first": max(reached, default=0),
        "axes": axes,
        "image_top": tops["image"],
        "error_top": tops["error"],
        "image_colors": _colors("gray") if tops["image"] is not None else None,
        "error_colors": _colors("magma") if tops["error"] is not None else None,
        "quality": quality_name,
        "width": WIDTH,
        "height": HEIGHT,
    }


def _panel_stop(panel: Mapping[str, Any], quality_name: str) -> dict[str, Any]:
    return {
        "label": str(panel["label"]),
        "rows": [
            ("median latency / full", f"{float(panel['latency_ratio']):.3f}"),
            (quality_name, f"{float(panel['quality']):.4g}"),
        ],
    }


def _trial_stop(findings: SearchFindings, trial: Trial, quality_name: str) -> dict[str, Any]:
    rows = [
        ("median latency / full (95 % interval)", ratio_words(trial)),
        ("median latency", f"{trial['latency_ms']:.3g} ms"),
        (quality_name, f"{trial['quality']:.4g}"),
        ("keeps", changes(findings, trial)),
    ]
    taken = findings.taken
    chosen = ", chosen" if taken is not None and trial["number"] == taken["number"] else ""
    label = f"trial {trial['number']}{chosen}"
    return {"label": label, "rows": rows, "image": None, "error": None}


def _pictures(panel: Mapping[str, Any], tops: Mapping[str, float | None]) -> dict[str, Any]:
    shown: dict[str, str | None] = {}
    for key, colors in (("image", "gray"), ("error", "magma")):
        array, top = panel.get(key), tops[key]
        shown[key] = (
            None
            if array is None or top is None
            else data_uri(picture(array, colors=colors, top=top))
        )
    return shown


def _top(panels: Sequence[Mapping[str, Any]], key: str) -> float | None:
    """The largest value of all panels: one scale for all, so that they can be compared."""
    tops = [float(np.max(panel[key])) for panel in panels if panel.get(key) is not None]
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
