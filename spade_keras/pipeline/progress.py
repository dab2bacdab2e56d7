"""Live progress on the terminal, and Ctrl-C in a search."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from spade_keras.search.result import TrialRecord

_SECONDS_BETWEEN_LINES = 10.0


class ProgressBar:
    """A bar with a count and a remark; without a terminal, a line now and then.

    Args:
        console: Where to draw.
        label: Name of the counted things.
        total: How many there will be; None until `advance_to` says so, and no bar till then.
    """

    def __init__(self, console: Console, label: str, total: int | None = None) -> None:
        self._console = console
        self._label = label
        self._total = total
        self._done = 0
        self._printed = time.monotonic()
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[remark]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(label, total=total, remark="")

    def __enter__(self) -> ProgressBar:
        if self._total is not None:
            self._progress.start()
        return self

    def __exit__(self, *failure: object) -> None:
        if self._total is not None:
            self._progress.stop()

    def advance_to(self, done: int, total: int) -> None:
        """Counts up to a number of `total` things."""
        self._total = total
        self._progress.start()
        self._progress.update(self._task, total=total)
        for _ in range(done - self._done):
            self.advance()

    def advance(self, remark: str = "") -> None:
        """Counts one more."""
        self._done += 1
        self._progress.update(self._task, advance=1, remark=remark)
        due = time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES
        if self._progress.disable and (due or self._done == self._total):
            self._printed = time.monotonic()
            self._console.print(f"  {self._label} {self._done}/{self._total}  {remark}")


@contextlib.contextmanager
def epochs_shown(
    console: Console, label: str, epochs: int
) -> Iterator[keras.callbacks.LambdaCallback]:
    """Yields a callback that shows the epochs of one training, or several, and their losses."""
    with ProgressBar(console, label, epochs) as bar:

        def show(epoch: int, logs: dict[str, Any] | None) -> None:
            bar.advance(", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items()))

        yield keras.callbacks.LambdaCallback(on_epoch_end=show)


@contextlib.contextmanager
def stage_line(console: Console, name: str, what: str) -> Iterator[None]:
    """Prints a stage's name when it starts and its seconds when it ends."""
    console.print(f"[bold]{name}[/]: {what}")
    started = time.monotonic()
    yield
    console.print(f"  [green]done[/] in {time.monotonic() - started:.1f} s", highlight=False)


@contextlib.contextmanager
def trials_shown(console: Console, trials: int) -> Iterator[Callable[[TrialRecord], None]]:
    """Shows the trials of a search, to be called after each; stops there if Ctrl-C was pressed."""
    with Interruption() as interruption, ProgressBar(console, "trial", trials) as bar:

        def after(trial: TrialRecord) -> None:
            bar.advance(describe_trial(trial))
            if interruption.requested:
                raise KeyboardInterrupt

        yield after


def describe_trial(trial: TrialRecord) -> str:
    """Describes the outcome of a trial in a few words."""
    if trial.timing is None:
        return f"#{trial.number} failed: {trial.reason}"
    quality = trial.state if trial.quality is None else f"quality {trial.quality:.4g}"
    return f"#{trial.number} {trial.origin}: ratio {trial.timing.latency_ratio:.3f}, {quality}"


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

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
        sys.stderr.write(
            f"{show_cursor}\nStopping after this trial. Ctrl-C again stops at once; either way the "
            "study is intact.\n"
        )
        sys.stderr.flush()
