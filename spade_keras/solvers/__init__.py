"""Iterative solvers for linear systems, eigenvalues and fixed points."""

from spade_keras.solvers.conjugate_gradient import conjugate_gradient
from spade_keras.solvers.fixed_point import anderson, picard
from spade_keras.solvers.power_iteration import contraction_factor, power_iteration
from spade_keras.solvers.samples import Solution

__all__ = [
    "Solution",
    "anderson",
    "conjugate_gradient",
    "contraction_factor",
    "picard",
    "power_iteration",
]
