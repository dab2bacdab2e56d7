"""Times kept on disk, to be measured once per device, software and settings."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from spade_keras.latency.user_cache import user_cache_folder

_Stamp = tuple[int, int]


class LatencyCache:
    """Times by name, valid under one fingerprint each.

    A file holds the times of one fingerprint, inputs apart: what was measured, its input shapes
    included, belongs into the name. Several processes may use a cache at once: a file is replaced
    as a whole, under a lock, so that none is seen half-written and no time is lost.

    Args:
        folder: Where the files lie; None: in the user's cache folder.

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
        self._known: dict[Path, tuple[_Stamp | None, dict[str, float]]] = {}

    def get(self, name: str, fingerprint: Mapping[str, Any]) -> float | None:
        """Returns the time in milliseconds, or None if it is not known.

        Args:
            name: What was measured.
            fingerprint: The circumstances under which the time is to hold; see
                `latency.fingerprint`.
        """
        circumstances = _without_inputs(fingerprint)
        path = self._path(circumstances)
        stamp = _stamp(path)
        if stamp is None:
            return None
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            times, problem = _read(path, circumstances)
            if problem is not None:
                with filelock.FileLock(f"{path}.lock"):
                    times = self._mend(path, circumstances)
            known = self._known[path] = (stamp, times)
        return known[1].get(name)

    def put(self, times_ms: Mapping[str, float], fingerprint: Mapping[str, Any]) -> None:
        """Keeps times; one of the same name and circumstances is replaced.

        Where they cannot be written, on a full disk for instance, a warning says so.

        Args:
            times_ms: Milliseconds by what was measured.
            fingerprint: The circumstances under which they were measured.

        Raises:
            ValueError: If a time is not a finite number of at least 0.
        """
        wrong = {name: ms for name, ms in times_ms.items() if not _is_time(ms)}
        if wrong:
            raise ValueError(f"Times must be finite and at least 0. Received: times_ms={wrong}")
        circumstances = _without_inputs(fingerprint)
        path = self._path(circumstances)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{path}.lock"):
                times = {**self._mend(path, circumstances), **times_ms}
                partial = path.with_suffix(f".{os.getpid()}")
                partial.write_text(json.dumps({"fingerprint": circumstances, "times_ms": times}))
                partial.replace(path)
                self._known[path] = (_stamp(path), times)
        except OSError as error:
            warnings.warn(
                f"Latencies could not be kept in {self.folder} and will be measured again: "
                f"{error}. Make the folder writable, or pass another one to `LatencyCache`.",
                stacklevel=2,
            )

    def _path(self, circumstances: Mapping[str, Any]) -> Path:
        text = json.dumps(circumstances, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"

    def _mend(self, path: Path, circumstances: Mapping[str, Any]) -> dict[str, float]:
        """Reads a file under its lock; a damaged one is set aside."""
        times, problem = _read(path, circumstances)
        if problem is not None:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            warnings.warn(
                f"Cached latencies could not be read ({problem}) and are measured again; the file "
                f"is kept as {aside}.",
                stacklevel=3,
            )
        return times


def _read(path: Path, circumstances: Mapping[str, Any]) -> tuple[dict[str, float], str | None]:
    """The times in a file, and what is wrong with it."""
    try:
        content = json.loads(path.read_text())
        times = content["times_ms"]
        if content["fingerprint"] == circumstances and all(map(_is_time, times.values())):
            return dict(times), None
        return {}, "it holds other things than its name says"
    except OSError:
        return {}, None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, f"{type(error).__name__}: {error}"


def _without_inputs(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in fingerprint.items() if key != "inputs"}
    return json.loads(json.dumps(plain))


def _is_time(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value >= 0


def _stamp(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino
