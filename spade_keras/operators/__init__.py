"""Linear forward models as Keras layers without weights."""

from __future__ import annotations

from typing import Any

from spade_keras.operators.adjoint_test import AdjointReport, adjoint_test
from spade_keras.operators.blur import Blur
from spade_keras.operators.cartesian_mri import CartesianMRI
from spade_keras.operators.composition import Composition
from spade_keras.operators.denoising import Denoising
from spade_keras.operators.downsampling import Downsampling
from spade_keras.operators.equivariance import commutator
from spade_keras.operators.fourier import FFT_CONVENTIONS, FFTConvention
from spade_keras.operators.inpainting import Inpainting
from spade_keras.operators.linear_operator import LinearOperator
from spade_keras.operators.scaling import Scaling
from spade_keras.operators.single_coil_mri import SingleCoilMRI
from spade_keras.operators.stacking import Stacking
from spade_keras.operators.transforms import TRANSFORMS

OPERATORS: dict[str, type[LinearOperator]] = {
    "cartesian_mri": CartesianMRI,
    "single_coil_mri": SingleCoilMRI,
    "blur": Blur,
    "downsampling": Downsampling,
    "inpainting": Inpainting,
    "denoising": Denoising,
    "composition": Composition,
    "stacking": Stacking,
    "scaling": Scaling,
}

__all__ = [
    "FFT_CONVENTIONS",
    "OPERATORS",
    "TRANSFORMS",
    "AdjointReport",
    "Blur",
    "CartesianMRI",
    "Composition",
    "Denoising",
    "Downsampling",
    "FFTConvention",
    "Inpainting",
    "LinearOperator",
    "Scaling",
    "SingleCoilMRI",
    "Stacking",
    "adjoint_test",
    "commutator",
    "get",
    "register",
]


def get(name: str, **kwargs: Any) -> LinearOperator:
    """Makes the operator of that name.

    Args:
        name: A key of `OPERATORS`.
        **kwargs: Its arguments.

    Returns:
        The operator.

    Raises:
        ValueError: If there is no operator of that name.

    Example:
        >>> get("downsampling", scale=3).scale
        3
    """
    if name not in OPERATORS:
        raise ValueError(
            f"Unknown operator. Known ones: {sorted(OPERATORS)}. Received: name={name!r}"
        )
    return OPERATORS[name](**kwargs)


def register(name: str, operator: type[LinearOperator]) -> None:
    """Adds a class of operators, to be made by name.

    Args:
        name: Its key in `OPERATORS`.
        operator: A subclass of `LinearOperator`.

    Raises:
        ValueError: If the name is taken or the class is no operator.
    """
    if name in OPERATORS:
        raise ValueError(f"An operator of that name exists. Received: name={name!r}")
    if not (isinstance(operator, type) and issubclass(operator, LinearOperator)):
        raise ValueError(
            f"`operator` must be a subclass of LinearOperator. Received: operator={operator}"
        )
    OPERATORS[name] = operator
