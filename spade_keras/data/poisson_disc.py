"""Poisson-disc sampling masks for Cartesian MRI with two phase-encoded directions."""

from __future__ import annotations

import numpy as np

from spade_keras.data.masks import central_block, sample_count

_BISECTIONS = 14


def poisson_disc_mask(
    shape: tuple[int, int],
    acceleration: float,
    acs_lines: int,
    *,
    slope: float = 2.0,
    seed: int = 0,
) -> np.ndarray:
    """Samples that keep a distance from each other which grows outward, and a central block.

    The disc around a sample at k, with c the center and h, w the sizes, has the radius

        r(k) = r_0 (1 + slope d(k)),   d(k)^2 = ((k_y - c_y) / h)^2 + ((k_x - c_x) / w)^2

    and no sample drawn later lies inside. Points are tried in random order until no place is left
    (dart throwing); r_0 is found by bisection such that just enough samples fit, and what is
    too many is taken away at random.

    Args:
        shape: `(height, width)`.
        acceleration: Points over samples, the central block included.
        acs_lines: Side of the central (autocalibration) square.
        slope: Growth of the distance toward the edge; 0 samples evenly.
        seed: Of the draw.

    Returns:
        float32 array `(height, width)` of zeros and ones; `round(height width / acceleration)` are
        ones.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> mask = poisson_disc_mask((32, 32), 4, 8)
        >>> mask.shape, float(mask.sum())
        ((32, 32), 256.0)

    Reference:
        Bridson, "Fast Poisson disk sampling in arbitrary dimensions", 2007, for the distribution.
    """
    height, width = shape
    if not 0 <= acs_lines <= min(shape):
        raise ValueError(
            f"`acs_lines` must be from 0 to {min(shape)}. Received: acs_lines={acs_lines}"
        )
    if slope < 0:
        raise ValueError(f"`slope` must be at least 0. Received: slope={slope}")
    count = sample_count(height * width, acceleration, acs_lines**2) - acs_lines**2
    rng = np.random.default_rng(seed)
    order = rng.permutation(height * width)
    y, x = np.divmod(np.arange(height * width), width)
    distance = np.hypot((y - height // 2) / height, (x - width // 2) / width)
    growth = 1 + slope * distance
    central = np.zeros(shape, bool)
    central[central_block(height, acs_lines), central_block(width, acs_lines)] = True

    # A radius of 1 leaves every point, so the lower end always gives enough samples.
    low, high = 0.5 / growth.max(), 2.0 * np.sqrt(acceleration)
    samples = _throw_darts(order, low * growth, central)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tried = _throw_darts(order, middle * growth, central)
        if len(tried) < count:
            high = middle
        else:
            low, samples = middle, tried
        if len(samples) == count:
            break
    mask = central.astype("float32")
    mask.flat[rng.permutation(samples)[:count]] = 1
    return mask


def _throw_darts(order: np.ndarray, radius: np.ndarray, central: np.ndarray) -> np.ndarray:
    """Points, in the given order, that lie in no earlier disc and not in the central block."""
    height, width = central.shape
    reach = int(np.ceil(radius.max()))
    offsets = np.arange(-reach, reach + 1)
    squared = offsets[:, None] ** 2 + offsets**2
    # The margin spares every disc a test of whether it leaves the grid.
    blocked = np.zeros((height + 2 * reach, width + 2 * reach), bool)
    blocked[reach : reach + height, reach : reach + width] = central
    samples = []
    for point, r in zip(order.tolist(), radius[order].tolist(), strict=True):
        y, x = divmod(point, width)
        if blocked[y + reach, x + reach]:
            continue
        samples.append(point)
        blocked[y : y + 2 * reach + 1, x : x + 2 * reach + 1] |= squared < r * r
    return np.asarray(samples, int)
