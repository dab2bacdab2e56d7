"""Times cached on disk, measured once per device, software and settings."""

from __future__ import annotations

import contextlib
import getpass
import json
import math
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs

_CREATE = """
CREATE TABLE IF NOT EXISTS times
(circumstances TEXT, name TEXT, ms REAL, PRIMARY KEY (circumstances, name)) WITHOUT ROWID
"""


def user_cache_folder(name: str) -> Path:
    """Returns a folder such as "locks" in the user's cache of spade-keras; makes it if needed.

    Where the cache cannot be written to, as in many containers, it lies among temporary files.
    """
    folder = platformdirs.user_cache_path("spade-keras", appauthor=False) / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        folder = Path(tempfile.gettempdir()) / f"spade-keras-{name}-{getpass.getuser()}"
        folder.mkdir(exist_ok=True)
    return folder


class LatencyCache:
    """Times by name, valid under one fingerprint each.

    They are in one SQLite file in `folder`, by default the user's cache, which several processes
    may use at once. The fingerprint's inputs are left out: the name must identify the measured
    thing with its input shapes.

    Example:
        >>> import tempfile
        >>> from spade_keras.latency import fingerprint
        >>> cache = LatencyCache(tempfile.mkdtemp())
        >>> cache.put({"conv 64 -> 64": 1.25}, fingerprint())
        >>> cache.get("conv 64 -> 64", fingerprint()), cache.get("dense", fingerprint())
        (1.25, None)
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = user_cache_folder("latencies") if folder is None else Path(folder)
        self.path = self.folder / "latencies.sqlite"

    def get(self, name: str, fingerprint: Mapping[str, Any]) -> float | None:
        """Returns the time in milliseconds under a fingerprint, or None if it is not known.

        A damaged file is set aside with a warning.
        """
        if not self.path.exists():
            return None
        try:
            with self._database() as database:
                found = database.execute(
                    "SELECT ms FROM times WHERE circumstances = ? AND name = ?",
                    (_circumstances(fingerprint), name),
                ).fetchone()
            if found is None or _is_time(found[0]):
                return found and float(found[0])
            problem = f"{name!r} is no time: {found[0]!r}"
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            problem = str(error)
        self._set_aside(problem)
        return None

    def put(self, times_ms: Mapping[str, float], fingerprint: Mapping[str, Any]) -> None:
        """Stores milliseconds by name; replaces those of the same name and fingerprint.

        If they cannot be written, on a full disk for instance, a warning says so.

        Raises:
            ValueError: If a time is not a finite number of at least 0.
        """
        wrong = {name: ms for name, ms in times_ms.items() if not _is_time(ms)}
        if wrong:
            raise ValueError(f"Times must be finite and at least 0. Received: times_ms={wrong}")
        circumstances = _circumstances(fingerprint)
        rows = [(circumstances, name, float(ms)) for name, ms in times_ms.items()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._database() as database:
                database.executemany("INSERT OR REPLACE INTO times VALUES (?, ?, ?)", rows)
        except (OSError, sqlite3.OperationalError) as error:
            warnings.warn(
                f"Latencies could not be kept in {self.folder} and will be measured again: "
                f"{error}. Make the folder writable, or pass another one to `LatencyCache`.",
                stacklevel=2,
            )
        except sqlite3.DatabaseError as error:
            self._set_aside(str(error))
            self.put(times_ms, fingerprint)

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.path, timeout=60)) as database, database:
            database.execute(_CREATE)
            yield database

    def _set_aside(self, problem: str) -> None:
        aside = self.path.with_suffix(".damaged")
        self.path.replace(aside)
        warnings.warn(
            f"Cached latencies could not be read ({problem}) and are measured again; the file "
            f"is kept as {aside}.",
            stacklevel=3,
        )


def _circumstances(fingerprint: Mapping[str, Any]) -> str:
    plain = {key: value for key, value in fingerprint.items() if key != "inputs"}
    return json.dumps(plain, sort_keys=True)


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0
