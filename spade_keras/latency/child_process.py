"""Running Python in its own process; errors hold its whole output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from spade_keras.errors import ChildFailedError, SpadeError


def run_python(
    arguments: Sequence[str | Path],
    *,
    purpose: str,
    environment: Mapping[str, str | None],
    folder: Path,
    timeout_s: float = 1800.0,
    raises: type[SpadeError] = ChildFailedError,
) -> None:
    """Runs the interpreter of this process and waits for it.

    Args:
        arguments: Words after `python` on the command line.
        purpose: Purpose of the process, for the error.
        environment: Variables to set, or to unset where the value is None.
        folder: Its working folder.
        timeout_s: Seconds after which it is killed.
        raises: The error to raise.

    Raises:
        ChildFailedError: Or `raises`: if it fails or takes longer; holds its output.
    """
    variables = dict(os.environ)
    for name, value in environment.items():
        if value is None:
            variables.pop(name, None)
        else:
            variables[name] = value
    command = [sys.executable, *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            env=variables,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or b""
        text = said if isinstance(said, str) else said.decode(errors="replace")
        raise raises(
            f"The process that {purpose} did not end within {timeout_s:g} s. It wrote:\n{text}"
        ) from None
    if done.returncode != 0:
        raise raises(
            f"The process that {purpose} failed with exit code {done.returncode}. "
            f"It wrote:\n{done.stdout}"
        )
