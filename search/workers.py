"""Several workers on one study: who runs which trial, and what happens to a killed one's."""

from __future__ import annotations

import abc
import contextlib
import glob
import hashlib
import itertools
import math
import os
import platform
import re
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Self

import filelock
import numpy as np
import optuna
from optuna.exceptions import OptunaError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, GrpcStorageProxy, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from spade_keras.errors import SpadeError, StorageError
from spade_keras.search.storage import Journal, expected_warnings, storage_errors, system_lock

Objective = Callable[[Trial], float | Sequence[float]]

MAX_RETRIES = 2
"""How often a trial is retried whose worker was killed: the trial may be what kills."""

_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def join(storage: BaseStorage) -> Worker:
    """Makes this process one of the workers on a storage, until the context is left.

    Example:
        >>> storage = optuna.storages.InMemoryStorage()
        >>> study = optuna.create_study(storage=storage)
        >>> with join(storage) as worker:
        ...     worker.seed_once(study, lambda: study.enqueue_trial({"x": 3.0}))
        ...     while (trial := worker.claim(study, trials=2)) is not None:
        ...         _ = worker.work(study, trial, lambda t: t.suggest_float("x", 0, 9) ** 2)
        >>> [trial.state.name for trial in study.trials], study.trials[0].value
        (['COMPLETE', 'COMPLETE'], 9.0)
    """
    if isinstance(storage, Journal):
        return JournalWorker(storage)
    if isinstance(storage, RDBStorage) and storage.engine.dialect.name == "postgresql":
        from spade_keras.search.database import DatabaseWorker

        return DatabaseWorker(storage)
    if isinstance(storage, GrpcStorageProxy):
        from spade_keras.search.proxy import ProxyWorker

        return ProxyWorker(storage)
    return LocalWorker(storage)


class Worker(abc.ABC):
    """A process, or a thread, that takes trials of studies in one storage.

    Trials start, and are recovered, under a guard of the storage. A trial gets its worker's name
    (host, process and a random part) under that guard, so a running one without a name was left
    behind by a killed worker, like one whose worker is gone.

    Optuna's `RetryHeartbeatStaleTrialCallback` is not enough: it copies the constraints, which
    the new trial could not set, and never retries a trial whose worker, or whose recovery, was
    killed before the first heartbeat, or between its end and its new start.
    """

    way: ClassVar[str] = "directly"

    def __init__(self, storage: BaseStorage) -> None:
        host = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node()) or "host"
        self.name = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.storage = storage

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        return None

    @abc.abstractmethod
    def guard(self, name: str) -> AbstractContextManager[Any]:
        """Locks a name in the storage against all other workers; released if this one is killed.

        It is not reentrant.
        """

    @abc.abstractmethod
    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        """Returns those of the running trials whose worker is gone; called under the guard."""

    def _take(self, trial: Trial) -> None:
        """Shows the other workers that `trial` is taken; called under the guard."""
        trial.set_user_attr("worker", self.name)

    def _signs_of_life(self, trial: Trial) -> AbstractContextManager[Any]:
        """Shows the other workers, as long as it is open, that `trial` is being worked on."""
        return contextlib.nullcontext()

    def seed_once(self, study: optuna.Study, enqueue: Callable[[], None]) -> None:
        """Calls `enqueue` unless a worker has done so before; the others wait for it.

        It must skip trials that exist: it is called again when a worker was killed in it.
        """
        with self._alone(study, "seeds"):
            way = study.user_attrs.get("ready")
            if way is None:
                enqueue()
                study.set_user_attr("ready", self.way)
            elif way != self.way:  # their guards do not exclude each other
                raise StorageError(
                    f"The workers of the study {study.study_name!r} connect to its database {way}, "
                    "and all of them must do so."
                )

    def claim(
        self,
        study: optuna.Study,
        trials: int,
        *,
        sampler: Callable[[int], optuna.samplers.BaseSampler] | None = None,
        stop: Callable[[], object] = lambda: False,
        poll_s: float = 0.2,
    ) -> Trial | None:
        """Takes the next trial; None if there are enough, or if `stop` is true while waiting.

        A trial starts only while fewer than `trials` are complete, pruned or running, so that all
        workers together end with exactly `trials`. While the others run the last ones it waits:
        one of them may fail. `sampler` makes a trial's sampler from the number of trials before.

        Trials of killed workers are recovered first; living ones continue. Such a trial ends failed
        and is enqueued again with its parameters, its `origin`, and the user attributes `retry_of`
        (its number) and `retries`; without its constraints, which Optuna would not let the new
        trial set. After `MAX_RETRIES` it stays failed.
        """
        while not stop():
            with self._alone(study, "claim"):
                known = self._recover(study)
                counted = [trial for trial in known if trial.state in _COUNTED]
                if len(counted) < trials:
                    if sampler is not None:
                        study.sampler = sampler(len(known))
                    return self._ask(study)
            if not any(trial.state == TrialState.RUNNING for trial in counted):
                return None
            time.sleep(poll_s)
        return None

    def work(
        self,
        study: optuna.Study,
        trial: Trial,
        objective: Objective,
        *,
        catch: tuple[type[Exception], ...] = (),
    ) -> FrozenTrial:
        """Runs a claimed trial to its end and returns it.

        It is complete, or pruned by `optuna.TrialPruned`, or failed with the user attribute
        `reason` if the value is not finite or the objective raises; errors in `catch` do not end
        the worker. A trial that another worker has ended meanwhile, because this one missed its
        heartbeats, stays as that worker left it.
        """
        done = None
        with storage_errors(self.storage):
            with contextlib.suppress(UpdateFinishedTrialError):
                with self._signs_of_life(trial):
                    state, values, error = _run(trial, objective)
                    done = study.tell(trial, values, state=state, skip_if_finished=True)
                if error is not None and not isinstance(error, catch):
                    raise error
            return done or study.get_trials(deepcopy=False)[trial.number]

    @contextlib.contextmanager
    def _alone(self, study: optuna.Study, matter: str) -> Iterator[None]:
        with storage_errors(self.storage), self.guard(f"{matter} of {study.study_name}"):
            yield

    def _ask(self, study: optuna.Study) -> Trial:
        """Starts a trial; called under the guard, right after all trials were read."""
        with expected_warnings():
            trial = study.ask()
        self._take(trial)
        return trial

    def _recover(self, study: optuna.Study) -> list[FrozenTrial]:
        """Ends and enqueues again what killed workers left; returns all trials as they are then."""
        known = study.get_trials(deepcopy=False)
        running = [trial for trial in known if trial.state == TrialState.RUNNING]
        orphans = self._orphans(study, running) if running else []
        for orphan in orphans:
            study.tell(orphan.number, state=TrialState.FAIL, skip_if_finished=True)
        if orphans:
            known = study.get_trials(deepcopy=False)
        # If a recovery was killed half-way, the next one enqueues the rest.
        lost = list(_lost(known))
        for trial in lost:
            study.enqueue_trial(**trial)
        return study.get_trials(deepcopy=False) if lost else known


class JournalWorker(Worker):
    """A worker on a journal: alive as long as it holds a lock file, which the system releases."""

    def __init__(self, storage: Journal) -> None:
        super().__init__(storage)
        self._journal = storage.path
        self._lock = filelock.FileLock(self._lock_path(self.name))

    def __enter__(self) -> Self:
        for left in self._journal.parent.glob(f"{glob.escape(self._journal.name)}.*.worker"):
            _remove_if_free(left)
        self._lock.acquire()
        return self

    def __exit__(self, *failure: object) -> None:
        self._lock.release()
        self._lock_path(self.name).unlink(missing_ok=True)

    def guard(self, name: str) -> AbstractContextManager[Any]:  # noqa: D102
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        return system_lock(self._journal.with_name(f"{self._journal.name}.{digest}.lock"))

    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        names = [trial.user_attrs.get("worker") for trial in running]
        gone = [name is None or _remove_if_free(self._lock_path(name)) for name in names]
        return [trial for trial, is_gone in zip(running, gone, strict=True) if is_gone]

    def _lock_path(self, name: str) -> Path:
        return self._journal.with_name(f"{self._journal.name}.{name}.worker")


class LocalWorker(Worker):
    """A worker on memory, alive in this process; or on a storage of the caller.

    It ends no trial of the latter, because it cannot tell whose worker is gone.
    """

    _alive: ClassVar[set[str]] = set()
    _locks: ClassVar[weakref.WeakKeyDictionary[BaseStorage, Any]] = weakref.WeakKeyDictionary()

    def __enter__(self) -> Self:
        self._alive.add(self.name)
        return self

    def __exit__(self, *failure: object) -> None:
        self._alive.discard(self.name)

    def guard(self, name: str) -> AbstractContextManager[Any]:  # noqa: D102
        return self._locks.setdefault(self.storage, threading.RLock())

    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        if not isinstance(self.storage, InMemoryStorage):
            return []
        return [trial for trial in running if trial.user_attrs.get("worker") not in self._alive]


def _run(
    trial: Trial, objective: Objective
) -> tuple[TrialState, list[float] | None, BaseException | None]:
    try:
        returned = objective(trial)
        values = [float(value) for value in np.atleast_1d(returned)]
    except optuna.TrialPruned:
        return TrialState.PRUNED, None, None
    except (OptunaError, StorageError):
        raise
    except Exception as error:
        name = "" if isinstance(error, SpadeError) else f"{type(error).__name__}: "
        trial.set_user_attr("reason", f"{name}{error}"[:1000])
        return TrialState.FAIL, None, error
    except BaseException as error:  # Ctrl-C: the trial is no worse for it
        trial.set_user_attr("interrupted", True)
        return TrialState.FAIL, None, error
    if not all(map(math.isfinite, values)):
        trial.set_user_attr("reason", f"The value must be finite. Received: {returned}")
        return TrialState.FAIL, None, None
    return TrialState.COMPLETE, values, None


def _lost(trials: Sequence[FrozenTrial]) -> Iterator[dict[str, Any]]:
    """Yields what to enqueue for trials that ended without a reason, once for each."""
    retried = {trial.user_attrs.get("retry_of") for trial in trials}
    for trial in trials:
        attributes = trial.user_attrs
        if trial.state != TrialState.FAIL or "reason" in attributes or trial.number in retried:
            continue
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        retries = attributes.get("retries", 0) + (not attributes.get("interrupted", False))
        if params and retries <= MAX_RETRIES:
            kept = {"origin": attributes["origin"]} if "origin" in attributes else {}
            marks = {"retry_of": trial.number, "retries": retries}
            yield {"params": params, "user_attrs": {**kept, **marks}}


@contextlib.contextmanager
def repeated(
    beat: Callable[[int], None], interval_s: float | None, storage: BaseStorage
) -> Iterator[None]:
    """Calls `beat` in a thread at that interval while it is open; a lost storage is no error."""
    if interval_s is None:
        yield
        return
    done = threading.Event()

    def repeat() -> None:
        for number in itertools.count(1):
            if done.wait(interval_s):
                return
            with contextlib.suppress(StorageError, OptunaError, KeyError), storage_errors(storage):
                beat(number)

    thread = threading.Thread(target=repeat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _remove_if_free(path: Path) -> bool:
    """Removes a lock file that nobody holds; False if somebody does."""
    if not path.exists():
        return True
    try:
        with filelock.FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except filelock.Timeout:
        return False
    return True
