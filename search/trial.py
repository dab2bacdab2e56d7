"""One trial: build the candidate, time it interleaved with the full network, judge or reject it."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import optuna

from spade_keras import backend, latency
from spade_keras.errors import CandidateError, SpadeError
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.candidate import CandidateBuilder
from spade_keras.search.objective import Objective
from spade_keras.search.result import Timing, TrialRecord
from spade_keras.search.space import Configuration

Timer = Callable[[keras.Model], latency.Comparison]
"""Times a candidate against the full network."""

# Fewer windows do not show a 99th percentile.
_TAIL_PAIRS = 100


def interleaved_timer(
    network: keras.Model,
    inputs: Any,
    *,
    pairs: int = 20,
    batch_size: int = 1,
    single_calls: bool = False,
) -> Timer:
    """Returns a function that times a candidate interleaved with `network`, compiled once.

    The first samples of `inputs` are used, repeated if they are too few. At least 100 pairs of
    windows are timed if each is to be a single call, for their tail.
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


@dataclass
class Evaluation:
    """Times and judges candidates, each once; with `judge_all` those over the budget too."""

    build: CandidateBuilder
    timer: Timer
    budget: LatencyBudget
    objective: Objective
    judge_all: bool = False
    _timings: dict[tuple[Any, ...], Timing] = field(default_factory=dict, init=False)
    _qualities: dict[tuple[Any, ...], float] = field(default_factory=dict, init=False)

    def remember(self, record: TrialRecord) -> None:
        """Takes over the measurements of a finished trial, so that they are not repeated."""
        key = self.build.canonical(record.configuration).key()
        if record.timing is not None:
            self._timings.setdefault(key, record.timing)
        if record.quality is not None:
            self._qualities.setdefault(key, record.quality)

    def timing(self, configuration: Configuration) -> Timing:
        """Returns the time of a candidate, measuring it if it is not known."""
        with _reasons():
            return self._time(configuration, defaultdict(float))[0]

    def quality_as_pruned(self, configuration: Configuration) -> float:
        """Returns the quality of a candidate before any tuning; NaN if it has none."""
        with contextlib.suppress(CandidateError), _reasons():
            return self.objective.as_pruned(self.build(configuration))
        return math.nan

    def run(
        self, trial: optuna.Trial, configuration: Configuration, seconds: dict[str, float]
    ) -> tuple[float, Timing]:
        """Tries a candidate for Optuna and returns its quality and its timing.

        The trial gets the timing, the constraint and the quality on the way; `seconds` gets those
        spent on each phase, however the trial ends.

        Raises:
            optuna.TrialPruned: If it is over the budget, or its short fine-tuning looks poor.
            CandidateError: If it cannot be built, timed or judged; names the reason.
        """
        seconds.update(dict.fromkeys(("build", "compile", "measure", "evaluate"), 0.0))
        with _reasons():
            timing, candidate = self._time(configuration, seconds)
        trial.set_user_attr("timing", timing.__dict__)
        # Before any pruning: a sampler takes a trial without a constraint for a feasible one.
        trial.set_constraint("latency", timing.excess)
        if timing.excess > 0 and not self.judge_all:
            raise optuna.TrialPruned
        with _reasons():
            return self._judge(trial, configuration, candidate, seconds), timing

    def _time(
        self, configuration: Configuration, seconds: dict[str, float]
    ) -> tuple[Timing, keras.Model | None]:
        key = self.build.canonical(configuration).key()
        if key in self._timings:
            return self._timings[key], None
        with _spent(seconds, "build"):
            candidate = self.build(configuration)
        with _spent(seconds, "measure"):
            comparison = self.timer(candidate)
        compiling = (comparison.a.compile_ms + comparison.b.compile_ms) / 1e3
        seconds["compile"] = min(compiling, seconds["measure"])
        seconds["measure"] -= seconds["compile"]
        ratio = comparison.ratio
        timing = Timing(
            latency_ms=comparison.b.median_ms,
            latency_ratio=ratio.value,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            p99_ms=comparison.b.p99_ms,
            excess=self.budget.excess(comparison),
        )
        self._timings[key] = timing
        return timing, candidate

    def _judge(
        self,
        trial: optuna.Trial,
        configuration: Configuration,
        candidate: keras.Model | None,
        seconds: dict[str, float],
    ) -> float:
        key = self.build.canonical(configuration).key()
        if key in self._qualities:
            return self._qualities[key]
        if candidate is None:
            with _spent(seconds, "build"):
                candidate = self.build(configuration)

        def report(step: int, value: float) -> None:
            if len(trial.study.directions) > 1:
                return  # Optuna prunes on one objective alone
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        with _spent(seconds, "evaluate"):
            quality = float(self.objective(candidate, report))
        if not math.isfinite(quality):
            raise CandidateError(f"Its quality ({self.objective.name}) is {quality}.")
        self._qualities[key] = quality
        return quality


@contextmanager
def _spent(seconds: dict[str, float], phase: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[phase] += time.perf_counter() - started


@contextmanager
def _reasons() -> Iterator[None]:
    """Turns any failure of one candidate into a `CandidateError` that gives the reason."""
    try:
        yield
    except (optuna.TrialPruned, CandidateError, latency.DeviceBusyError):
        raise
    except SpadeError as error:
        raise CandidateError(str(error)) from error
    except Exception as error:
        kind = "out of memory" if _is_out_of_memory(error) else type(error).__name__
        said = str(error).strip().split("\n")[0][:300]
        raise CandidateError(f"{kind}: {said}" if said else f"{kind}.") from error


def _is_out_of_memory(error: Exception) -> bool:
    names = {cls.__name__ for cls in type(error).__mro__}
    known = {"MemoryError", "ResourceExhaustedError", "OutOfMemoryError"}
    return bool(names & known) or "RESOURCE_EXHAUSTED" in str(error)
