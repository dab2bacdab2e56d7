"""The result of a search: its trials, ranked, and the fastest if none met the budget."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import optuna

from spade_keras.errors import BudgetNotMetError
from spade_keras.pruning import Calibration
from spade_keras.pruning.importance import find_importance
from spade_keras.search.budget import LatencyBudget
from spade_keras.search.candidate import in_dtype, plan_for, realize
from spade_keras.search.space import Configuration, SearchSpace

FEASIBLE, INFEASIBLE, STOPPED, FAILED = "feasible", "infeasible", "stopped", "failed"
STATES = (FEASIBLE, INFEASIBLE, STOPPED, FAILED)


@dataclass(frozen=True)
class Timing:
    """The latency of a candidate, beside the full network's.

    Attributes:
        latency_ms: Median time of a call.
        latency_ratio: Its median / the full network's, timed interleaved; `ratio_low` and
            `ratio_high` are the ends of its 95 % interval.
        p99_ms: 99th percentile of its time.
        excess: See `LatencyBudget.excess`; met at 0 and below.
    """

    latency_ms: float
    latency_ratio: float
    ratio_low: float
    ratio_high: float
    p99_ms: float
    excess: float


@dataclass(frozen=True)
class TrialRecord:
    """One candidate: what was tried, and what came of it.

    Attributes:
        number: Its number in the study.
        state: "feasible"; "infeasible" (rejected by its latency); "stopped" (its short
            fine-tuning was not promising); or "failed", for the given reason.
        origin: The seed's or the sampler's name.
        configuration: What was tried.
        timing: None if it failed before being timed.
        quality: Higher is better; None unless it was judged.
        seconds: Of its phases: "build", "compile", "measure", "evaluate", "overhead".
        reason: Why it failed.
        worker: Name of the process that ran it.
    """

    number: int
    state: str
    origin: str
    configuration: Configuration
    timing: Timing | None = None
    quality: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    reason: str | None = None
    worker: str | None = field(default=None, compare=False)

    @property
    def widths(self) -> dict[str, int]:
        """Width of every group."""
        return self.configuration.widths

    @property
    def latency_ratio(self) -> float | None:
        """Its median time / the full network's."""
        return None if self.timing is None else self.timing.latency_ratio

    @classmethod
    def from_trial(cls, trial: optuna.trial.FrozenTrial) -> TrialRecord:
        """Reads a finished trial of a search."""
        attributes = trial.user_attrs
        timing = Timing(**attributes["timing"]) if "timing" in attributes else None
        state = FAILED
        if timing is not None and trial.state != optuna.trial.TrialState.FAIL:
            complete = trial.state == optuna.trial.TrialState.COMPLETE
            state = INFEASIBLE if timing.excess > 0 else FEASIBLE if complete else STOPPED
        return cls(
            number=trial.number,
            state=state,
            origin=attributes.get("origin", "unknown"),
            configuration=Configuration.from_dict(attributes.get("configuration", {"widths": {}})),
            timing=timing,
            quality=trial.values[0] if trial.values and state != STOPPED else None,
            seconds=attributes.get("seconds", {}),
            reason=attributes.get("reason"),
            worker=attributes.get("worker"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, the timing's beside the others; `from_dict` reads them."""
        content = {**asdict(self), "configuration": self.configuration.as_dict()}
        timing = content.pop("timing") or dict.fromkeys(Timing.__dataclass_fields__)
        return {**content, **timing, "widths": dict(self.widths)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> TrialRecord:
        """Reads what `as_dict` returned."""
        own = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        own["configuration"] = Configuration.from_dict(content["configuration"])
        times = {name: content[name] for name in Timing.__dataclass_fields__}
        own["timing"] = None if times["latency_ms"] is None else Timing(**times)
        return cls(**own)


@dataclass(frozen=True)
class SearchResult:
    """All trials of a search.

    Attributes:
        budget: The latency budget.
        trials: In the order of their numbers.
        quality_name: Meaning of `TrialRecord.quality`.
        space: The search space.
        fingerprint: Device and software that timed the candidates.
        ended_by: "trials", "timeout" or "stagnation".
        bottleneck: Group that takes most of the full network's time, if it is known.
        prediction_error: How far layer times were from the candidates' times, if they predicted
            them: the fields of a `PredictionError`.
        importance: Criterion by which channels were kept.
    """

    budget: LatencyBudget
    trials: tuple[TrialRecord, ...]
    quality_name: str
    space: SearchSpace = field(default_factory=lambda: SearchSpace(()))
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    ended_by: str = "trials"
    bottleneck: str | None = None
    prediction_error: Mapping[str, float] | None = None
    importance: str = "group_l1"

    @property
    def ranking(self) -> tuple[TrialRecord, ...]:
        """Feasible trials of distinct configurations, the best quality first."""
        feasible = [t for t in self.trials if t.state == FEASIBLE and t.quality is not None]
        feasible.sort(key=lambda t: (-(t.quality or 0.0), t.latency_ratio or 0.0, t.number))
        distinct = {t.configuration.key(): t for t in reversed(feasible)}
        return tuple(t for t in feasible if distinct[t.configuration.key()] is t)

    @property
    def contenders(self) -> tuple[TrialRecord, ...]:
        """The ranking, but the best of every origin comes before the second of any.

        The maximum over many trials owes part of its quality to the errors of a cheap objective;
        a seed does not, since it was proposed for other reasons.
        """
        ahead = {trial.origin: trial for trial in reversed(self.ranking)}
        first = [t for t in self.ranking if ahead[t.origin] is t]
        return (*first, *(t for t in self.ranking if ahead[t.origin] is not t))

    @property
    def best(self) -> TrialRecord:
        """The feasible trial of the best quality; a `BudgetNotMetError` if there is none."""
        if not self.ranking:
            raise BudgetNotMetError(self.failure())
        return self.ranking[0]

    @property
    def front(self) -> tuple[TrialRecord, ...]:
        """The judged trials that no other beats in both time and quality, the fastest first."""
        return self.front_over("latency_ratio")

    def front_over(self, quantity: str) -> tuple[TrialRecord, ...]:
        """Returns the front over another time: a field of `Timing`."""
        judged = [t for t in self.trials if t.quality is not None and t.timing is not None]
        judged.sort(key=lambda t: (getattr(t.timing, quantity), -(t.quality or 0.0)))
        front: list[TrialRecord] = []
        for trial in judged:
            if not front or (trial.quality or 0.0) > (front[-1].quality or 0.0):
                front.append(trial)
        return tuple(front)

    @property
    def fastest(self) -> TrialRecord | None:
        """The timed trial with the smallest ratio, or None if none was timed."""
        timed = [t for t in self.trials if t.timing is not None]
        return min(timed, key=lambda t: t.latency_ratio or 0.0, default=None)

    def build(
        self,
        network: keras.Model,
        trial: TrialRecord | None = None,
        calibration: Calibration | None = None,
        *,
        sequential: bool = True,
    ) -> keras.Model:
        """Builds what a trial, by default the best, chose: widths, depth, ranks and dtype.

        With a calibration of the network, needed where the search ranked channels by "obs", readers
        are refitted: layer by layer, or in closed form, as the search judged them.
        """
        chosen = self.best if trial is None else trial
        full = in_dtype(network, self.budget.dtype)
        importance = find_importance(self.importance, calibration)
        plan = plan_for(full, chosen.configuration, importance=importance)
        return realize(full, chosen.configuration, plan, calibration, sequential=sequential)

    @classmethod
    def read(cls, folder: str | Path) -> SearchResult:
        """Reads the trials that `spade-keras search` or `run` left in its folder."""
        folder = Path(folder).expanduser()
        try:
            if (folder / "search.json").exists():
                content = json.loads((folder / "search.json").read_text())["result"]
            else:
                content = json.loads((folder / "search" / "result.json").read_text())
            return cls.from_dict(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                "`warm_start` must be the folder of a finished `spade-keras search` or `run`. "
                f"Received: warm_start={folder}: {type(error).__name__}: {error}"
            ) from error

    def counts(self) -> dict[str, int]:
        """Returns the number of trials in all and in each state."""
        states = [t.state for t in self.trials]
        return {"total": len(states)} | {state: states.count(state) for state in STATES}

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, which `from_dict` reads."""
        return {
            **self.__dict__,
            "budget": asdict(self.budget),
            "trials": [trial.as_dict() for trial in self.trials],
            "space": self.space.as_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchResult:
        """Reads what `as_dict` returned."""
        return cls(
            **{
                **content,
                "budget": LatencyBudget(**content["budget"]),
                "trials": tuple(TrialRecord.from_dict(trial) for trial in content["trials"]),
                "space": SearchSpace.from_dict(content["space"]),
            }
        )

    def failure(self) -> str:
        """Says that the budget was not met, by how much the fastest trial missed it, and why."""
        message = (
            f"No configuration met the latency budget ({self.budget}) in {len(self.trials)} trials"
        )
        fastest = self.fastest
        if fastest is None or fastest.timing is None:
            reasons = {t.reason for t in self.trials if t.reason}
            return f"{message}; none could be timed. {' '.join(sorted(reasons))}".strip()
        timing = fastest.timing
        bottleneck = f" The bottleneck is {self.bottleneck}." if self.bottleneck else ""
        return (
            f"{message}. The fastest took {timing.latency_ratio:.3f} times the full network's time "
            f"(95 % interval {timing.ratio_low:.3f} to {timing.ratio_high:.3f}; median "
            f"{timing.latency_ms:.2f} ms, p99 {timing.p99_ms:.2f} ms), with "
            f"{fastest.configuration}.{bottleneck} Raise the budget, allow narrower layers, or "
            "use fewer iterations."
        )
