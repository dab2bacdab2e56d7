"""Linear forward models as Keras layers without weights."""

from spade_keras.operators.adjoint_test import AdjointReport, adjoint_test
from spade_keras.operators.cartesian_mri import CartesianMRI
from spade_keras.operators.linear_operator import LinearOperator

__all__ = ["AdjointReport", "CartesianMRI", "LinearOperator", "adjoint_test"]
