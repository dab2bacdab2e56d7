"""Checks of the per-layer widths that every prior takes."""

from __future__ import annotations

from collections.abc import Sequence


def check_filters(filters: Sequence[int]) -> tuple[int, ...]:
    """Returns the widths; raises a ValueError unless there are some, all positive integers."""
    widths = tuple(filters)
    if not widths or not _positive(widths):
        raise ValueError(
            "`filters` must hold at least one width, each a positive integer, such as [32, 32]. "
            f"Received: filters={filters}"
        )
    return widths


def check_level_filters(
    filters: Sequence[int | Sequence[int]], per_level: int, last: int
) -> list[tuple[int, ...]]:
    """Returns the widths of the convolutions of every level of a U-shaped prior.

    `filters` has one entry per level: a width for all its convolutions, or `per_level` of them, in
    the last level `last`. Anything else, or a width below 1, raises a ValueError.
    """
    counts = [per_level] * (len(filters) - 1) + [last]
    levels = [
        tuple(entry) if isinstance(entry, Sequence) else (entry,) * count
        for entry, count in zip(filters, counts, strict=False)
    ]
    sizes = [len(widths) for widths in levels]
    if sizes != counts or not all(_positive(widths) for widths in levels):
        raise ValueError(
            "`filters` must hold one entry per level, at least one, each a positive integer, such "
            f"as [16, 32, 64], or a list of {per_level} of them, in the last level of {last}. "
            f"Received: filters={filters}"
        )
    return levels


def _positive(widths: Sequence[int]) -> bool:
    return all(type(width) is int and width >= 1 for width in widths)
