"""The trials of a search in PostgreSQL, for workers on many machines."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import check_distribution_compatibility, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.dialects import postgresql

from spade_keras.errors import MissingExtraError, StorageError
from spade_keras.search.storage import expected_warnings
from spade_keras.search.workers import Worker, repeated

# A machine that vanishes silently must not keep the lock for hours.
_LOCK = sqlalchemy.text(
    "SELECT set_config('tcp_keepalives_idle', '30', false),"
    " set_config('tcp_keepalives_interval', '10', false),"
    " set_config('tcp_keepalives_count', '3', false), pg_advisory_lock(:key)"
)
_UNLOCK = sqlalchemy.text("SELECT pg_advisory_unlock(:key)")
_NOW = sqlalchemy.func.current_timestamp()

# Column of a note, by its kind.
_PARAM, _USER, _SYSTEM, _BEAT = (
    (models.TrialParamModel, "param_name"),
    (models.TrialUserAttributeModel, "key"),
    (models.TrialSystemAttributeModel, "key"),
    (models.TrialHeartbeatModel, "trial_id"),
)

_FULL = (
    "A worker takes up to three connections: raise `max_connections`, or let the workers connect "
    "through `spade-keras search proxy`."
)
_REFUSED = "Check the user and the password in the URL."
_REMEDIES = {
    "authentication failed": _REFUSED,
    "no password supplied": _REFUSED,
    "does not exist": "Create it with PostgreSQL's `createdb` or `createuser`, or fix the URL.",
    "permission denied": "The user must be allowed to create and write tables in this database.",
    "too many clients": _FULL,
    "remaining connection slots": _FULL,
    "": "Check that the server runs and that its host and port can be reached from here.",
}


class Database(RDBStorage):
    """Optuna's database storage, with a third of the transactions per trial.

    Parameters and attributes of a running trial wait in memory. One transaction writes them with
    the next heartbeat, with the first user attribute after the parameters, and before the trial
    changes its state. So a killed worker loses nothing that a retry needs: the parameters are
    stored before the candidate is built. Trials of this process are read from memory.

    Optuna has no such transaction. Its table schema, checked when the storage is opened, is used
    here rather than its private methods.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._notes: dict[int, dict[tuple[Any, str], dict[str, Any]]] = {}
        self._own: dict[int, FrozenTrial] = {}
        self._writing = threading.RLock()
        self._thread = threading.local()

    def reuse_trials(self, reuse: bool) -> None:
        """Lets this thread sample a trial from the trials it has just read.

        They are read again after it has set a parameter or changed a state.
        """
        self._thread.reuses = reuse

    def _get_trials(self, *args: Any, **kwargs: Any) -> list[FrozenTrial]:
        if getattr(self._thread, "reuses", False):
            return []  # nothing new for Optuna's cache of trials
        return super()._get_trials(*args, **kwargs)

    def get_trial(self, trial_id: int) -> FrozenTrial:  # noqa: D102
        if trial_id in self._own:
            return copy.deepcopy(self._own[trial_id])
        self.write(trial_id)
        self._thread.read = super().get_trial(trial_id)
        return self._thread.read

    def record_heartbeat(self, trial_id: int) -> None:  # noqa: D102
        read = getattr(self._thread, "read", None)
        if read is not None and read._trial_id == trial_id:  # this thread has just started it
            self._own[trial_id] = copy.deepcopy(read)
            self._thread.read = None
        self._note(trial_id, _BEAT, "", {"heartbeat": _NOW})
        self.write(trial_id)

    def set_trial_state_values(  # noqa: D102
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        self._own.pop(trial_id, None)
        self._thread.reuses = False
        self.write(trial_id)
        return super().set_trial_state_values(trial_id, state, values)

    def _set_trial_param(
        self, trial_id: int, name: str, value: float, distribution: Any, previous: Any
    ) -> None:
        self._thread.reuses = False
        if previous is None:  # Optuna looks for one in earlier trials
            super()._set_trial_param(trial_id, name, value, distribution, None)
        else:
            check_distribution_compatibility(previous, distribution)
            text = distribution_to_json(distribution)
            row = {"param_value": value, "distribution_json": text}
            self._note(trial_id, _PARAM, name, row)
        if trial_id in self._own:
            self._own[trial_id].distributions[name] = distribution
            self._own[trial_id].params[name] = distribution.to_external_repr(value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: D102
        self._note(trial_id, _USER, key, {"value_json": json.dumps(value)})
        if trial_id in self._own:
            self._own[trial_id].user_attrs[key] = value
        if any(kind is _PARAM for kind, _ in self._notes.get(trial_id, ())):
            self.write(trial_id)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:  # noqa: D102
        self._note(trial_id, _SYSTEM, key, {"value_json": json.dumps(value)})
        if trial_id in self._own:
            self._own[trial_id].system_attrs[key] = value

    def set_trial_intermediate_value(  # noqa: D102
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        # Written at once: the pruners of other workers compare it.
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        if trial_id in self._own:
            self._own[trial_id].intermediate_values[step] = intermediate_value

    def _note(self, trial_id: int, kind: Any, name: str, row: dict[str, Any]) -> None:
        with self._writing:
            self._notes.setdefault(trial_id, {})[kind, name] = row

    def write(self, trial_id: int) -> None:
        """Writes the pending parameters and attributes of a trial.

        Raises:
            UpdateFinishedTrialError: If another worker has ended the trial; the notes are dropped.
        """
        with self._writing:
            notes = self._notes.get(trial_id)
            if not notes:
                return
            trials = models.TrialModel.__table__
            with self.engine.begin() as connection:
                # A power cut at the server may lose the last notes of running trials, which are
                # then stale and retried. A start or an end waits for the disk, and a killed
                # worker or client loses nothing.
                connection.execute(sqlalchemy.text("SET LOCAL synchronous_commit TO off"))
                query = sqlalchemy.select(trials.c.state).where(trials.c.trial_id == trial_id)
                state = connection.scalar(query)
                if state is TrialState.RUNNING or state is TrialState.WAITING:
                    for kind in (_PARAM, _USER, _SYSTEM, _BEAT):
                        rows = {name: row for (of, name), row in notes.items() if of is kind}
                        if rows:
                            connection.execute(_upsert(kind, trial_id, rows))
            del self._notes[trial_id]
        if state is None or state.is_finished():
            self._own.pop(trial_id, None)
            self.check_trial_is_updatable(trial_id, state or TrialState.FAIL)


def _upsert(kind: Any, trial_id: int, rows: dict[str, dict[str, Any]]) -> sqlalchemy.Executable:
    model, column = kind
    values = [{column: name, **row, "trial_id": trial_id} for name, row in rows.items()]
    statement = postgresql.insert(model).values(values)
    changed = {name: statement.excluded[name] for name in next(iter(rows.values()))}
    unique = ["trial_id"] if column == "trial_id" else ["trial_id", column]
    return statement.on_conflict_do_update(index_elements=unique, set_=changed)


class DatabaseWorker(Worker):
    """A worker on PostgreSQL: alive as long as its heartbeats arrive."""

    storage: RDBStorage

    def guard(self, name: str) -> AbstractContextManager[Any]:  # noqa: D102
        return advisory_lock(self.storage.engine, name)

    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        with expected_warnings():
            optuna.storages.fail_stale_trials(study)
        states = (TrialState.RUNNING,)
        left = {trial.number for trial in study.get_trials(deepcopy=False, states=states)}
        return [t for t in running if "worker" not in t.user_attrs or t.number not in left]

    def _take(self, trial: Trial) -> None:
        # A named trial without a first heartbeat would never be stale. `Database` keeps the name
        # until the heartbeat and writes both at once; any other storage gets it before as well.
        if not isinstance(self.storage, Database):
            self.storage.record_heartbeat(trial._trial_id)
        super()._take(trial)
        self.storage.record_heartbeat(trial._trial_id)

    def _recover(self, study: optuna.Study) -> list[FrozenTrial]:
        if isinstance(self.storage, Database):
            self.storage.reuse_trials(False)
        return super()._recover(study)

    def _ask(self, study: optuna.Study) -> Trial:
        if isinstance(self.storage, Database):
            self.storage.reuse_trials(True)
        return super()._ask(study)

    def _signs_of_life(self, trial: Trial) -> AbstractContextManager[Any]:
        # Optuna gives heartbeats in `optimize` alone, and none after a first lost connection.
        storage, which = self.storage, trial._trial_id
        return repeated(
            lambda _: storage.record_heartbeat(which), storage.get_heartbeat_interval(), storage
        )


def open_database(
    url: str,
    *,
    heartbeat_s: int = 30,
    grace_s: int = 120,
    kind: type[RDBStorage] = Database,
    pool_size: int = 2,
) -> RDBStorage:
    """Opens a PostgreSQL database and creates missing tables; see `open_storage`.

    `kind` is `Database`, or Optuna's own storage for a proxy, which must not hold notes back.
    Connections in the pool stay open: a search uses two, and a third one for a heartbeat.
    """
    shown = hide_password(url)
    parsed = _parse(url, shown)
    heartbeat = {"heartbeat_interval": heartbeat_s, "grace_period": grace_s}
    try:
        with expected_warnings():
            return _open(parsed, kind, pool_size, **heartbeat)
    except ImportError as error:
        raise MissingExtraError("psycopg", "postgres") from error
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = _describe(error)
        remedy = next(remedy for part, remedy in _REMEDIES.items() if part in reason)
        raise StorageError(
            f"The study storage {shown} cannot be opened: {reason}. {remedy}"
        ) from error
    except RuntimeError as error:  # tables of another version of Optuna
        raise StorageError(f"The study storage {shown} cannot be used: {error}") from error


@contextlib.contextmanager
def advisory_lock(engine: sqlalchemy.Engine, name: str) -> Iterator[None]:
    """Holds a lock of the server, which is released when the connection ends."""
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
    """Turns the errors of a database that is lost during a search into a `StorageError`."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        reason = _describe(error)
        fate = f"was lost: {reason}. Finished trials are kept: run again to resume."
        if "value too long" in reason:
            fate = (
                f"refused a name: {reason}. Names of studies and layers may have "
                f"{models.MAX_INDEXED_STRING_LENGTH} characters there: choose shorter ones, or "
                "keep the study in a journal file."
            )
        raise StorageError(f"The study storage {hide_password(url)} {fate}") from error


def hide_password(url: str) -> str:
    """Returns `url` without its password, for messages."""
    with contextlib.suppress(sqlalchemy.exc.ArgumentError, ValueError):
        parsed = sqlalchemy.make_url(url)
        # An unquoted @ makes the rest of the password a part of the host.
        if "@" not in (parsed.host or "") + (parsed.database or ""):
            return parsed.difference_update_query(["password"]).render_as_string(hide_password=True)
    return f"{url.partition('://')[0]}://***"


def _describe(error: BaseException) -> str:
    """The server's or driver's own sentence of an error of SQLAlchemy or Optuna."""
    if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    message = str(getattr(error, "orig", None) or error).strip()
    return message.splitlines()[0].rstrip(". ") if message else type(error).__name__


def _parse(url: str, shown: str) -> sqlalchemy.URL:
    with contextlib.suppress(sqlalchemy.exc.ArgumentError, ValueError):
        parsed = sqlalchemy.make_url(url)
        if parsed.drivername.split("+")[0] in ("postgres", "postgresql"):
            return parsed.set(drivername="postgresql+psycopg")
    raise StorageError(
        "`storage` must be a file or a URL postgresql://user:password@host:port/database, "
        f"special characters of the password as %XX. Received: storage={shown!r}"
    ) from None


def _open(
    url: sqlalchemy.URL, kind: type[RDBStorage], pool_size: int, **heartbeat: int
) -> RDBStorage:
    engine_kwargs: dict[str, Any] = {"pool_pre_ping": True}
    if "connect_timeout" not in url.query:
        engine_kwargs["connect_args"] = {"connect_timeout": 10}
    # Workers that start together would create the tables twice.
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, **engine_kwargs)
    with advisory_lock(engine, "spade-keras tables"):
        with engine.connect() as connection:
            if connection.scalar(sqlalchemy.text("SHOW transaction_read_only")) == "on":
                raise StorageError(
                    f"The study storage {hide_password(str(url))} is read-only. Use the primary "
                    "server, and a user that may write."
                )
        return kind(
            url.render_as_string(hide_password=False),
            engine_kwargs={**engine_kwargs, "pool_size": pool_size},
            **heartbeat,
        )
