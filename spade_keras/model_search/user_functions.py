"""Functions of the user's own, named `module:function` on the command line."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from spade_keras.errors import SpadeError

_FRAMES = 4


class UserCodeError(SpadeError):
    """Code of the user's raised; says where, by the last lines of its traceback."""


def import_module(name: str, option: str, folder: str | Path | None = None) -> ModuleType:
    """Imports a module of the user's, also from the current folder.

    Args:
        name: Its dotted name.
        option: The option that named it, for errors.
        folder: Searched first; by default the current folder.

    Raises:
        ValueError: If there is no such module.
        UserCodeError: If it raises while it is imported.
    """
    place = str(Path(folder or ".").resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _blame(error, f"`{option}`: importing {name}") from error
        raise ValueError(
            f"`{option}` names the module {error.name}, which was not found in {place} nor among "
            f"the installed packages. Received: {option}={name}"
        ) from error
    except (ValueError, TypeError) as error:
        if not name or name.startswith("."):
            raise ValueError(
                f"`{option}` must name a module. Received: {option}={name!r}"
            ) from error
        raise _blame(error, f"`{option}`: importing {name}") from error
    except Exception as error:
        raise _blame(error, f"`{option}`: importing {name}") from error


def import_function(spec: str, option: str, folder: str | Path | None = None) -> Callable[..., Any]:
    """Imports a function of the user's; what it raises later becomes a `UserCodeError`.

    Args:
        spec: "module:function".
        option: The option that named it, for errors.
        folder: Searched first; by default the current folder.

    Returns:
        The function.

    Raises:
        ValueError: If the text reads otherwise, or there is no such module or function.
        UserCodeError: If the module raises while it is imported.
    """
    module_name, colon, name = spec.partition(":")
    if not (colon and module_name and name):
        raise ValueError(
            f"`{option}` must read module:function, as in my_task:evaluate for the function "
            f"evaluate in my_task.py. Received: {option}={spec}"
        )
    module = import_module(module_name, option, folder)
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        )
        raise ValueError(
            f"`{option}` must name a function. Received: {option}={spec}, but {module.__file__} "
            f"defines {', '.join(known) or 'no function'}"
        )

    def call(*arguments: Any, **keywords: Any) -> Any:
        try:
            return function(*arguments, **keywords)
        except Exception as error:
            raise _blame(error, f"`{option}`: {spec}") from error

    return call


def _blame(error: Exception, what: str) -> UserCodeError:
    """The error with the last frames of the user's code, without those that led there."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__
        and not frame.filename.startswith("<frozen importlib")
        and not frame.filename.endswith("importlib/__init__.py")
    ]
    shown = "".join(traceback.format_list(frames[:1] + frames[1:][-_FRAMES:])).rstrip()
    said = f"{type(error).__name__}: {error}".rstrip(": ")
    return UserCodeError(f"{what} raised {said}\n{shown}")
