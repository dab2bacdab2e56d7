"""The folder of a search: claimed by one process, its results whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from spade_keras.errors import JobMismatchError, SpadeError
from spade_keras.files import write_json_atomic
from spade_keras.model_search.job import SearchJob
from spade_keras.search.layer_table import LayerTable

JOURNAL = "study.journal"
RESULTS = ("search.json", "report.json", "report.html", "plan.json", "slim.keras", "receipt.json")
"""What a search leaves; the receipt is moved in last and removed first."""

_JOB, _TABLE, _LOCK, _FRESH = "job.json", "layers.json", ".lock", ".results-"


@contextlib.contextmanager
def claimed(folder: Path, job: SearchJob) -> Iterator[None]:
    """Holds a folder that is new, empty, or that of the same search.

    Args:
        folder: The folder; it is made if it is missing.
        job: The search.

    Raises:
        JobMismatchError: If it holds something else.
        SpadeError: If another process is searching into it.
    """
    marker = folder / _JOB
    others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    strange = [name for name in others if name != _LOCK and not name.startswith(JOURNAL)]
    if not marker.exists() and (strange or (folder.exists() and not folder.is_dir())):
        raise JobMismatchError(
            f"`-o` must be a new or empty folder, or that of the same search (with a {_JOB}). "
            f"Received: -o {folder}, which holds {', '.join(sorted(strange)[:5]) or 'a file'}. "
            "Choose another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise SpadeError(
            f"Another process is searching into this folder. Received: -o {folder}. Wait for it, "
            "or help it with: spade-keras search worker"
        ) from None
    try:
        if marker.exists():
            job.check_same(_read_job(marker), f"The folder {folder}")
        for left in folder.glob(f"{_FRESH}*"):
            shutil.rmtree(left)
        yield
    finally:
        lock.release()


def mark(folder: Path, job: SearchJob) -> None:
    """Makes a claimed folder that of a search, once it is known that the search can begin."""
    write_json_atomic(folder / _JOB, job.as_dict())


@contextlib.contextmanager
def results(folder: Path) -> Iterator[Path]:
    """Yields an empty folder, and moves what was written into it to its place at the end.

    What an earlier end of the search left is removed: a receipt is only ever there beside the
    files it speaks of.

    Args:
        folder: The folder of the search.
    """
    fresh = folder / f"{_FRESH}{os.getpid()}"
    fresh.mkdir()
    try:
        yield fresh
        for name in reversed(RESULTS):
            (folder / name).unlink(missing_ok=True)
        for name in RESULTS:
            if (fresh / name).exists():
                os.replace(fresh / name, folder / name)
    finally:
        shutil.rmtree(fresh)


def kept_table(folder: Path, table: LayerTable | None) -> LayerTable | None:
    """Keeps the layers' times for when the search goes on, or returns those kept.

    Args:
        folder: The folder of the search.
        table: The times, if they were measured just now.
    """
    path = folder / _TABLE
    if table is not None:
        write_json_atomic(path, table.as_dict())
        return table
    try:
        return LayerTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise JobMismatchError(
            f"{path} cannot be read: {error}. Remove it to go on without the layers' times."
        ) from error


def _read_job(path: Path) -> SearchJob:
    try:
        return SearchJob.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobMismatchError(
            f"{path} cannot be read, so it cannot be told which search the folder holds: {error}. "
            "Choose another folder."
        ) from error
