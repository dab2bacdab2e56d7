"""Sampling masks for Cartesian MRI."""

from __future__ import annotations

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
    first = (width - acs_lines + 1) // 2
    mask[first : first + acs_lines] = 1
    return mask
