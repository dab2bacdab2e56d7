"""A gRPC proxy in front of the database, for more workers than PostgreSQL has connections."""

from __future__ import annotations

import contextlib
import functools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial

from spade_keras.errors import StorageError, importing
from spade_keras.search.database import open_database
from spade_keras.search.storage import expected_warnings, quiet_optuna
from spade_keras.search.workers import Worker, repeated

_PATIENCE_S = 10
_THREADS = 10


class Proxy(GrpcStorageProxy):
    """Optuna's client of a proxy; `ProxyWorker` adds the heartbeats and locks it lacks.

    Its arguments are those of `open_storage`.

    Raises:
        StorageError: If nothing answers there.
        MissingExtraError: If grpcio is not installed.
    """

    def __init__(self, url: str, *, heartbeat_s: float = 30, grace_s: float = 120) -> None:
        self.url, self.heartbeat_s, self.grace_s = url, heartbeat_s, grace_s
        host = port = None
        with contextlib.suppress(ValueError):
            host, port = urlsplit(url).hostname, urlsplit(url).port
        if not host or not port:
            raise StorageError(f"`storage` must be grpc://host:port. Received: storage={url!r}")
        try:
            with importing("grpcio", "proxy"), expected_warnings():
                super().__init__(host=host, port=port)
            self.wait_server_ready(timeout=_PATIENCE_S)
        except ConnectionError as error:
            raise StorageError(
                f"No proxy answers at {url}. Start one there: spade-keras search proxy --storage "
                f"postgresql://... --port {port}"
            ) from error


def serve(
    storage: str,
    host: str = "localhost",
    port: int = 13000,
    *,
    say: Callable[[str], object] = print,
) -> None:
    """Serves a PostgreSQL database to workers whose storage is `grpc://host:port`, until killed.

    The proxy stores nothing itself: workers that lose it stop, and resume with the next one.
    There are neither passwords nor encryption: listen on a network interface (`host`) that only
    trusted machines reach. `say` is called with one line once the database is open.

    Raises:
        StorageError: If the database cannot be opened.
    """
    with importing("grpcio", "proxy"):
        import grpc  # noqa: F401
    database = open_database(storage, kind=RDBStorage, pool_size=_THREADS)
    say(f"Serving grpc://{host}:{port}; Ctrl-C ends it.")
    with quiet_optuna(), expected_warnings():
        optuna.storages.run_grpc_proxy_server(
            optuna.storages.get_storage(database),  # with Optuna's cache of finished trials
            host=host,
            port=port,
            thread_pool=ThreadPoolExecutor(_THREADS),
        )


class ProxyWorker(Worker):
    """A worker behind a gRPC proxy, which passes on neither heartbeats nor the server's locks.

    A heartbeat is a user attribute instead, which the others see change, by their own clocks. The
    guard is a study: of workers that create one of the same name, the server lets one succeed. It
    has a heartbeat too, and after the grace period somebody else removes it.
    """

    way = "through a proxy"
    storage: Any

    def __init__(self, storage: BaseStorage) -> None:
        super().__init__(storage)
        self._signs: dict[Any, tuple[Any, float]] = {}

    @contextlib.contextmanager
    def guard(self, name: str) -> Iterator[None]:  # noqa: D102
        lock, wait_s = f"@lock {name}", 0.02
        while True:
            try:
                held = self.storage.create_new_study([StudyDirection.MINIMIZE], lock)
                break
            except DuplicatedStudyError:
                with contextlib.suppress(KeyError):  # it was given back just now
                    other = self.storage.get_study_id_from_name(lock)
                    sign = other, self.storage.get_study_user_attrs(other).get("beat")
                    if self._is_stale(lock, sign):
                        self.storage.delete_study(other)
                time.sleep(random.uniform(0, wait_s))
                wait_s = min(1.5 * wait_s, 2)  # hundreds of workers may wait

        beat = functools.partial(self.storage.set_study_user_attr, held, "beat")
        try:
            with repeated(beat, self.storage.heartbeat_s, self.storage):
                yield
        finally:
            with contextlib.suppress(KeyError):
                self.storage.delete_study(held)

    def _orphans(self, study: optuna.Study, running: list[FrozenTrial]) -> list[FrozenTrial]:
        return [
            t
            for t in running
            if "worker" not in t.user_attrs or self._is_stale(t._trial_id, t.user_attrs.get("beat"))
        ]

    def _is_stale(self, whose: Any, sign: Any) -> bool:
        """Whether a heartbeat has not changed for the whole grace period."""
        now = time.monotonic()
        if self._signs.get(whose, (None, 0.0))[0] != (sign,):
            self._signs[whose] = (sign,), now
        return now - self._signs[whose][1] > self.storage.grace_s

    def _signs_of_life(self, trial: Trial) -> AbstractContextManager[Any]:
        beat = functools.partial(self.storage.set_trial_user_attr, trial._trial_id, "beat")
        return repeated(beat, self.storage.heartbeat_s, self.storage)


@contextlib.contextmanager
def proxy_errors(url: str) -> Iterator[None]:
    """Turns the errors of a proxy that is lost during a search into a `StorageError`."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        raise StorageError(
            f"The proxy {url} was lost: {error.details()}. Finished trials are kept: run again to "
            "resume."
        ) from error
