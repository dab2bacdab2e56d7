"""How well equilibria were solved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class EquilibriumReport:
    """What the solver of a deep equilibrium network reached, one number per sample.

    Attributes:
        residual: ||T(x) - x|| / ||T(x)|| of the solution.
        iterations: Evaluations of T until the sample stopped.
        contraction: Spectral radius of the Jacobian of T at the solution: the factor by which one
            more application shrinks an error. At 1 or above the equilibrium does not attract, and
            neither implicit nor truncated gradients can be trusted.
        converged: Whether the residual met the tolerance.
        finite: Whether the solver met numbers only.
        tolerance: What the residual had to meet.
        max_iterations: Evaluations of T that were allowed.
    """

    residual: tuple[float, ...]
    iterations: tuple[int, ...]
    contraction: tuple[float, ...]
    converged: tuple[bool, ...]
    finite: tuple[bool, ...]
    tolerance: float
    max_iterations: int

    @property
    def diverged(self) -> tuple[bool, ...]:
        """Per sample, whether the solver lost the numbers, or stopped unsolved and repelled."""
        rows = zip(self.finite, self.converged, self.contraction, strict=True)
        return tuple(not finite or (not done and not rate < 1) for finite, done, rate in rows)

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as plain JSON values."""
        fields = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    def __str__(self) -> str:
        """Says it in one line."""
        return (
            f"{sum(self.converged)} of {len(self.converged)} samples met {self.tolerance:g}, "
            f"{np.median(self.iterations):g} iterations (median; at most {max(self.iterations)}), "
            f"residual at most {max(self.residual):.2g}, contraction at most "
            f"{max(self.contraction):.3g}, {sum(self.diverged)} diverged"
        )
