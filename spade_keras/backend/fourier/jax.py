"""Fourier transforms of JAX arrays."""

from __future__ import annotations

from typing import Any

import jax
from jax import numpy as jnp


def to_complex(x: Any) -> Any:
    """Joins both parts; fused into what follows when compiled."""
    return jax.lax.complex(x[..., 0], x[..., 1])


def to_real(z: Any) -> Any:
    """Stacks both parts."""
    return jnp.stack([z.real, z.imag], axis=-1)


def conjugate(z: Any) -> Any:
    """Conjugates; fused into what follows when compiled."""
    return jnp.conj(z)


def fft(z: Any, axes: int, inverse: bool) -> Any:
    """Transforms the last one or two axes."""
    transform = jnp.fft.ifftn if inverse else jnp.fft.fftn
    return transform(z, axes=tuple(range(-axes, 0)))
