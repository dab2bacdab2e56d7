"""What a solver found for every sample of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Solution:
    """The result of an iterative solver, sample by sample.

    Every field but `x` is a tensor of shape `(batch,)`.

    Attributes:
        x: The solution, of the shape of the start.
        residual: Relative residual of `x`; infinite where not even the start could be evaluated.
        iterations: Iterations the sample took before it stopped.
        converged: Whether the residual met the tolerance.
        finite: Whether all values that the iteration met were numbers. A sample that runs into
            infinity or NaN stops there, and `x` is the best that came before.
        contraction: For fixed points, the largest ||T(a) - T(b)|| / ||a - b|| of successive
            iterates a and b: a lower bound of the Lipschitz constant of T near the path. At 1 or
            above, the fixed point need neither exist nor attract. Zero before a second iterate.
            None for linear systems.
    """

    x: Any
    residual: Any
    iterations: Any
    converged: Any
    finite: Any
    contraction: Any = None
