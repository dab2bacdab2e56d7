"""Check of the per-layer widths that every prior takes."""

from __future__ import annotations

from collections.abc import Sequence


def check_filters(filters: Sequence[int]) -> tuple[int, ...]:
    """Returns the widths as a tuple.

    Raises:
        ValueError: If there is none or one is not a positive integer.
    """
    widths = tuple(filters)
    if not widths or any(isinstance(w, bool) or not isinstance(w, int) or w < 1 for w in widths):
        raise ValueError(
            "`filters` must hold at least one width, each a positive integer, such as [32, 32]. "
            f"Received: filters={filters}"
        )
    return widths
