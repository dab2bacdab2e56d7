"""Stage folders that are either complete or absent, so that a killed run can continue.

A stage writes into a hidden folder beside its final place; when it is done, a record goes in, every
file is flushed to the disk, and one rename makes the stage visible.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from spade_keras import __version__
from spade_keras.errors import SpadeError
from spade_keras.files import fsync, jsonable

RECORD = "stage.json"
_LEFTOVER = re.compile(r"^\.(attempt|removed|file)-")


class Stages:
    """The stages of one run, kept in one folder that a single process may work on at a time.

    Args:
        folder: The run's folder; made when the first stage runs.
        results: Names of files in `folder` that are made from the stages. They are removed as soon
            as a stage has to be made again, so that they never describe another run.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Stages(folder) as stages:
        ...     made = stages.run("greet", {"word": "hi"}, lambda at: at.joinpath("a").touch())
        ...     again = stages.is_done("greet", {"word": "hi"})
        >>> made.name, again
        ('greet', True)
    """

    def __init__(self, folder: str | Path, results: Sequence[str] = ()) -> None:
        self.folder = Path(folder)
        self._results = tuple(results)
        self._lock = FileLock(self.folder / ".lock", timeout=0)

    def __enter__(self) -> Stages:
        """Takes the folder's lock and removes what killed attempts left behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise SpadeError(
                "Another process is working in this folder. Wait for it to end, or choose another "
                f"one (`run.name`, -o). Received: folder={self.folder}"
            ) from None
        if self._lock.lock_counter == 1:
            for path in filter(lambda path: _LEFTOVER.match(path.name), self.folder.iterdir()):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return self

    def __exit__(self, *failure: object) -> None:
        """Gives the lock back."""
        self._lock.release()

    def run(
        self,
        name: str,
        inputs_hash_material: Mapping[str, Any],
        make: Callable[[Path], None],
        *,
        after: Sequence[str] = (),
        keep_partial: bool = False,
    ) -> Path:
        """Makes a stage, unless it is there and was made from the same inputs; returns its folder.

        When a stage is made again, everything that was made from it is removed: nothing stale
        stays beside fresh results.

        Args:
            name: The stage's name and folder: letters, digits, '_' and '-'.
            inputs_hash_material: Everything the result depends on: nested dicts, lists, numbers,
                strings, paths.
            make: Fills the folder it is given. When it raises, the stage does not exist.
            after: Stages this one reads. Making one of them again makes this one again.
            keep_partial: Whether an interrupted attempt's folder is kept for the next attempt with
                the same inputs, for a `make` that can continue.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise SpadeError(
                f"`name` must be of letters, digits, '_' and '-'. Received: name={name!r}"
            )
        with self:
            digest = self._digest(inputs_hash_material, after)
            target = self.folder / name
            if self._holds(name, digest):
                return target
            for result in self._results:
                (self.folder / result).unlink(missing_ok=True)
            self._remove(name)
            attempt = self.folder / f".attempt-{name}"
            if keep_partial:
                attempt = self.folder / f".partial-{name}-{digest[:16]}"
            for path in self.folder.glob(f".partial-{name}-" + "[0-9a-f]" * 16):
                if path != attempt:
                    shutil.rmtree(path)
            attempt.mkdir(exist_ok=True)
            started = time.perf_counter()
            try:
                make(attempt)
            except BaseException:
                if not keep_partial:
                    shutil.rmtree(attempt, ignore_errors=True)
                raise
            self._publish(attempt, target, digest, after, time.perf_counter() - started)
            return target

    def is_done(
        self, name: str, inputs_hash_material: Mapping[str, Any], *, after: Sequence[str] = ()
    ) -> bool:
        """Returns whether `run` with these arguments would skip the stage."""
        if any(self._record(stage) is None for stage in after):
            return False
        return self._holds(name, self._digest(inputs_hash_material, after))

    def seconds(self) -> dict[str, float]:
        """Returns the seconds each finished stage took, in the order they finished.

        For a stage that was interrupted, only the attempt that finished it counts.
        """
        found = [self._record(path.parent.name) for path in self.folder.glob(f"*/{RECORD}")]
        records = sorted(filter(None, found), key=lambda record: record["finished"])
        return {record["name"]: record["seconds"] for record in records}

    def _digest(self, material: Mapping[str, Any], after: Sequence[str]) -> str:
        identities = {}
        for stage in after:
            record = self._record(stage)
            if record is None:
                raise SpadeError(
                    f"`after` must name finished stages. Received: after={list(after)}, of which "
                    f"{stage!r} is not finished in {self.folder}"
                )
            identities[stage] = record["identity"]
        content = {"material": material, "after": identities, "version": __version__}
        text = json.dumps(content, sort_keys=True, default=jsonable)
        return hashlib.sha256(text.encode()).hexdigest()

    def _record(self, name: str) -> dict[str, Any] | None:
        """The done-record of a stage whose files are all there, else None."""
        folder = self.folder / name
        try:
            record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            sizes = {path: (folder / path).stat().st_size for path in record["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None  # Absent, or edited by hand: either way the stage is made again.
        return record if sizes == record["files"] else None

    def _holds(self, name: str, digest: str) -> bool:
        record = self._record(name)
        return record is not None and record["inputs_hash"] == digest

    def _publish(
        self, attempt: Path, target: Path, digest: str, after: Sequence[str], seconds: float
    ) -> None:
        files = sorted(path for path in attempt.rglob("*") if path.is_file())
        record = {
            "name": target.name,
            "inputs_hash": digest,
            "identity": secrets.token_hex(16),
            "after": list(after),
            "seconds": round(seconds, 3),
            "finished": time.time(),
            "files": {path.relative_to(attempt).as_posix(): path.stat().st_size for path in files},
        }
        (attempt / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for path in [*attempt.rglob("*"), attempt]:
            fsync(path)
        os.rename(attempt, target)
        fsync(self.folder)

    def _remove(self, name: str) -> None:
        """Removes a stage and, before it, everything that was made from it."""
        for path in sorted(self.folder.glob(f"*/{RECORD}")):
            other = path.parent.name
            record = self._record(other)
            if other != name and record is not None and name in record["after"]:
                self._remove(other)
        folder = self.folder / name
        if folder.exists():
            removed = self.folder / f".removed-{name}-{secrets.token_hex(4)}"
            os.rename(folder, removed)
            shutil.rmtree(removed)
