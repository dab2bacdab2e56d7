"""Pictures of candidates along the front of a search, as pruned, for its report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from spade_keras import latency
from spade_keras.pruning import Calibration
from spade_keras.report import FrontPanel
from spade_keras.search.result import SearchResult

_MOST = 8
_IMAGE_CHANNELS = (1, 2, 3)

Picture = Callable[[keras.Model], tuple[np.ndarray, np.ndarray] | None]
"""From a network to its image and its error, `(height, width)`; None where there is no image."""


def front_panels(
    network: keras.Model,
    result: SearchResult,
    picture: Picture,
    calibration: Calibration | None = None,
) -> list[FrontPanel]:
    """Builds at most eight networks of the front and draws their output for one sample.

    Args:
        network: The full network.
        result: The search.
        picture: Draws a network's output.
        calibration: See `SearchResult.build`.

    Returns:
        Image and error of each, the fastest first; empty where a network makes no image.
    """
    front = result.front
    places = np.unique(np.linspace(0, len(front) - 1, min(len(front), _MOST)).round().astype(int))
    panels = []
    for trial in (front[place] for place in places):
        drawn = picture(result.build(network, trial, calibration, sequential=False))
        if drawn is None:
            return []
        panels.append(FrontPanel(trial, *drawn))
    return panels


def picture_of_any(network: keras.Model, inputs: Any) -> Picture:
    """Returns what draws the first sample, with its distance from the full network's image.

    An output is drawn if it is one image of one channel, two (complex: its magnitude) or three.

    Args:
        network: The full network.
        inputs: Held-out inputs, samples first.
    """
    sample = latency.fill_batch(inputs, 1)
    reference = _gray(network, sample)

    def draw(slim: keras.Model) -> tuple[np.ndarray, np.ndarray] | None:
        image = None if reference is None else _gray(slim, sample)
        return None if image is None else (image, np.abs(image - reference))

    return draw


def _gray(network: keras.Model, sample: Any) -> np.ndarray | None:
    output = network(sample, training=False)
    if isinstance(output, dict | list | tuple) or len(output.shape) != 4:
        return None
    image = keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))[0]
    if image.shape[-1] not in _IMAGE_CHANNELS or min(image.shape[:2]) < 2:
        return None
    return np.linalg.norm(image, axis=-1) if image.shape[-1] == 2 else image.mean(axis=-1)
