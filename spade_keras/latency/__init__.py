"""Measuring how long a model takes on the device in use."""

from __future__ import annotations

from spade_keras.backend.batches import fill_batch
from spade_keras.errors import DeviceBusyError, FreshProcessError
from spade_keras.latency.cache import LatencyCache, user_cache_folder
from spade_keras.latency.fresh_process import compare_in_fresh_process
from spade_keras.latency.interval import latency_quantile, pool, quantile_interval, ratio_interval
from spade_keras.latency.lock import device_lock, lock_path
from spade_keras.latency.measurement import (
    BatchLatency,
    compare,
    fingerprint,
    measure,
    self_check,
    sweep_batches,
)
from spade_keras.latency.results import Comparison, Estimate, Latency, Ratio, SelfCheck, summarize
from spade_keras.latency.staircase import RESOLUTION, Staircase, right_edges
from spade_keras.latency.windows import Stopwatch

__all__ = [
    "RESOLUTION",
    "BatchLatency",
    "Comparison",
    "DeviceBusyError",
    "Estimate",
    "FreshProcessError",
    "Latency",
    "LatencyCache",
    "Ratio",
    "SelfCheck",
    "Staircase",
    "Stopwatch",
    "compare",
    "compare_in_fresh_process",
    "device_lock",
    "fill_batch",
    "fingerprint",
    "latency_quantile",
    "lock_path",
    "measure",
    "pool",
    "quantile_interval",
    "ratio_interval",
    "right_edges",
    "self_check",
    "summarize",
    "sweep_batches",
    "user_cache_folder",
]
