"""Timing candidates in turn with the full network."""

from __future__ import annotations

from typing import Any

import keras

from spade_keras import backend, latency
from spade_keras.search.evaluation import Timer

# Fewer windows do not show a 99th percentile.
_TAIL_PAIRS = 100


def interleaved_timer(
    network: keras.Model,
    inputs: Any,
    *,
    pairs: int = 10,
    batch_size: int = 1,
    single_calls: bool = False,
) -> Timer:
    """Returns a function that times a candidate in turn with `network`.

    The full network is compiled once, not once a candidate.

    Args:
        network: The full network.
        inputs: Arrays, or a dict, list or tuple of them, with the samples on the first axis; the
            first ones are used, repeated if they are too few.
        pairs: Timed windows of each; at least 100 when calls are timed singly, for their tail.
        batch_size: Samples in a call.
        single_calls: Whether a window is one call, however short.
    """
    sample = latency.fill_batch(inputs, batch_size)
    full = backend.inference_function(network, sample)
    windows = max(pairs, _TAIL_PAIRS) if single_calls else pairs

    def time_candidate(candidate: keras.Model) -> latency.Comparison:
        return latency.compare(
            full,
            backend.inference_function(candidate, sample),
            pairs=windows,
            single_calls=single_calls,
            described=sample,
        )

    return time_candidate
