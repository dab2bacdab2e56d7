"""Modules and functions of the user's own, with what they raise told in a few lines."""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from spade_keras.errors import UserCodeError, UserFunctionError
from spade_keras.search.user_function import load_function

_LAST_FRAMES = 4


def import_module(name: str, option: str, folder: str | Path | None = None) -> ModuleType:
    """Imports a module of the user's, such as one that registers layers.

    Args:
        name: Its dotted name.
        option: The option that named it, for errors.
        folder: Searched first; by default the current folder.

    Raises:
        UserFunctionError: If there is no such module.
        UserCodeError: If it raises while it is imported.
    """
    place = _search_first(folder)
    try:
        with _told(f"`{option}`: importing {name}"):
            return importlib.import_module(name)
    except UserCodeError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{name}.".startswith(f"{missing.name}."):
            raise UserFunctionError(
                f"`{option}` must name a module in {place} or an installed one. Received: "
                f"{option}={name}, and there is no module {missing.name!r}."
            ) from missing
        raise


def import_function(spec: str, option: str, folder: str | Path | None = None) -> Callable[..., Any]:
    """Imports a function of the user's; what it raises later becomes a `UserCodeError`.

    Args:
        spec: "module:function".
        option: The option that named it, for errors.
        folder: Searched first; by default the current folder.

    Returns:
        The function.

    Raises:
        UserFunctionError: If the text reads otherwise, or there is no such module or function.
        UserCodeError: If the module raises while it is imported.
    """
    _search_first(folder)
    with _told(f"`{option}`: importing {spec.partition(':')[0]}"):
        function = load_function(spec, argument=option)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with _told(f"`{option}`: {spec}"):
            return function(*arguments, **keywords)

    return call


def _search_first(folder: str | Path | None) -> Path:
    place = Path(folder or ".").resolve()
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    return place


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turns an error of the user's code into one with the frames that matter to the user."""
    try:
        yield
    except (UserFunctionError, UserCodeError):
        raise
    except Exception as error:
        here = {__file__, load_function.__code__.co_filename, contextlib.__file__}
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename not in here and "importlib" not in frame.filename
        ]
        shown = "".join(traceback.format_list(frames[:1] + frames[1:][-_LAST_FRAMES:])).rstrip()
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UserCodeError(f"{what} raised {said}\n{shown}") from error
