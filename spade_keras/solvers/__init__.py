"""Iterative solvers for linear systems, eigenvalues and fixed points."""

from spade_keras.solvers.power_iteration import power_iteration

__all__ = ["power_iteration"]
