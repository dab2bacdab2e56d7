"""Sampling masks by name, each with one signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from spade_keras.data.masks import equispaced_mask, gaussian_mask, random_mask
from spade_keras.data.poisson_disc import poisson_disc_mask

MaskFunction = Callable[..., np.ndarray]
"""Called as `mask(shape, seed=...)` with a shape `(height, width)`; returns `(1 or height, width)`.

A mask of one row samples whole columns.
"""


def equispaced(
    shape: tuple[int, int], *, acceleration: int, acs_lines: int, seed: int = 0
) -> np.ndarray:
    """`equispaced_mask` whose first column is drawn by the seed."""
    offset = int(np.random.default_rng(seed).integers(max(acceleration, 1)))
    return equispaced_mask(shape[1], acceleration, acs_lines, offset=offset)[None]


def random(
    shape: tuple[int, int], *, acceleration: float, acs_lines: int, seed: int = 0
) -> np.ndarray:
    """`random_mask` as a row."""
    return random_mask(shape[1], acceleration, acs_lines, seed=seed)[None]


def gaussian(
    shape: tuple[int, int],
    *,
    acceleration: float,
    acs_lines: int,
    std: float = 0.2,
    seed: int = 0,
) -> np.ndarray:
    """`gaussian_mask` as a row."""
    return gaussian_mask(shape[1], acceleration, acs_lines, std=std, seed=seed)[None]


def poisson_disc(
    shape: tuple[int, int],
    *,
    acceleration: float,
    acs_lines: int,
    slope: float = 2.0,
    seed: int = 0,
) -> np.ndarray:
    """`poisson_disc_mask`."""
    return poisson_disc_mask(shape, acceleration, acs_lines, slope=slope, seed=seed)


MASKS: dict[str, MaskFunction] = {
    "equispaced": equispaced,
    "gaussian": gaussian,
    "poisson_disc": poisson_disc,
    "random": random,
}
"""Masks by name: `MASKS[name](shape, acceleration=..., acs_lines=..., seed=...)`."""


def get_mask(name: str, **settings: Any) -> MaskFunction:
    """Returns a mask function with its settings, to be called with a shape and a seed.

    Args:
        name: A key of `MASKS`.
        **settings: `acceleration`, `acs_lines` and what else that mask takes.

    Raises:
        ValueError: If there is no such mask, or it does not take a setting.

    Example:
        >>> mask = get_mask("equispaced", acceleration=4, acs_lines=4)
        >>> mask((24, 16), seed=7).shape
        (1, 16)
    """
    if name not in MASKS:
        raise ValueError(f"`name` must be one of {sorted(MASKS)}. Received: name={name!r}")
    known = [p for p in inspect.signature(MASKS[name]).parameters if p not in ("shape", "seed")]
    unknown = sorted(set(settings) - set(known))
    missing = sorted({"acceleration", "acs_lines"} - set(settings))
    if unknown or missing:
        raise ValueError(
            f"The mask {name!r} takes {known} and needs acceleration and acs_lines. "
            f"Received: {settings}"
        )
    return partial(MASKS[name], **settings)
