"""Splitting measured k-space into input points and points held out to judge a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

HELD_OUT = "held_out_"
"""Prefix of the input names of held-out measurements and their mask."""


def split_kspace(
    inputs: Mapping[str, Any], share: float, rng: np.random.Generator, *, center: int = 0
) -> dict[str, np.ndarray]:
    """Splits the sampled points of every sample at random into given and held-out ones.

    A mask of one row is split by columns, one with rows by points.

    Args:
        inputs: `measurements` `(batch, ..., height, width, 2)`, `mask` `(batch, 1 or height,
            width)` and more, as arrays.
        share: Share of the points sampled outside the center to hold out; at least one point.
        rng: Draws them.
        center: Side of the central block, in columns or as a square, that is never held out.

    Returns:
        `inputs` with the given points only, and `held_out_measurements` and `held_out_mask`.
    """
    mask = np.asarray(inputs["mask"]) != 0
    held_out = np.zeros_like(mask)
    free = mask & ~_central(mask.shape[1:], center)
    for index, outside in enumerate(free):
        places = np.flatnonzero(outside)
        count = max(1, round(share * len(places)))
        if count >= len(places):
            raise ValueError(
                f"`share` must leave some of the points that are sampled outside of the central "
                f"{center}. Sample more of them, or lower `share` or `center`. Received: "
                f"share={share}, with {len(places)} points outside"
            )
        held_out[index].flat[rng.choice(places, count, replace=False)] = True
    measurements = np.asarray(inputs["measurements"])
    coils = (1,) * (measurements.ndim - mask.ndim - 1)

    def kept(chosen: np.ndarray) -> dict[str, np.ndarray]:
        weights = chosen.reshape(len(chosen), *coils, *chosen.shape[1:], 1)
        return {
            "measurements": np.where(weights, measurements, np.float32(0)),
            "mask": chosen.astype("float32"),
        }

    others = {f"{HELD_OUT}{name}": array for name, array in kept(held_out).items()}
    return {**inputs, **kept(mask & ~held_out), **others}


class SplitBatches(keras.utils.PyDataset):
    """Serves batches of inputs with a new random split of their sampled points every time.

    `batches` serves `(inputs,)`, without targets; `share` and `center` as in `split_kspace`.

    Reference:
        Yaman et al., "Self-supervised learning of physics-guided reconstruction neural networks
        without fully sampled reference data", 2020. A patent application of its authors,
        US 17/075,411, describes the method: check before commercial use.
    """

    def __init__(
        self, batches: keras.utils.PyDataset, share: float, *, center: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self._batches = batches
        self._share = share
        self._center = center
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        (inputs,) = self._batches[index]
        return (split_kspace(inputs, self._share, self._rng, center=self._center),)

    def on_epoch_end(self) -> None:
        """Draws the next epoch's order."""
        self._batches.on_epoch_end()


def held_out_measurements(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns inputs of `split_kspace` with the held-out measurements in place of the given."""
    return {**inputs, **_held_out(inputs)}


def all_measurements(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns inputs with both the given and the held-out measurements, if any are held out."""
    # The two sets of points are disjoint, so measurements and masks add up.
    return {**inputs, **{name: inputs[name] + value for name, value in _held_out(inputs).items()}}


def _held_out(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(HELD_OUT): v for k, v in inputs.items() if k.startswith(HELD_OUT)}


def _central(shape: tuple[int, ...], side: int) -> np.ndarray:
    rows, width = shape
    center = np.zeros(shape, bool)
    first = (width - side + 1) // 2
    top = (rows - side + 1) // 2 if rows > 1 else 0
    center[max(top, 0) : top + side if rows > 1 else 1, max(first, 0) : first + side] = True
    return center
