"""Timed windows: warm up until they are stable, then time functions interleaved.

Standard library only: the check of an exported model runs this same file in a process that must
not import spade_keras.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

# A window shorter than this is dominated by the clock and by the call that blocks.
SHORTEST_WINDOW_MS = 1.0
# Warm-up ends when the longest of the last windows exceeds the shortest by no more than this.
STABLE_SPREAD = 0.05
STABLE_WINDOWS = 3


class Stopwatch:
    """Times calls until `synchronize` says that their outputs are there; `clock` gives seconds."""

    def __init__(
        self, synchronize: Callable[[Any], None], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._synchronize = synchronize
        self._clock = clock

    def time(self, function: Callable[[], Any], calls: int = 1) -> float:
        """Times one window of `calls` calls and returns milliseconds per call."""
        start = self._clock()
        for _ in range(calls):
            outputs = function()
        self._synchronize(outputs)
        return (self._clock() - start) * 1e3 / calls


class Warm(NamedTuple):
    """A function that is warm."""

    first_ms: float  # traces and compiles
    call_ms: float  # median per call of the last windows
    calls: int  # that make a window long enough to be timed
    stable: bool  # whether the last windows agreed before the limit was reached


def warm_up(
    stopwatch: Stopwatch,
    function: Callable[[], Any],
    most_windows: int,
    *,
    single_calls: bool = False,
) -> Warm:
    """Calls `function` until its time per call is stable, in at most `most_windows` windows.

    With `single_calls` every window is one call, however short: averaging hides the tail.
    """
    first_ms = stopwatch.time(function)
    calls = 1
    windows: list[float] = []
    stable = False
    while len(windows) < most_windows and not stable:
        windows.append(stopwatch.time(function, calls))
        calls = 1 if single_calls else _calls_per_window(min(windows))
        last = windows[-STABLE_WINDOWS:]
        stable = len(last) == STABLE_WINDOWS and max(last) <= (1 + STABLE_SPREAD) * min(last)
    last = sorted(windows[-STABLE_WINDOWS:])
    return Warm(first_ms, last[len(last) // 2], calls, stable)


def time_interleaved(
    stopwatch: Stopwatch, functions: Sequence[Callable[[], Any]], calls: Sequence[int], rounds: int
) -> list[list[float]]:
    """Times every function once per round, in reversed order every second round.

    A, B, B, A, A, B, ...: a drift of the machine's speed then falls on all functions alike. Returns
    milliseconds per call for each function; those of one round are paired.
    """
    samples: list[list[float]] = [[] for _ in functions]
    with _garbage_collection_off():
        for number in range(rounds):
            order = range(len(functions))
            for index in reversed(order) if number % 2 else order:
                samples[index].append(stopwatch.time(functions[index], calls[index]))
    return samples


def as_measured(warm: Warm, samples_ms: list[float], load_ms: float = 0.0) -> dict[str, Any]:
    """Returns, as plain JSON values, what `latency.summarize` takes of one function."""
    return {
        "samples_ms": samples_ms,
        "first_ms": load_ms + warm.first_ms,
        "calls_per_window": warm.calls,
        "stable": warm.stable,
    }


def time_loaded(
    stopwatch: Stopwatch,
    functions: Sequence[Callable[[], Any]],
    load_ms: Sequence[float],
    rounds: int,
    warmup: int,
    *,
    single_calls: bool = False,
) -> list[dict[str, Any]]:
    """Warms up functions whose loading took `load_ms`, times them interleaved: `as_measured`."""
    warm = [warm_up(stopwatch, each, warmup, single_calls=single_calls) for each in functions]
    samples = time_interleaved(stopwatch, functions, [one.calls for one in warm], rounds)
    return [as_measured(*measured) for measured in zip(warm, samples, load_ms, strict=True)]


def _calls_per_window(call_ms: float) -> int:
    if call_ms >= SHORTEST_WINDOW_MS:
        return 1
    # At least a nanosecond a call, for clocks too coarse to see one.
    return math.ceil(2 * SHORTEST_WINDOW_MS / max(call_ms, 1e-6))


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
