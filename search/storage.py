"""Storage of trials: memory, a journal file, PostgreSQL, or a proxy in front of it."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.storages import (
    BaseStorage,
    GrpcStorageProxy,
    InMemoryStorage,
    JournalStorage,
    RDBStorage,
)
from optuna.storages.journal import JournalFileBackend

from spade_keras.errors import StorageError


def open_storage(
    storage: str | Path | BaseStorage | None, *, heartbeat_s: int = 30, grace_s: int = 120
) -> BaseStorage:
    """Opens or creates the storage of a study.

    Args:
        storage: None: memory. A path: a journal file, for the processes of one machine. A URL
            `postgresql://user:password@host:port/database`: for workers on many machines; or
            `grpc://host:port` of a proxy in front of the database, for very many. An Optuna
            storage is returned as it is.
        heartbeat_s: URLs: seconds between two heartbeats of a worker inside a trial.
        grace_s: URLs: seconds without one after which its trial is retried elsewhere.
    """
    if storage is None:
        return InMemoryStorage()
    if isinstance(storage, BaseStorage):
        return storage
    url = str(storage)
    if url.startswith("grpc://"):
        from spade_keras.search.proxy import Proxy

        return Proxy(url, heartbeat_s=heartbeat_s, grace_s=grace_s)
    if "://" in url:
        from spade_keras.search.database import open_database

        return open_database(url, heartbeat_s=heartbeat_s, grace_s=grace_s)
    return Journal(Path(storage))


def describe_storage(storage: BaseStorage) -> str:
    """Returns the place of a storage, without passwords, for messages."""
    if isinstance(storage, Journal):
        return str(storage.path)
    if isinstance(storage, RDBStorage):
        from spade_keras.search.database import hide_password

        return hide_password(storage.url)
    if isinstance(storage, InMemoryStorage):
        return "memory"
    return str(getattr(storage, "url", type(storage).__name__))


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silences Optuna's log of new studies and failed candidates, which are reported here."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def expected_warnings() -> Iterator[None]:
    """Silences what Optuna says of heartbeats and of interfaces that may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage")
        yield


@contextlib.contextmanager
def storage_errors(storage: BaseStorage) -> Iterator[None]:
    """Turns the errors of a server that is lost during a search into a `StorageError`."""
    with contextlib.ExitStack() as stack:
        if isinstance(storage, RDBStorage):
            from spade_keras.search.database import database_errors

            stack.enter_context(database_errors(storage.url))
        elif isinstance(storage, GrpcStorageProxy):
            from spade_keras.search.proxy import proxy_errors

            stack.enter_context(proxy_errors(describe_storage(storage)))
        yield


class Journal(JournalStorage):
    """Trials in the file `path`, for any number of processes of one machine.

    Optuna's journal has no heartbeat and breaks on the half line that a killed process leaves;
    its lock files outlive their process by 30 s. Here whole lines are appended or nothing, and
    the operating system releases the locks.

    Raises:
        StorageError: If the file cannot be used, or is not a journal.
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
                "Move it away to start a new study, or restore a copy."
            ) from error


def system_lock(path: Path) -> filelock.BaseFileLock:
    """Returns a lock of the operating system, released when its process dies, unlike Optuna's."""
    return filelock.FileLock(path, poll_interval=0.01)


class _Backend(JournalFileBackend):
    """Appends whole lines or nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Not `.lock`: Optuna's own lock, which optuna-dashboard takes to write, would remove it.
        self._system_lock = system_lock(path.with_name(f"{path.name}.write.lock"))
        super().__init__(str(path), lock_obj=self._system_lock)
        with path.open("ab"):  # may be read-only
            pass

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        # A start or an end must survive a power cut; notes of a running trial wait for its end,
        # because every wait for the disk takes milliseconds.
        lasting = any("trial_id" not in log or "state" in log for log in logs)
        try:
            with self._system_lock:
                _append(self._path, text.encode(), lasting=lasting)
        except OSError as error:
            raise StorageError(
                f"The journal {self._path} cannot be written to ({error.strerror or error}). What "
                "it holds is intact: make room or fix the disk, then run again to resume."
            ) from error


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
    """Returns where the last whole line ends: a killed process may have left half of one."""
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
