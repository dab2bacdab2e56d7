"""User functions and modules, named as `module:function`; their errors in a few lines."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from spade_keras.errors import UserCodeError, UserFunctionError

_LAST_FRAMES = 4


def import_module(
    name: str,
    *,
    argument: str = "--import",
    folder: str | Path | None = None,
    received: str | None = None,
) -> ModuleType:
    """Imports a user's module, such as one that registers layers.

    It is searched in `folder` first, by default the current one; errors name `argument` and what
    it `received`, by default the name.

    Raises:
        UserFunctionError: If there is no such module.
        UserCodeError: If it raises while it is imported.
    """
    place = Path(folder or ".").resolve()
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
    importlib.invalidate_caches()
    try:
        with _explained(f"`{argument}`: importing {name}"):
            return importlib.import_module(name)
    except UserCodeError as error:
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{name}.".startswith(f"{missing.name}."):
            raise UserFunctionError(
                f"`{argument}` must name a module in {place} or an installed one. Received: "
                f"{argument}={received or name!r}, and there is no module {missing.name!r}."
            ) from missing
        raise


def load_function(
    spec: str, *, argument: str = "evaluate", folder: str | Path | None = None
) -> Callable[..., Any]:
    """Imports a function given as "module:function", both maybe with dots; see `import_module`.

    Its later errors become a `UserCodeError`.

    Raises:
        UserFunctionError: If `spec` has another form, or there is no such module or function.
        UserCodeError: If the module raises while it is imported.
    """
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path):
        raise UserFunctionError(
            f"`{argument}` must read module:function, such as my_metrics:accuracy for the function "
            f"`accuracy` in my_metrics.py. Received: {argument}={spec!r}"
        )
    found: Any = import_module(module_name, argument=argument, folder=folder, received=spec)
    for name in path.split("."):
        if not hasattr(found, name):
            names = [known for known in vars(found) if not known.startswith("_")]
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" It has {sorted(names)[:8]}."
            raise UserFunctionError(
                f"`{argument}` must name a function of the module. Received: {argument}={spec!r}, "
                f"and {module_name!r} has no {name!r}.{hint}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise UserFunctionError(
            f"`{argument}` must name a function. Received: {argument}={spec!r}, which is a "
            f"{type(found).__name__}."
        )

    @functools.wraps(found)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with _explained(f"`{argument}`: {spec}"):
            return found(*arguments, **keywords)

    return call


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns an error of user code into one with the frames that matter to its author."""
    try:
        yield
    except (UserFunctionError, UserCodeError):
        raise
    except Exception as error:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename not in (__file__, contextlib.__file__)
            and "importlib" not in frame.filename
        ]
        shown = "".join(traceback.format_list(frames[:1] + frames[1:][-_LAST_FRAMES:])).rstrip()
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        raise UserCodeError(f"{what} raised {said}\n{shown}") from error
