"""Fourier transforms of PyTorch tensors."""

from __future__ import annotations

from typing import Any

import torch


def to_complex(x: Any) -> Any:
    """Views a contiguous tensor as complex, without a copy."""
    return torch.view_as_complex(x.contiguous())


def to_real(z: Any) -> Any:
    """Views a complex tensor as real, without a copy."""
    return torch.view_as_real(z.resolve_conj())


def conjugate(z: Any) -> Any:
    """Marks a tensor as conjugated; `keras.ops.conj` copies it."""
    return torch.conj(z)


def fft(z: Any, axes: int, inverse: bool) -> Any:
    """Transforms the last one or two axes."""
    transform = torch.fft.ifftn if inverse else torch.fft.fftn
    return transform(z, dim=tuple(range(-axes, 0)))
