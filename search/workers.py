"""Several workers on one study: who runs which trial, and what becomes of a killed one's."""

from __future__ import annotations

import abc
import contextlib
import glob
import math
import os
import platform
import re
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import filelock
import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from spade_keras.errors import SpadeError, StorageError
from spade_keras.search.journal_file import Journal
from spade_keras.search.storage import guard, is_postgresql, storage_errors

Objective = Callable[[Trial], float | Sequence[float]]

MAX_RETRIES = 2
"""How often a trial is tried again whose worker was killed: the trial may be what kills."""

_COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


def join(storage: BaseStorage) -> Worker:
    """Makes this process one of the workers on a storage.

    Args:
        storage: As `open_storage` returns it.

    Returns:
        A context manager; leaving it signs the worker off.

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
    if is_postgresql(storage):
        return DatabaseWorker(storage)
    return LocalWorker(storage)


class Worker(abc.ABC):
    """A process, or a thread, that takes trials of studies in one storage.

    All that several workers could disturb each other in is done under a guard of the storage: a
    trial is named after its worker before anybody else looks, so that one that runs without a
    name was left behind by a kill, as is one whose worker is gone.

    Attributes:
        name: Host, process and a random part.
        storage: Where the studies are.
    """

    def __init__(self, storage: BaseStorage) -> None:
        host = re.sub(r"[^A-Za-z0-9-]+", "-", platform.node()) or "host"
        self.name = f"{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.storage = storage

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    @abc.abstractmethod
    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        """Returns those of the running trials whose worker is gone; called under the guard."""

    def _take(self, trial: Trial) -> None:
        """Shows the other workers that `trial` is taken; called under the guard."""
        return None

    @contextlib.contextmanager
    def _signs_of_life(self, trial: Trial) -> Iterator[None]:
        """Shows the other workers, as long as it is open, that `trial` is being worked on."""
        yield

    def seed_once(self, study: optuna.Study, enqueue: Callable[[], None]) -> None:
        """Calls `enqueue` unless a worker has done so before; the others wait for it.

        Args:
            study: The study.
            enqueue: Enqueues the first trials, skipping those that exist: it is called again when
                a worker was killed in it.
        """
        with self._alone(study, "seeds"):
            if not study.user_attrs.get("ready"):
                enqueue()
                study.set_user_attr("ready", True)

    def recover(self, study: optuna.Study) -> list[FrozenTrial]:
        """Ends the trials of killed workers and enqueues them again; living workers go on.

        A trial is enqueued again with its parameters, its `origin`, and the user attributes
        `retry_of` (its number) and `retries`; without its constraints, which Optuna would not let
        the new trial set. After `MAX_RETRIES` it stays failed.

        Args:
            study: The study.

        Returns:
            The trials that were ended, as they stood.
        """
        with self._alone(study, "claim"):
            return self._recover(study)

    def claim(
        self,
        study: optuna.Study,
        trials: int,
        *,
        sampler: Callable[[int], optuna.samplers.BaseSampler] | None = None,
        stop: Callable[[], bool] = lambda: False,
        poll_s: float = 0.2,
    ) -> Trial | None:
        """Takes the next trial, recovering those of killed workers first.

        A trial starts only while fewer than `trials` are complete, pruned or running, so that
        the workers together end with exactly `trials`. While the others run the last ones it
        waits: one of them may fail.

        Args:
            study: The study.
            trials: Trials wanted of all workers together; failed ones do not count.
            sampler: Makes the sampler of a trial from the number of trials before it.
            stop: Asked while waiting; True gives up.
            poll_s: Seconds between two looks while waiting.

        Returns:
            A running trial for `work`, or None: there are enough, or `stop` said so.
        """
        while not stop():
            with self._alone(study, "claim"):
                self._recover(study)
                known = study.get_trials(deepcopy=False)
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
        """Runs a claimed trial to its end, whatever that is.

        Complete, or pruned by `optuna.TrialPruned`; failed if the value is not finite or the
        objective raises, with the user attribute `reason`. A trial that another worker has ended
        in the meantime, because this one gave no sign of life, stays as that worker left it.

        Args:
            study: The study.
            trial: As `claim` returned it.
            objective: Returns the value, or the values.
            catch: Errors of the objective that do not end the worker.

        Returns:
            The finished trial.
        """
        with storage_errors(self.storage), contextlib.suppress(UpdateFinishedTrialError):
            with self._signs_of_life(trial):
                state, values, error = _run(trial, objective)
                study.tell(trial, values, state=state, skip_if_finished=True)
            if error is not None and not isinstance(error, catch):
                raise error
        with storage_errors(self.storage):
            return study.get_trials(deepcopy=False)[trial.number]

    @contextlib.contextmanager
    def _alone(self, study: optuna.Study, matter: str) -> Iterator[None]:
        with storage_errors(self.storage), guard(self.storage, f"{matter} of {study.study_name}"):
            yield

    def _ask(self, study: optuna.Study) -> Trial:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Heartbeat of storage")
            trial = study.ask()
        self._take(trial)
        trial.set_user_attr("worker", self.name)
        return trial

    def _recover(self, study: optuna.Study) -> list[FrozenTrial]:
        running = _running(study)
        orphans = self._orphans(study, running) if running else []
        for orphan in orphans:
            study.tell(orphan.number, state=TrialState.FAIL, skip_if_finished=True)
        _enqueue_lost(study)
        return orphans


class JournalWorker(Worker):
    """A worker on a journal: alive as long as it holds a lock file, which a kill lets go of."""

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

    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        return [trial for trial in running if not self._is_alive(_worker_of(trial))]

    def _is_alive(self, name: str | None) -> bool:
        return name is not None and not _remove_if_free(self._lock_path(name))

    def _lock_path(self, name: str) -> Path:
        return self._journal.with_name(f"{self._journal.name}.{name}.worker")


class DatabaseWorker(Worker):
    """A worker on PostgreSQL: alive as long as its heartbeats arrive."""

    storage: RDBStorage

    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
        left = {trial.number for trial in _running(study)}
        return [t for t in running if _worker_of(t) is None or t.number not in left]

    def _take(self, trial: Trial) -> None:
        # Without a first heartbeat, a trial would never be stale.
        self.storage.record_heartbeat(trial._trial_id)

    @contextlib.contextmanager
    def _signs_of_life(self, trial: Trial) -> Iterator[None]:
        """Optuna gives heartbeats in `optimize` alone, and none after a first lost connection."""
        done = threading.Event()
        interval_s = self.storage.get_heartbeat_interval()

        def beat() -> None:
            while not done.wait(interval_s):
                with contextlib.suppress(StorageError), storage_errors(self.storage):
                    self.storage.record_heartbeat(trial._trial_id)
            self.storage.remove_session()

        thread = threading.Thread(target=beat, daemon=True, name=f"heartbeat-{trial.number}")
        if interval_s is not None:
            thread.start()
        try:
            yield
        finally:
            done.set()
            if interval_s is not None:
                thread.join()


class LocalWorker(Worker):
    """A worker on memory, alive in this process; or on a storage of the caller's own.

    Of such a storage it ends no trial: it cannot tell whose worker is gone.
    """

    _alive: ClassVar[set[str]] = set()

    def __enter__(self) -> Self:
        self._alive.add(self.name)
        return self

    def __exit__(self, *failure: object) -> None:
        self._alive.discard(self.name)

    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        if not isinstance(self.storage, InMemoryStorage):
            return []
        return [trial for trial in running if _worker_of(trial) not in self._alive]


def _run(
    trial: Trial, objective: Objective
) -> tuple[TrialState, list[float] | None, BaseException | None]:
    try:
        returned = objective(trial)
        values = [float(value) for value in np.atleast_1d(returned)]
    except optuna.TrialPruned:
        return TrialState.PRUNED, None, None
    except (optuna.exceptions.OptunaError, StorageError):
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


def _enqueue_lost(study: optuna.Study) -> None:
    """Enqueues every trial that ended without a reason, unless that was done before.

    What a kill of the one who recovers would interrupt, the next one finishes.
    """
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get("retry_of") for trial in trials}
    for trial in trials:
        attributes = trial.user_attrs
        if trial.state != TrialState.FAIL or "reason" in attributes or trial.number in retried:
            continue
        parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        retries = attributes.get("retries", 0) + (not attributes.get("interrupted", False))
        if not parameters or retries > MAX_RETRIES:
            continue
        kept = {"origin": attributes["origin"]} if "origin" in attributes else {}
        study.enqueue_trial(
            parameters, user_attrs={**kept, "retry_of": trial.number, "retries": retries}
        )


def _running(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.RUNNING,))


def _worker_of(trial: FrozenTrial) -> str | None:
    return trial.user_attrs.get("worker")


def _remove_if_free(path: Path) -> bool:
    """Removes a lock file that nobody holds; False if somebody does."""
    if not path.exists():
        return True
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return False
    try:
        path.unlink(missing_ok=True)
    finally:
        lock.release()
    return True
