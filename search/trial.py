"""One trial: build the candidate, time it interleaved with the full network, judge or reject it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """Returns a function that times a candidate interleaved with `network`.

    The full network is compiled once, not once per candidate.

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


class Evaluation:
    """Times and judges candidates, each once.

    Args:
        build: Makes the network of a configuration.
        timer: Times it.
        budget: Its latency budget.
        objective: Judges it.
        judge_all: Whether quality is computed for candidates over the budget too.
    """

    def __init__(
        self,
        build: CandidateBuilder,
        timer: Timer,
        budget: LatencyBudget,
        objective: Objective,
        *,
        judge_all: bool = False,
    ) -> None:
        self._build = build
        self._timer = timer
        self._budget = budget
        self._objective = objective
        self._judge_all = judge_all
        self._timings: dict[tuple[Any, ...], Timing] = {}
        self._qualities: dict[tuple[Any, ...], float] = {}

    def remember(self, record: TrialRecord) -> None:
        """Takes over the measurements of a finished trial, so that they are not repeated."""
        key = self._build.canonical(record.configuration).key()
        if record.timing is not None:
            self._timings.setdefault(key, record.timing)
        if record.quality is not None:
            self._qualities.setdefault(key, record.quality)

    def timing(self, configuration: Configuration) -> Timing:
        """Returns the time of a candidate, measuring it if it is not known.

        Raises:
            CandidateError: If it cannot be built or timed.
        """
        with _reasons():
            return self._time(configuration, _Phases({}))[0]

    def quality_as_pruned(self, configuration: Configuration) -> float:
        """Returns the quality of a candidate before any tuning; NaN if it has none."""
        with contextlib.suppress(CandidateError), _reasons():
            return self._objective.as_pruned(self._build(configuration))
        return math.nan

    def run(
        self, trial: optuna.Trial, configuration: Configuration, seconds: dict[str, float]
    ) -> tuple[float, Timing]:
        """Tries a candidate for Optuna.

        Args:
            trial: Gets the timing, the constraint and the quality on the way.
            configuration: The configuration to try.
            seconds: Gets the seconds spent on each phase, however the trial ends.

        Returns:
            Its quality and its timing.

        Raises:
            optuna.TrialPruned: If it is over the budget, or its short fine-tuning looks poor.
            CandidateError: If it cannot be built, timed or judged; names the reason.
        """
        phases = _Phases(seconds)
        with _reasons():
            timing, candidate = self._time(configuration, phases)
        trial.set_user_attr("timing", timing.__dict__)
        # Before any pruning: a sampler takes a trial without a constraint for a feasible one.
        trial.set_constraint("latency", timing.excess)
        if timing.excess > 0 and not self._judge_all:
            raise optuna.TrialPruned
        with _reasons():
            return self._judge(trial, configuration, candidate, phases), timing

    def _time(
        self, configuration: Configuration, phases: _Phases
    ) -> tuple[Timing, keras.Model | None]:
        key = self._build.canonical(configuration).key()
        if key in self._timings:
            return self._timings[key], None
        with phases.spent("build"):
            candidate = self._build(configuration)
        with phases.spent("measure"):
            comparison = self._timer(candidate)
        compiling = (comparison.a.compile_ms + comparison.b.compile_ms) / 1e3
        phases.move("measure", "compile", compiling)
        ratio = comparison.ratio
        timing = Timing(
            latency_ms=comparison.b.median_ms,
            latency_ratio=ratio.value,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            p99_ms=comparison.b.p99_ms,
            excess=self._budget.excess(comparison),
        )
        self._timings[key] = timing
        return timing, candidate

    def _judge(
        self,
        trial: optuna.Trial,
        configuration: Configuration,
        candidate: keras.Model | None,
        phases: _Phases,
    ) -> float:
        key = self._build.canonical(configuration).key()
        if key in self._qualities:
            return self._qualities[key]
        if candidate is None:
            with phases.spent("build"):
                candidate = self._build(configuration)

        def report(step: int, value: float) -> None:
            if len(trial.study.directions) > 1:
                return  # Optuna prunes on one objective alone
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        with phases.spent("evaluate"):
            quality = float(self._objective(candidate, report))
        if not math.isfinite(quality):
            raise CandidateError(f"Its quality ({self._objective.name}) is {quality}.")
        self._qualities[key] = quality
        return quality


class _Phases:
    """Seconds spent in the phases of one trial."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        seconds.update(dict.fromkeys(("build", "compile", "measure", "evaluate"), 0.0))

    @contextmanager
    def spent(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - started

    def move(self, source: str, destination: str, seconds: float) -> None:
        seconds = min(seconds, self.seconds[source])
        self.seconds[source] -= seconds
        self.seconds[destination] += seconds


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
