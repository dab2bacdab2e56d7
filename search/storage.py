"""Where a search keeps its trials: memory, one journal file, or a PostgreSQL server."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage

from spade_keras.search.journal_file import Journal, SystemLock

_THREAD_LOCKS: weakref.WeakKeyDictionary[BaseStorage, threading.RLock] = weakref.WeakKeyDictionary()


def open_storage(
    storage: str | Path | BaseStorage | None, *, heartbeat_s: int = 30, grace_s: int = 120
) -> BaseStorage:
    """Opens, or starts, the storage of a study.

    Args:
        storage: None: memory. A path: a journal file, for the processes of one machine. A URL
            `postgresql://user:password@host:port/database`: for workers on many machines. An
            Optuna storage is returned as it is.
        heartbeat_s: PostgreSQL: seconds between the signs of life of a worker inside a trial.
        grace_s: PostgreSQL: seconds without one after which its trial is tried again elsewhere.

    Returns:
        An Optuna storage.

    Raises:
        StorageError: If it cannot be opened for writing, or holds something else.
        MissingExtraError: If a URL is passed and psycopg is not installed.
    """
    if storage is None:
        return InMemoryStorage()
    if isinstance(storage, BaseStorage):
        return storage
    if "://" in str(storage):
        from spade_keras.search.database import open_database

        return open_database(str(storage), heartbeat_s=heartbeat_s, grace_s=grace_s)
    return Journal(Path(storage))


def describe_storage(storage: BaseStorage) -> str:
    """Returns where `storage` keeps its trials, without passwords, for messages."""
    if isinstance(storage, Journal):
        return str(storage.path)
    if isinstance(storage, RDBStorage):
        from spade_keras.search.database import hide_password

        return hide_password(storage.url)
    return "memory" if isinstance(storage, InMemoryStorage) else type(storage).__name__


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keeps Optuna from logging what is reported here: new studies, and why a candidate failed."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def is_postgresql(storage: BaseStorage) -> bool:
    """Tells whether `storage` is a database that locks for many machines."""
    return isinstance(storage, RDBStorage) and storage.engine.dialect.name == "postgresql"


@contextlib.contextmanager
def guard(storage: BaseStorage, name: str) -> Iterator[None]:
    """Holds one matter of a storage alone, among all that use it; a kill lets go of it.

    A journal is guarded among the processes of its machine, PostgreSQL among all machines, any
    other storage among the threads of this process. It is not to be taken twice.

    Args:
        storage: Any Optuna storage.
        name: The matter.
    """
    if is_postgresql(storage):
        from spade_keras.search.database import advisory_lock

        with advisory_lock(storage.engine, name):
            yield
    elif isinstance(storage, Journal):
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        lock = SystemLock(storage.path.with_name(f"{storage.path.name}.{digest}.lock"))
        lock.acquire()
        try:
            yield
        finally:
            lock.release()
    else:
        with _THREAD_LOCKS.setdefault(storage, threading.RLock()):
            yield


@contextlib.contextmanager
def storage_errors(storage: BaseStorage) -> Iterator[None]:
    """Turns the errors of a database that is lost on the way into a `StorageError`."""
    if isinstance(storage, RDBStorage):
        from spade_keras.search.database import database_errors

        with database_errors(storage.url):
            yield
    else:
        yield
