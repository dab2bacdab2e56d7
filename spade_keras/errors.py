"""Errors a user can act on; every message says what to do next."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path


class SpadeError(Exception):
    """Base of every error that spade-keras raises on purpose."""


def require(condition: object, rule: str, /, **received: object) -> None:
    """Raises a ValueError that ends in what was received, unless the condition holds.

    Args:
        condition: What must be true.
        rule: What is allowed, and the next step: one or more sentences.
        **received: The arguments that break the rule, by name.

    Example:
        >>> require(50 < 1, "`ratio` must be below 1. For 50 % pass 0.5.", ratio=50)
        Traceback (most recent call last):
        ...
        ValueError: `ratio` must be below 1. For 50 % pass 0.5. Received: ratio=50
    """
    if not condition:
        values = ", ".join(f"{name}={value!r}" for name, value in received.items())
        raise ValueError(f"{rule} Received: {values}")


# Recipes and files


class RecipeError(SpadeError):
    """A recipe is wrong: `problems` has one sentence per mistake."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def listed(self) -> str:
        """Returns the mistakes as a list, with their number."""
        count = len(self.problems)
        lines = [f"{count} mistake{'s' if count > 1 else ''}:"]
        return "\n".join(lines + [f"  - {problem}" for problem in self.problems])


@dataclasses.dataclass(eq=False)
class BadFileError(SpadeError):
    """A data file lacks expected content in `key`: a data set, array, attribute or "content"."""

    file: str | Path
    key: str
    expected: str
    received: str
    remedy: str

    def __post_init__(self) -> None:
        self.file = str(self.file)

    def __str__(self) -> str:
        return (
            f"`{self.file}`: `{self.key}` must be {self.expected}. {self.remedy} "
            f"Received: {self.key}={self.received}"
        )

    def __reduce__(self) -> tuple:
        # Data loaders run in other processes, and their errors are pickled on the way back.
        return type(self), dataclasses.astuple(self)


class MissingExtraError(SpadeError, ImportError):
    """A package of an optional dependency group of spade-keras, `extra`, is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"`{package}` is not installed. Install it with: pip install 'spade-keras[{extra}]'"
        )


@contextlib.contextmanager
def importing(package: str, extra: str) -> Iterator[None]:
    """Turns a failed import of an optional package into a `MissingExtraError`.

    Example:
        >>> with importing("json", "recipes"):
        ...     import json
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(package, extra) from error


# Pruning


class TraceError(SpadeError):
    """The `call` of a model or layer cannot be turned into a graph."""


class PlanMismatchError(SpadeError, ValueError):
    """A plan was made for another model."""


class RebuildError(SpadeError):
    """A layer cannot be rebuilt."""


class VerificationError(SpadeError):
    """A slim model differs from its masked original, or the check would not have noticed."""


class OpenSizesError(SpadeError, ValueError):
    """Multiply-accumulates depend on input sizes that are not known."""


class NotDecomposedError(SpadeError, ValueError):
    """A model has no basis scaling layers."""


# Search, latency and export


class CandidateError(SpadeError):
    """A candidate could not be built, timed or judged; the search continues without it."""


class BudgetNotMetError(SpadeError):
    """No configuration met the latency budget; carries the fastest one found."""


class StorageError(SpadeError):
    """The trials of a search cannot be read or written; names the storage."""


class JobMismatchError(SpadeError, ValueError):
    """A study or a folder belongs to another search."""


class UserFunctionError(SpadeError, ValueError):
    """A user's function cannot be found, or returns something of the wrong kind."""


class UserCodeError(SpadeError):
    """A user's function raised; the message holds the last lines of its traceback."""


class WeightsError(SpadeError, ValueError):
    """No such trained weights ship with the package, or they are damaged."""


class ReceiptError(SpadeError, ValueError):
    """A receipt is corrupt, was edited, or refers to different files."""


class DeviceBusyError(SpadeError, TimeoutError):
    """Another process held the device's timing lock for longer than this one waits."""


class ChildFailedError(SpadeError):
    """A child process failed or took too long."""


class FreshProcessError(ChildFailedError):
    """A comparison failed in its own process; holds the error from there."""


class ExportError(SpadeError):
    """A model could not be exported, or the export does not match the model."""
