"""Timing one model, or two interleaved."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from spade_keras import backend
from spade_keras.backend.batches import fill_batch
from spade_keras.latency.interval import ratio_interval
from spade_keras.latency.lock import device_lock
from spade_keras.latency.results import Comparison, Latency, SelfCheck, summarize
from spade_keras.latency.windows import Stopwatch, as_measured, time_interleaved, warm_up
from spade_keras.typing import Record


def fingerprint(inputs: Any = None, *, mode: str | None = None) -> dict[str, Any]:
    """Describes the device, the software and the inputs.

    Args:
        inputs: Arrays, or a dict, list or tuple of them; their shapes and dtypes are recorded.
        mode: How the backend runs the model (`backend.modes`); None for its default.

    Returns:
        Plain JSON values under "device", "backend", "mode", "versions", "settings" (threads,
        precision, flags), "dtype" (the global policy) and "inputs" (name, shape and dtype of
        each). A time is comparable, and a cached one valid, only where these are equal.
    """
    described = []
    if inputs is not None:
        for path, array in keras.tree.flatten_with_path(inputs):
            dtype = keras.backend.standardize_dtype(array.dtype)
            dtype = keras.config.floatx() if dtype == "float64" else dtype  # as it is run
            name = "/".join(str(part) for part in path)
            described.append({"name": name, "shape": list(array.shape), "dtype": dtype})
    return {
        "device": backend.device().as_dict(),
        "backend": keras.backend.backend(),
        "mode": mode or backend.modes()[0],
        "versions": backend.versions(),
        "settings": backend.settings(),
        "dtype": keras.config.dtype_policy().name,
        "inputs": described,
    }


def measure(  # noqa: PLR0913 - every setting is a keyword of its own
    model: Callable[..., Any],
    inputs: Any = None,
    *,
    described: Any = None,
    repeats: int = 30,
    warmup: int = 10,
    single_calls: bool = False,
    mode: str | None = None,
    lock: bool = True,
    stopwatch: Stopwatch | None = None,
) -> Latency:
    """Times a model on the device in use.

    Compilation is kept apart, the windows start when the model is warm, every window ends when
    its output is computed, and the inputs are on the device beforehand. Time a model with its real
    weights on real inputs: subnormal numbers (weights nearly zero) slow a CPU tenfold, and NaN
    takes other paths than numbers do.

    Args:
        model: A Keras model; or a function without arguments, when `inputs` is None.
        inputs: Arrays, or a dict, list or tuple of them, with the batch axis.
        described: The inputs of a function that is timed without any, for the fingerprint.
        repeats: Windows to time. A window is one call, or several below a millisecond.
        warmup: Most windows to warm up for; it ends earlier when the last three agree within 5 %.
        single_calls: Whether every window is one call, however short. The tail (`p99_ms`) needs
            this: the mean of several calls hides it.
        mode: How the backend runs the model, one of `backend.modes()`.
        lock: Whether to wait until no other process is timing on this device.
        stopwatch: Times windows; the default reads the system's clock and blocks on the backend.

    Raises:
        ValueError: If a count is below 1, `mode` is unknown, or both `inputs` and `described` are
            given.
        DeviceBusyError: If another process keeps timing on this device.

    Example:
        >>> import keras, numpy as np
        >>> dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> latency = measure(dense, np.ones((1, 4), "float32"), repeats=5)
        >>> len(latency.samples), latency.q1_ms <= latency.median_ms <= latency.q3_ms
        (5, True)
    """
    _check_counts(repeats=repeats, warmup=warmup)
    circumstances = _circumstances(inputs, described, mode)
    with device_lock() if lock else contextlib.nullcontext():
        measured = _timed([model], inputs, mode, stopwatch, warmup, single_calls, repeats)
    return summarize(**measured[0], fingerprint=circumstances)


def compare(  # noqa: PLR0913 - every setting is a keyword of its own
    a: Callable[..., Any],
    b: Callable[..., Any],
    inputs: Any = None,
    *,
    described: Any = None,
    pairs: int = 10,
    warmup: int = 10,
    single_calls: bool = False,
    mode: str | None = None,
    lock: bool = True,
    stopwatch: Stopwatch | None = None,
) -> Comparison:
    """Times two models interleaved, A-B-B-A, so that a drift of the machine's speed cancels.

    `a` is the reference. `pairs` windows of each model are timed, at least two, which takes about
    `pairs` + 5 times the time of both. Other arguments and errors are those of `measure`.

    Returns:
        Both latencies, and the time of `b` / the time of `a` with its 95 % interval.
    """
    _check_counts(warmup=warmup)
    if pairs < 2:
        raise ValueError(
            f"`pairs` must be at least 2, for an interval needs more than one. "
            f"Received: pairs={pairs}"
        )
    circumstances = _circumstances(inputs, described, mode)
    with device_lock() if lock else contextlib.nullcontext():
        measured = _timed([a, b], inputs, mode, stopwatch, warmup, single_calls, pairs)
    of_a, of_b = (summarize(**each, fingerprint=circumstances) for each in measured)
    return Comparison(of_a, of_b, ratio_interval(of_a.samples, of_b.samples))


def self_check(
    model: Callable[..., Any], inputs: Any = None, *, pairs: int = 30, **options: Any
) -> SelfCheck:
    """Times a model against itself, which shows the noise of this machine.

    It is compiled twice, as two models would be. More `pairs` resolve smaller differences;
    `options` are those of `compare`.
    """
    comparison = compare(model, model, inputs, pairs=pairs, **options)
    ratio = comparison.ratio
    return SelfCheck(comparison, max(abs(ratio.low - 1), abs(ratio.high - 1)))


@dataclasses.dataclass(frozen=True)
class BatchLatency(Record):
    """The time of one call with a batch; `samples_per_s` is `batch` / median time."""

    batch: int
    latency: Latency
    samples_per_s: float


def sweep_batches(
    model: Callable[..., Any], inputs: Any, batches: Sequence[int] = (1, 2, 4, 8), **options: Any
) -> tuple[BatchLatency, ...]:
    """Times a model at several batch sizes; returns one entry for each, in the order given.

    Inputs are repeated to fill larger batches; `options` are those of `measure`.
    """
    if not batches or min(batches) < 1:
        raise ValueError(
            f"`batches` must be integers of at least 1. Received: batches={tuple(batches)}"
        )
    times = [measure(model, fill_batch(inputs, batch), **options) for batch in batches]
    return tuple(
        BatchLatency(batch, time, batch / time.median_ms * 1e3)
        for batch, time in zip(batches, times, strict=True)
    )


def _timed(
    models: Sequence[Callable[..., Any]],
    inputs: Any,
    mode: str | None,
    stopwatch: Stopwatch | None,
    warmup: int,
    single_calls: bool,
    rounds: int,
) -> list[dict[str, Any]]:
    """Warms up models one after the other, times them interleaved; returns what is measured."""
    stopwatch = stopwatch or Stopwatch(backend.synchronize)
    functions, warm, peaks = [], [], []
    for model in models:
        backend.reset_peak_memory()
        if inputs is not None:
            model = backend.inference_function(model, inputs, mode)
        functions.append(model)
        warm.append(warm_up(stopwatch, model, warmup, single_calls=single_calls))
        peaks.append(backend.peak_memory_bytes())
    samples = time_interleaved(stopwatch, functions, [one.calls for one in warm], rounds)
    return [
        {**as_measured(one, times), "peak_memory_bytes": peak}
        for one, times, peak in zip(warm, samples, peaks, strict=True)
    ]


def _circumstances(inputs: Any, described: Any, mode: str | None) -> dict[str, Any]:
    if inputs is not None and described is not None:
        raise ValueError(
            "`described` is for functions that are timed without inputs. Received: both `inputs` "
            "and `described`. Pass `inputs` alone: they describe themselves."
        )
    return fingerprint(described if inputs is None else inputs, mode=mode)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={count}")
