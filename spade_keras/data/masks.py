"""Sampling masks for Cartesian MRI, all with one signature: `MASKS` names them."""

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from spade_keras.errors import require
from spade_keras.registry import MASKS

MaskFunction = Callable[..., np.ndarray]
"""Called as `mask(shape, seed=...)` with a shape `(height, width)`; returns `(1 or height, width)`.

A mask of one row samples whole columns.
"""

_BISECTIONS = 14


def get_mask(name: str, **settings: Any) -> MaskFunction:
    """Returns a mask of `MASKS` with its settings, to be called with a shape and a seed.

    `settings` are `acceleration`, `acs_lines` and the mask's own arguments.

    Example:
        >>> mask = get_mask("equispaced", acceleration=4, acs_lines=4)
        >>> mask((24, 16), seed=7).shape
        (1, 16)
    """
    function = MASKS[name]
    known = [p for p in inspect.signature(function).parameters if p not in ("shape", "seed")]
    rule = f"The mask {name!r} takes {known} and needs acceleration and acs_lines."
    require({"acceleration", "acs_lines"} <= set(settings) <= set(known), rule, **settings)
    return partial(function, **settings)


def equispaced(
    shape: tuple[int, int],
    *,
    acceleration: int,
    acs_lines: int,
    seed: int = 0,
    offset: int | None = None,
) -> np.ndarray:
    """Every `acceleration`-th column plus a fully sampled block of `acs_lines` in the center.

    The true acceleration, `mask.size / mask.sum()`, is lower than `acceleration`. The first sampled
    column, from 0 to `acceleration - 1`, is the `offset`, by default drawn by the seed. Returns a
    float32 array `(1, width)` of zeros and ones.

    Example:
        >>> equispaced((8, 12), acceleration=4, acs_lines=2, offset=0).astype(int)
        array([[1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0]])
    """
    width = shape[1]
    rule = f"`acceleration` must be from 1 to the width {width}."
    require(1 <= acceleration <= width, rule, acceleration=acceleration)
    rule = f"`acs_lines` must be from 0 to the width {width}."
    require(0 <= acs_lines <= width, rule, acs_lines=acs_lines)
    first = np.random.default_rng(seed).integers(acceleration) if offset is None else offset
    rule = f"`offset` must be in [0, {acceleration})."
    require(0 <= first < acceleration, rule, offset=offset)
    mask = np.zeros((1, width), "float32")
    mask[:, first::acceleration] = 1
    mask[:, central_block(width, acs_lines)] = 1
    return mask


def random(
    shape: tuple[int, int], *, acceleration: float, acs_lines: int, seed: int = 0
) -> np.ndarray:
    """A central block of `acs_lines` plus columns drawn uniformly at random.

    Returns a float32 array `(1, width)`; `round(width / acceleration)` are ones.

    Example:
        >>> true_acceleration(random((64, 64), acceleration=4, acs_lines=8))
        4.0
    """
    return _draw_columns(np.ones(shape[1]), acceleration, acs_lines, seed)


def gaussian(
    shape: tuple[int, int],
    *,
    acceleration: float,
    acs_lines: int,
    seed: int = 0,
    std: float = 0.2,
) -> np.ndarray:
    """A central block plus columns drawn at random, densest near the center.

    The weight of the column at k is exp(-(k - center)^2 / (2 (std width)^2)); columns are drawn
    without replacement, as many as in `random`. `std` is a fraction of the width.

    Example:
        >>> mask = gaussian((64, 64), acceleration=4, acs_lines=4)
        >>> bool(mask[:, 16:48].sum() > mask.sum() / 2), true_acceleration(mask)
        (True, 4.0)
    """
    require(std > 0, "`std` must be positive.", std=std)
    width = shape[1]
    # Far columns of a narrow density would underflow, and could then never be drawn.
    exponent = -0.5 * ((np.arange(width) - width // 2) / (std * width)) ** 2
    return _draw_columns(np.exp(np.maximum(exponent, -600)), acceleration, acs_lines, seed)


def poisson_disc(
    shape: tuple[int, int],
    *,
    acceleration: float,
    acs_lines: int,
    seed: int = 0,
    slope: float = 2.0,
) -> np.ndarray:
    """Points that keep a distance from each other which grows outward, and a central square.

    The disc around a sample at k, with c the center and h, w the sizes, has the radius

        r(k) = r_0 (1 + slope d(k)),   d(k)^2 = ((k_y - c_y) / h)^2 + ((k_x - c_x) / w)^2

    and no later sample lies inside; a slope of 0 samples evenly. Points are tried in random order
    until none fits (dart throwing); r_0 is found by bisection so that just enough samples fit, and
    the excess is removed at random. `acs_lines` is the side of the square. Returns a float32 array
    `(height, width)`, of which exactly `round(height width / acceleration)` are ones.

    Example:
        >>> mask = poisson_disc((32, 32), acceleration=4, acs_lines=8)
        >>> mask.shape, float(mask.sum())
        ((32, 32), 256.0)

    Reference:
        Bridson, "Fast Poisson disk sampling in arbitrary dimensions", 2007, for the distribution.
    """
    height, width = shape
    rule = f"`acs_lines` must be from 0 to {min(shape)}."
    require(0 <= acs_lines <= min(shape), rule, acs_lines=acs_lines)
    require(slope >= 0, "`slope` must be at least 0.", slope=slope)
    count = _sample_count(height * width, acceleration, acs_lines**2) - acs_lines**2
    rng = np.random.default_rng(seed)
    order = rng.permutation(height * width)
    y, x = np.divmod(np.arange(height * width), width)
    growth = 1 + slope * np.hypot((y - height // 2) / height, (x - width // 2) / width)
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


def true_acceleration(mask: Any) -> float:
    """Returns all samples over taken samples of a mask of any shape, not 0 where sampled.

    Example:
        >>> mask = equispaced((1, 320), acceleration=6, acs_lines=20, offset=0)
        >>> round(true_acceleration(mask), 2)
        4.57
    """
    mask = np.asarray(mask)
    sampled = np.count_nonzero(mask)
    require(sampled, "`mask` must sample something.", sampled=sampled)
    return float(mask.size / sampled)


def central_block(size: int, length: int) -> slice:
    """Returns the `length` samples around the zero frequency at `size // 2`."""
    first = (size - length + 1) // 2
    return slice(first, first + length)


def seed_from_name(name: str, seed: int = 0) -> int:
    """Returns a seed that is the same for the same name on every machine; `seed` varies it."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big")


def _sample_count(size: int, acceleration: float, central: int) -> int:
    """How many of `size` samples to take, the central ones included."""
    rule = f"`acceleration` must be from 1 to the number of samples, {size}."
    require(1 <= acceleration <= size, rule, acceleration=acceleration)
    count = round(size / acceleration)
    rule = f"`acs_lines` must give at most the {count} samples that the acceleration allows; lower "
    rule += "one of the two."
    require(0 <= central <= count, rule, central_samples=central, acceleration=acceleration)
    return count


def _draw_columns(
    weights: np.ndarray, acceleration: float, acs_lines: int, seed: int
) -> np.ndarray:
    width = len(weights)
    count = _sample_count(width, acceleration, acs_lines)
    mask = np.zeros(width, "float32")
    mask[central_block(width, acs_lines)] = 1
    outside = np.flatnonzero(mask == 0)
    density = weights[outside] / weights[outside].sum() if len(outside) else None
    rng = np.random.default_rng(seed)
    mask[rng.choice(outside, count - acs_lines, replace=False, p=density)] = 1
    return mask[None]


def _throw_darts(order: np.ndarray, radius: np.ndarray, central: np.ndarray) -> np.ndarray:
    """Points, in the given order, that lie in no earlier disc and not in the central square."""
    height, width = central.shape
    reach = int(np.ceil(radius.max()))
    offsets = np.arange(-reach, reach + 1)
    squared = offsets[:, None] ** 2 + offsets**2
    # With this margin no disc has to be tested for leaving the grid.
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
