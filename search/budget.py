"""What the slim network may cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LatencyBudget:
    """Latency as a fraction of the full network's, both measured on the device in use.

    Args:
        fraction: The budget proper, 0 < fraction < 1.
        safety_margin: Share of the budget left unused by the search, 0 <= margin < 1, so that the
            network found still meets the budget when it is measured again.

    Raises:
        ValueError: If one is out of its range.

    Example:
        >>> LatencyBudget(fraction=0.5, safety_margin=0.1).target
        0.45
    """

    fraction: float
    safety_margin: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise ValueError(
                "`fraction` must be above 0 and below 1: the share of the full network's latency. "
                f"Received: fraction={self.fraction}"
            )
        if not 0 <= self.safety_margin < 1:
            raise ValueError(
                "`safety_margin` must be at least 0 and below 1. "
                f"Received: safety_margin={self.safety_margin}"
            )

    @property
    def target(self) -> float:
        """The fraction that the search aims at."""
        return self.fraction * (1 - self.safety_margin)
