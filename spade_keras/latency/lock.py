"""One timing at a time: a lock per device, shared by all processes of a user."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock

from spade_keras import backend
from spade_keras.errors import DeviceBusyError
from spade_keras.latency.cache import user_cache_folder


@contextlib.contextmanager
def device_lock(timeout_s: float = 600.0) -> Iterator[Path]:
    """Holds the device for timing, so that no other timing disturbs this one.

    The lock is the operating system's, in the user's cache folder: a killed process releases it.
    A thread that holds the lock may take it again.

    Raises:
        DeviceBusyError: If another process still holds it after `timeout_s`; names that one.
    """
    path = lock_path()
    lock = filelock.FileLock(path, is_singleton=True)
    holder = path.with_suffix(".json")
    try:
        lock.acquire(timeout=timeout_s)
    except filelock.Timeout:
        raise DeviceBusyError(
            f"Another process is timing on this device: {_describe(holder)}. Waited "
            f"{timeout_s:g} s for the lock {path}. Wait for that process or end it, or pass "
            "`lock=False` to time all the same, with times that disturb each other."
        ) from None
    try:
        since = datetime.datetime.now().isoformat(timespec="seconds")
        command = (" ".join(sys.argv) or "python")[:200]
        record = {"process": os.getpid(), "command": command, "since": since}
        holder.write_text(json.dumps(record))
        yield path
    finally:
        lock.release()


def lock_path() -> Path:
    """Returns the lock file of the device in use; its folder is made if it is missing."""
    kind = backend.device().kind
    # Processes see GPUs under their own numbers; the variable tells which ones they share.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip() or "0"
    safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in visible)
    name = kind if kind == "cpu" else f"{kind}-{safe}"
    return user_cache_folder("locks") / f"{name}.lock"


def _describe(holder: Path) -> str:
    try:
        known = json.loads(holder.read_text())
        return f"process {known['process']} ({known['command']}), since {known['since']}"
    except (OSError, ValueError, KeyError):  # missing, or half written
        return "an unknown process"
