"""Staircases of time over width, of which only the right edges are worth choosing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spade_keras.typing import Record

RESOLUTION = 0.03
"""Relative difference of two times below which they count as equal."""


@dataclass(frozen=True)
class Staircase(Record):
    """Times at ascending widths, the last one the full width; `edges` as in `right_edges`."""

    widths: tuple[int, ...]
    latency_ms: tuple[float, ...]
    edges: tuple[int, ...]
    resolution: float = RESOLUTION

    @classmethod
    def of(
        cls, widths: Sequence[int], latency_ms: Sequence[float], *, resolution: float = RESOLUTION
    ) -> Staircase:
        """Finds the edges of measured times; see `right_edges`."""
        times = _times_by_width(widths, latency_ms, resolution)
        edges = right_edges(widths, latency_ms, resolution=resolution)
        return cls(tuple(times), tuple(times.values()), edges, resolution)

    def free_widening(self, width: int) -> int:
        """Returns the widest width that costs no more time than `width`, within the resolution."""
        times = dict(zip(self.widths, self.latency_ms, strict=True))
        if width not in times:
            raise ValueError(
                f"`width` must be one of the widths measured: {list(self.widths)}. "
                f"Received: width={width}"
            )
        return max(
            wider
            for wider in self.widths
            if wider >= width and not _is_faster(times[width], times[wider], self.resolution)
        )


def right_edges(
    widths: Sequence[int], latency_ms: Sequence[float], *, resolution: float = RESOLUTION
) -> tuple[int, ...]:
    """Returns the widths worth choosing: those from which on any wider one is slower.

    From the full width down, the next edge is the largest width whose time is at most
    (1 - `resolution`) times that of the edge before. Plateaus leave their widest width, cliffs (a
    narrower width that is slower) leave nothing, and a smooth line leaves steps of `resolution`.

    The widths come in any order, the largest is the full width; edges are ascending.

    Example:
        >>> right_edges([32, 36, 40, 48, 63, 64], [2.0, 3.0, 3.0, 4.9, 6.0, 5.0])
        (32, 40, 64)
    """
    times = _times_by_width(widths, latency_ms, resolution)
    descending = sorted(times, reverse=True)
    edges = descending[:1]
    for width in descending[1:]:
        if _is_faster(times[width], times[edges[-1]], resolution):
            edges.append(width)
    return tuple(reversed(edges))


def _is_faster(time: float, other: float, resolution: float) -> bool:
    return time <= (1 - resolution) * other and time < other


def _times_by_width(
    widths: Sequence[int], latency_ms: Sequence[float], resolution: float
) -> dict[int, float]:
    if not widths or len(set(widths)) != len(widths) or len(widths) != len(latency_ms):
        raise ValueError(
            "`widths` must be distinct, at least one, and `latency_ms` as long. "
            f"Received: widths={list(widths)}, latency_ms={list(latency_ms)}"
        )
    if not all(math.isfinite(time) and time > 0 for time in latency_ms):
        raise ValueError(
            f"Times must be finite and above 0. Received: latency_ms={list(latency_ms)}"
        )
    if not 0 <= resolution < 1:
        raise ValueError(f"`resolution` must be in [0, 1). Received: resolution={resolution}")
    pairs = zip(widths, latency_ms, strict=True)
    return {int(width): float(time) for width, time in sorted(pairs)}
