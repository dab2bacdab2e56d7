"""Linear forward models as Keras layers without weights."""

from spade_keras.operators.adjoint_test import AdjointReport, adjoint_test
from spade_keras.operators.blur import Blur
from spade_keras.operators.cartesian_mri import CartesianMRI, SingleCoilMRI
from spade_keras.operators.composition import Composition, Scaling, Stacking
from spade_keras.operators.downsampling import Downsampling
from spade_keras.operators.equivariance import TRANSFORMS, commutator
from spade_keras.operators.fourier import FFT_CONVENTIONS, FFTConvention
from spade_keras.operators.linear_operator import LinearOperator, check_operator
from spade_keras.operators.pointwise import Denoising, Inpainting
from spade_keras.registry import OPERATORS

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
    "check_operator",
    "commutator",
]
