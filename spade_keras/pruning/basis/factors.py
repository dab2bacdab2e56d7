"""Kernels as matrices, one per group, and their thin singular value decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
DECOMPOSABLE = (*CONVOLUTIONS, *TRANSPOSED, keras.layers.Dense)

# Smaller singular values are rounding errors of a kernel stored in single precision.
_ROUNDING = 1e-7

# From this size on, the few largest triples are found by Lanczos iteration, not by all of them.
_LARGE = 512


@dataclass(frozen=True)
class Factors:
    """`W = U diag(sigma) V^T` per group, the largest singular values first.

    Args:
        left: `U`, shape `(groups, rows, rank)`.
        values: `sigma`, shape `(groups, rank)`.
        right: `V^T`, shape `(groups, rank, columns)`.
    """

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    @property
    def rank(self) -> int:
        """Components per group."""
        return self.values.shape[1]


def to_matrix(layer: Any, kernel: np.ndarray) -> np.ndarray:
    """The kernel of a layer as `(groups, rows, columns)`: columns are output channels.

        rows = kernel size * input channels per group

    Args:
        layer: A convolution, transposed convolution or dense layer.
        kernel: An array of the kernel's rank.
    """
    if isinstance(layer, TRANSPOSED):
        kernel = np.swapaxes(kernel, -1, -2)
    groups = getattr(layer, "groups", 1)
    matrix = kernel.reshape(-1, groups, kernel.shape[-1] // groups)
    return matrix.transpose(1, 0, 2)


def to_kernel(layer: Any, matrix: np.ndarray) -> np.ndarray:
    """The kernel of a layer from its matrix, which may have fewer or more columns.

    Args:
        layer: The layer that gives the kernel's other sizes.
        matrix: Shape `(groups, rows, columns)`.
    """
    groups, rows, columns = matrix.shape
    flat = matrix.transpose(1, 0, 2).reshape(rows, groups * columns)
    if isinstance(layer, keras.layers.Dense):
        return flat
    size = tuple(layer.kernel_size)
    kernel = flat.reshape(*size, rows // int(np.prod(size)), groups * columns)
    return np.swapaxes(kernel, -1, -2) if isinstance(layer, TRANSPOSED) else kernel


def factorize(matrix: np.ndarray, rank: int) -> Factors:
    """The first `rank` singular triples of every group.

    Args:
        matrix: Shape `(groups, rows, columns)`.
        rank: At most the smaller of rows and columns.
    """
    matrix = matrix.astype(np.float64)
    smaller = min(matrix.shape[1:])
    if smaller >= _LARGE and rank <= smaller // 4:
        triples = [_largest_triples(block, rank) for block in matrix]
        left, values, right = (np.stack(parts) for parts in zip(*triples, strict=True))
    else:
        left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return Factors(left[:, :, :rank], values[:, :rank], right[:, :rank])


def without_rounding(factors: Factors) -> Factors:
    """The factors without components that are zero but for rounding in every group.

    Args:
        factors: The factors; at least one component stays.
    """
    largest = factors.values.max(axis=0)
    rank = max(1, int((largest > _ROUNDING * largest[0]).sum()))
    return Factors(factors.left[:, :, :rank], factors.values[:, :rank], factors.right[:, :rank])


def _largest_triples(block: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from scipy.sparse.linalg import svds

    # The start vector is fixed, so that the same kernel always gives the same factors.
    start = np.random.default_rng(0).normal(size=min(block.shape))
    left, values, right = svds(block, k=rank, v0=start)
    order = np.argsort(values)[::-1]
    return left[:, order], values[order], right[order]
