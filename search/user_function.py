"""Functions of the user's own, named on the command line as `module:function`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spade_keras.errors import UserFunctionError


def load_function(spec: str, *, argument: str = "evaluate") -> Callable[..., Any]:
    """Imports a function, from the current folder first, as `python -m` does.

    Args:
        spec: "module:function"; both may have dots.
        argument: What the user calls it, for errors.

    Returns:
        The function.

    Raises:
        UserFunctionError: If `spec` has another form, or there is no such module or function.

    Example:
        >>> load_function("math:sqrt")(9.0)
        3.0
    """
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path):
        raise UserFunctionError(
            f"`{argument}` must read module:function, such as my_metrics:accuracy for the function "
            f"`accuracy` in my_metrics.py. Received: {argument}={spec!r}"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise UserFunctionError(
            f"`{argument}` must name a module that can be imported from {here} or is installed. "
            f"Received: {argument}={spec!r}, and there is no module {error.name!r}."
        ) from error
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
    return found
