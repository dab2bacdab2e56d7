"""Pictures along the front of a search, for models whose outputs are images."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from spade_keras import latency, search
from spade_keras.report import FrontPanel

_MOST = 8
_IMAGE_CHANNELS = (1, 2, 3)


def front_panels(network: keras.Model, found: search.SearchResult, inputs: Any) -> list[FrontPanel]:
    """Runs networks of the front on the first sample, as pruned.

    Args:
        network: The full network.
        found: The search.
        inputs: Held-out inputs, samples on the first axis.

    Returns:
        At most eight, the fastest first; the error is the distance from the full network's image.
        Empty unless the output is one image of one channel, two (complex: its magnitude is shown)
        or three.
    """
    sample = latency.fill_batch(inputs, 1)
    reference = _picture(network, sample)
    if reference is None:
        return []
    front = found.front
    places = np.unique(np.linspace(0, len(front) - 1, min(len(front), _MOST)).round().astype(int))
    panels = []
    for trial in (front[place] for place in places):
        image = _picture(search.build(network, trial.configuration), sample)
        if image is not None:
            panels.append(FrontPanel(trial, image, np.abs(image - reference)))
    return panels


def _picture(network: keras.Model, sample: Any) -> np.ndarray | None:
    """The one image that a network makes of a sample, in shades of gray."""
    output = network(sample, training=False)
    if isinstance(output, dict | list | tuple) or len(output.shape) != 4:
        return None
    image = keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))[0]
    if image.shape[-1] not in _IMAGE_CHANNELS or min(image.shape[:2]) < 2:
        return None
    return np.linalg.norm(image, axis=-1) if image.shape[-1] == 2 else image.mean(axis=-1)
