"""Ctrl-C in a search: once to stop after the trial under way, twice to stop at once."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Any


class Interruption:
    """Asks a loop to stop at the first Ctrl-C, and leaves the second one to the system.

    A study survives being killed at any moment, so ending at once loses the current trial only.
    Python delivers Ctrl-C to the main thread; in another one this does nothing.

    Example:
        >>> with Interruption() as interruption:
        ...     interruption.requested
        False
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = None

    def __enter__(self) -> Interruption:
        # A process started to ignore Ctrl-C (nohup, a shell's background job) still ignores it.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(self, *failure: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Stops the loop that calls it, if that was asked for.

        Raises:
            KeyboardInterrupt: If Ctrl-C was pressed.
        """
        if self.requested:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
        sys.stderr.write(
            f"{show_cursor}\nStopping after this trial. Ctrl-C again stops at once; either way the "
            "study is intact.\n"
        )
        sys.stderr.flush()
