"""Where files live that the processes of a user share."""

from __future__ import annotations

import getpass
import os
import sys
import tempfile
from pathlib import Path


def user_cache_folder(name: str) -> Path:
    """Returns a folder of spade-keras in the user's cache; it is made if it is missing.

    Where the cache cannot be written to, as in many containers, the folder lies among the
    temporary files.

    Args:
        name: Name of the folder, such as "locks".
    """
    folder = _cache() / "spade-keras" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK)
    except OSError:
        usable = False
    if not usable:
        folder = Path(tempfile.gettempdir()) / f"spade-keras-{name}-{getpass.getuser()}"
        folder.mkdir(exist_ok=True)
    return folder


def _cache() -> Path:
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"])
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", str(Path.home() / "AppData" / "Local")))
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path.home() / ".cache"
