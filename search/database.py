"""The trials of a search in PostgreSQL, for workers on many machines."""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import RDBStorage

from spade_keras.errors import MissingExtraError, StorageError

_DRIVER = "postgresql+psycopg"

# A machine that vanishes without a word must not keep the lock for hours.
_LOCK = sqlalchemy.text(
    "SELECT set_config('tcp_keepalives_idle', '30', false),"
    " set_config('tcp_keepalives_interval', '10', false),"
    " set_config('tcp_keepalives_count', '3', false), pg_advisory_lock(:key)"
)
_UNLOCK = sqlalchemy.text("SELECT pg_advisory_unlock(:key)")


def open_database(url: str, *, heartbeat_s: int = 30, grace_s: int = 120) -> RDBStorage:
    """Opens a PostgreSQL database, whose tables are made if they are missing.

    Args:
        url: As `postgresql://user:password@host:port/database`; the driver is psycopg 3.
        heartbeat_s: Seconds between the signs of life of a worker inside a trial.
        grace_s: Seconds without one after which its trial is given to another worker.

    Returns:
        An Optuna storage with heartbeats.

    Raises:
        StorageError: If the server cannot be reached or refuses; the password is never shown.
        MissingExtraError: If psycopg is not installed.
    """
    shown = hide_password(url)
    parsed = _parse(url, shown)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return _open(parsed, heartbeat_interval=heartbeat_s, grace_period=grace_s)
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = describe(error)
        raise StorageError(
            f"The study storage {shown} cannot be opened: {reason}. {_remedy(reason)}"
        ) from error
    except RuntimeError as error:  # tables of another version of Optuna
        raise StorageError(f"The study storage {shown} cannot be used: {error}") from error


@contextlib.contextmanager
def advisory_lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """Holds a lock of the server's, which it takes back when the connection ends.

    Args:
        engine: Of the database.
        name: What is locked; equal for all who exclude each other.
    """
    key = {"key": int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_LOCK, key)
        try:
            yield
        finally:
            try:
                connection.execute(_UNLOCK, key)
            except sqlalchemy.exc.SQLAlchemyError:
                connection.invalidate()  # with the connection the server drops the lock


@contextlib.contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Turns the errors of a database that is lost on the way into a `StorageError`."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise StorageError(
            f"The study storage {hide_password(url)} was lost: {describe(error)}. Finished trials "
            "are kept: run again to go on."
        ) from error


def hide_password(url: str) -> str:
    """Returns `url` as it may be shown."""
    hidden = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(password=)[^&]*", r"\1***", hidden)


def describe(error: BaseException) -> str:
    """Returns the server's or driver's own sentence of an error of SQLAlchemy or Optuna."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    message = str(getattr(error, "orig", None) or error).strip()
    return message.splitlines()[0].rstrip(". ") if message else type(error).__name__


def _parse(url: str, shown: str) -> sqlalchemy.URL:
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        parsed = None
    if parsed is None or parsed.drivername.split("+")[0] not in ("postgres", "postgresql"):
        raise StorageError(
            "`storage` must be a file or a URL postgresql://user:password@host:port/database, "
            f"special letters of the password as %XX. Received: storage={shown!r}"
        ) from None
    return parsed.set(drivername=_DRIVER)


def _open(url: sqlalchemy.URL, **heartbeat: int) -> RDBStorage:
    engine_kwargs: dict[str, Any] = {"pool_pre_ping": True}
    if "connect_timeout" not in url.query:
        engine_kwargs["connect_args"] = {"connect_timeout": 10}
    # Workers that start together would make the tables twice.
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **engine_kwargs)
    with advisory_lock(engine, "spade-keras tables"):
        with engine.connect() as connection:
            if connection.scalar(sqlalchemy.text("SHOW transaction_read_only")) == "on":
                raise StorageError(
                    f"The study storage {hide_password(str(url))} is read-only. Use the primary "
                    "server, and a user that may write."
                )
        return RDBStorage(
            url.render_as_string(hide_password=False), engine_kwargs=engine_kwargs, **heartbeat
        )


def _remedy(reason: str) -> str:
    if "authentication failed" in reason or "no password supplied" in reason:
        return "Check the user and the password in the URL."
    if "does not exist" in reason:
        return "Make it with PostgreSQL's `createdb` or `createuser`, or mend the URL."
    if "permission denied" in reason or "read-only" in reason:
        return "The user must be allowed to make and write tables in this database."
    return "Check that the server runs and that its host and port can be reached from here."
