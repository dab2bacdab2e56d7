"""Sampling masks for Cartesian MRI, by column."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def equispaced_mask(
    width: int, acceleration: int, acs_lines: int, *, offset: int = 0
) -> np.ndarray:
    """Every `acceleration`-th column plus a fully sampled block in the center.

    The true acceleration, `mask.size / mask.sum()`, is lower than `acceleration`.

    Args:
        width: Number of columns.
        acceleration: Spacing of the sampled columns outside the center.
        acs_lines: Columns of the central (autocalibration) block.
        offset: First sampled column, from 0 to `acceleration - 1`.

    Returns:
        float32 array `(width,)` of zeros and ones.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> equispaced_mask(12, 4, 2).astype(int)
        array([1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0])
    """
    if not 1 <= acceleration <= width:
        raise ValueError(
            f"`acceleration` must be from 1 to the width {width}. "
            f"Received: acceleration={acceleration}"
        )
    if not 0 <= acs_lines <= width:
        raise ValueError(
            f"`acs_lines` must be from 0 to the width {width}. Received: acs_lines={acs_lines}"
        )
    if not 0 <= offset < acceleration:
        raise ValueError(f"`offset` must be in [0, {acceleration}). Received: offset={offset}")
    mask = np.zeros(width, "float32")
    mask[offset::acceleration] = 1
    mask[central_block(width, acs_lines)] = 1
    return mask


def random_mask(width: int, acceleration: float, acs_lines: int, *, seed: int = 0) -> np.ndarray:
    """A central block plus columns drawn evenly at random, as many as the acceleration allows.

    Args:
        width: Number of columns.
        acceleration: Columns over sampled columns, the central block included.
        acs_lines: Columns of the central (autocalibration) block.
        seed: Of the draw.

    Returns:
        float32 array `(width,)` of zeros and ones; `round(width / acceleration)` are ones.

    Raises:
        ValueError: If the central block alone has more columns than that.

    Example:
        >>> mask = random_mask(64, 4, 8)
        >>> float(mask.sum()), true_acceleration(mask)
        (16.0, 4.0)
    """
    return _draw_columns(np.ones(width), acceleration, acs_lines, seed)


def gaussian_mask(
    width: int, acceleration: float, acs_lines: int, *, std: float = 0.2, seed: int = 0
) -> np.ndarray:
    """A central block plus columns drawn at random, densest near the center.

    The weight of the column at k is exp(-(k - center)^2 / (2 (std width)^2)); columns are drawn
    without replacement.

    Args:
        width: Number of columns.
        acceleration: Columns over sampled columns, the central block included.
        acs_lines: Columns of the central (autocalibration) block.
        std: Standard deviation of the density, as a fraction of the width.
        seed: Of the draw.

    Returns:
        float32 array `(width,)` of zeros and ones; `round(width / acceleration)` are ones.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> mask = gaussian_mask(64, 4, 4)
        >>> bool(mask[16:48].sum() > mask.sum() / 2), true_acceleration(mask)
        (True, 4.0)
    """
    if not std > 0:
        raise ValueError(f"`std` must be positive. Received: std={std}")
    # Far columns of a narrow density would underflow, and could then never be drawn.
    exponent = -0.5 * ((np.arange(width) - width // 2) / (std * width)) ** 2
    return _draw_columns(np.exp(np.maximum(exponent, -600)), acceleration, acs_lines, seed)


def true_acceleration(mask: Any) -> float:
    """Returns samples over taken samples: what a mask really saves.

    Args:
        mask: Array of any shape, not 0 where sampled.

    Example:
        >>> round(true_acceleration(equispaced_mask(320, 6, 20)), 2)
        4.57
    """
    mask = np.asarray(mask)
    sampled = np.count_nonzero(mask)
    if not sampled:
        raise ValueError("`mask` must sample something. Received: a mask of zeros")
    return float(mask.size / sampled)


def central_block(size: int, length: int) -> slice:
    """Returns the `length` samples around the zero frequency at `size // 2`."""
    first = (size - length + 1) // 2
    return slice(first, first + length)


def seed_from_name(name: str, seed: int = 0) -> int:
    """Returns a seed that is the same for the same name, on every machine.

    Args:
        name: Such as the name of a volume's file.
        seed: Gives other seeds for the same names.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def sample_count(size: int, acceleration: float, central: int) -> int:
    """Returns how many samples there are to take, the central ones included.

    Args:
        size: Samples of the full grid.
        acceleration: Samples over taken samples.
        central: Samples of the central block.

    Raises:
        ValueError: If there are fewer than the central ones, or an argument is out of its range.
    """
    if not 1 <= acceleration <= size:
        raise ValueError(
            f"`acceleration` must be from 1 to the number of samples, {size}. "
            f"Received: acceleration={acceleration}"
        )
    count = round(size / acceleration)
    if not 0 <= central <= count:
        raise ValueError(
            f"`acs_lines` must give at most the {count} samples that the acceleration allows; "
            f"lower one of the two. Received: {central} central samples, "
            f"acceleration={acceleration}"
        )
    return count


def _draw_columns(
    weights: np.ndarray, acceleration: float, acs_lines: int, seed: int
) -> np.ndarray:
    width = len(weights)
    count = sample_count(width, acceleration, acs_lines)
    mask = np.zeros(width, "float32")
    mask[central_block(width, acs_lines)] = 1
    outside = np.flatnonzero(mask == 0)
    density = weights[outside] / weights[outside].sum() if len(outside) else None
    rng = np.random.default_rng(seed)
    mask[rng.choice(outside, count - acs_lines, replace=False, p=density)] = 1
    return mask
