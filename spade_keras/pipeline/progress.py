"""Live progress on the terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from spade_keras.search.result import TrialRecord


class ProgressBar:
    """A bar with a count and a remark; without a terminal, a line now and then.

    Args:
        console: Where to draw.
        label: Name of the counted things.
        total: How many there will be.
    """

    _SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, console: Console, label: str, total: int) -> None:
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
        self._progress.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._progress.stop()

    def advance_to(self, done: int) -> None:
        """Counts up to a number."""
        for _ in range(done - self._done):
            self.advance()

    def advance(self, remark: str = "") -> None:
        """Counts one more."""
        self._done += 1
        self._progress.update(self._task, advance=1, remark=remark)
        due = time.monotonic() - self._printed >= self._SECONDS_BETWEEN_LINES
        if self._progress.disable and (due or self._done == self._total):
            self._printed = time.monotonic()
            self._console.print(f"  {self._label} {self._done}/{self._total}  {remark}")


class EpochProgress(keras.callbacks.Callback):
    """Draws a training's epochs and their losses.

    Args:
        console: Where to draw.
        label: Name of the trained network.
        epochs: Their number.
    """

    def __init__(self, console: Console, label: str, epochs: int) -> None:
        super().__init__()
        self._bar = ProgressBar(console, label, epochs)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Draws the empty bar."""
        self._bar.__enter__()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Advances by one epoch."""
        self._bar.advance(", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items()))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the bar."""
        self._bar.__exit__()


@contextmanager
def stage_line(console: Console, name: str, what: str) -> Iterator[None]:
    """Prints a stage's name when it starts and its seconds when it ends."""
    console.print(f"[bold]{name}[/]: {what}")
    started = time.monotonic()
    yield
    console.print(f"  [green]done[/] in {time.monotonic() - started:.1f} s", highlight=False)


def describe_trial(trial: TrialRecord) -> str:
    """Describes the outcome of a trial in a few words."""
    if trial.timing is None:
        return f"#{trial.number} failed: {trial.reason}"
    quality = trial.state if trial.quality is None else f"quality {trial.quality:.4g}"
    return f"#{trial.number} {trial.origin}: ratio {trial.timing.latency_ratio:.3f}, {quality}"
