"""Folders that are either complete or absent."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def complete_folder(target: Path, marker: str) -> Iterator[Path]:
    """Yields a folder to fill, which becomes `target` if the block ends without an error.

    Every file is flushed to the disk before the folder gets its name, so that neither a kill nor
    a power cut leaves half of it there. An older `target` is replaced.

    Args:
        target: The folder to make.
        marker: A file that an older `target` must hold to be replaced, lest a wrong path cost
            the user a folder of something else.

    Yields:
        An empty folder beside `target`.

    Raises:
        ValueError: If `target` is there, is not empty and does not hold `marker`.
    """
    if target.exists() and not (target / marker).exists():
        if not target.is_dir() or any(target.iterdir()):
            raise ValueError(
                f"`folder` must be new, empty or an earlier export (with a {marker}). "
                f"Received: folder={target}. Choose another folder."
            )
        target.rmdir()
    target.parent.mkdir(parents=True, exist_ok=True)
    workspace = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        fresh = workspace / "fresh"
        fresh.mkdir()
        yield fresh
        _flush(fresh)
        if target.exists():
            target.rename(workspace / "old")
        fresh.rename(target)
        _flush_one(target.parent)
    finally:
        shutil.rmtree(workspace)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        _flush_one(path)
    _flush_one(folder)


def _flush_one(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
