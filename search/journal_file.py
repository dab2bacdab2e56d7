"""The Optuna journal of a search: one file that survives a kill at any moment, and a full disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import filelock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from spade_keras.errors import StorageError


class Journal(JournalStorage):
    """Trials in one file, for any number of processes of one machine.

    Args:
        path: The file; it is started if it is missing.

    Attributes:
        path: The file.

    Raises:
        StorageError: If the file cannot be used, or is something else than a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_dir():
            raise StorageError(
                f"`storage` must be a file, and {path} is a folder. "
                f"For example: storage={str(path / 'study.journal')!r}"
            )
        if not path.parent.is_dir():
            raise StorageError(f"The folder {path.parent} of the journal {path.name} is missing.")
        try:
            _check_is_journal(path)
            super().__init__(_Backend(path))
        except OSError as error:
            raise StorageError(
                f"The journal {path} cannot be opened for writing ({error.strerror or error}). "
                "Keep the study in a folder that you may write to."
            ) from error
        except (ValueError, KeyError, AssertionError) as error:
            raise StorageError(
                f"The journal {path} is damaged or of another version of Optuna ({error!r}). "
                "Move it away to start a new study, or put back a copy."
            ) from error


class SystemLock:
    """A lock of the operating system's: unlike Optuna's lock files, a kill releases it.

    Args:
        path: The file to lock; it stays, empty.
    """

    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(path, poll_interval=0.01)

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()


class _Backend(JournalFileBackend):
    """Appends whole lines or nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Not `.lock`: Optuna's own lock, which optuna-dashboard takes to write, would remove it.
        self._system_lock = SystemLock(path.with_name(f"{path.name}.write.lock"))
        super().__init__(str(path), lock_obj=self._system_lock)
        with path.open("ab"):  # may be read-only
            pass

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        try:
            self._system_lock.acquire()
            try:
                _append(self._path, text.encode(), lasting=any(map(_is_lasting, logs)))
            finally:
                self._system_lock.release()
        except OSError as error:
            raise StorageError(
                f"The journal {self._path} cannot be written to ({error.strerror or error}). What "
                "it holds is intact: make room or mend the disk, then run again to go on."
            ) from error


def _is_lasting(log: dict[str, Any]) -> bool:
    """Tells whether a line must survive a power cut: what a running trial notes waits for its end.

    Every wait for the disk takes milliseconds, and a trial notes a dozen things.
    """
    return "trial_id" not in log or "state" in log


def _append(path: Path, data: bytes, *, lasting: bool) -> None:
    with path.open("a+b", buffering=0) as file:
        length = file.seek(0, os.SEEK_END)
        end = _end_of_whole_lines(file, length)
        if end < length:
            file.truncate(end)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            if lasting:
                os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def _end_of_whole_lines(file: Any, end: int, chunk: int = 4096) -> int:
    """Returns where the last whole line ends: a kill may have left half of one behind it."""
    while end:
        start = max(0, end - chunk)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _check_is_journal(path: Path) -> None:
    """Refuses other files: their last line would be cut off as half-written."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb") as file:
        first = file.readline(1 << 20)
    if not first.startswith(b'{"op_code":'):
        raise StorageError(
            f"{path} is not the journal of a study. Pass another file, or a new name. "
            f"Received: a file that begins with {first[:20]!r}"
        )
