"""The Optuna journal of a search: one file that survives a kill at any moment."""

from __future__ import annotations

from pathlib import Path

import filelock
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


class SystemLock:
    """A lock of the operating system's: unlike Optuna's lock files, a kill releases it.

    Args:
        path: The journal it guards.
    """

    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()


def open_journal(path: str | Path) -> JournalStorage:
    """Opens, or starts, a journal.

    A kill can leave half a line at the end; it is cut off, since Optuna would append to it.

    Args:
        path: The file.

    Returns:
        An Optuna storage.
    """
    path = Path(path)
    lock = SystemLock(path)
    lock.acquire()
    try:
        _cut_half_written_line(path)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def fail_orphans(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Ends the trials that a killed process left running.

    A journal has no heartbeat, so this is for a caller who knows that no other process works on
    the study.

    Args:
        study: The study.

    Returns:
        The orphaned trials, as they stood.
    """
    orphans = study.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    for orphan in orphans:
        study.tell(orphan.number, state=optuna.trial.TrialState.FAIL)
    return orphans


def _cut_half_written_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        with path.open("r+b") as file:
            file.truncate(end)
