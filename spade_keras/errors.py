"""Errors a user can act on; every one says what to do next."""

from __future__ import annotations

from collections.abc import Sequence


class SpadeError(Exception):
    """Base of every error raised on purpose by spade-keras."""


class RecipeError(SpadeError):
    """A recipe is wrong; lists every mistake at once.

    Args:
        problems: One sentence per mistake, each naming the key and what is allowed.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class BudgetNotMetError(SpadeError):
    """No configuration met the latency budget; carries the fastest one found."""


class StorageError(SpadeError):
    """The trials of a search cannot be read or written; says where they are kept."""


class MissingExtraError(SpadeError, ImportError):
    """An optional package is not installed.

    Args:
        package: The import that failed.
        extra: The optional dependency group of spade-keras that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"`{package}` is not installed. Install it with: pip install 'spade-keras[{extra}]'"
        )
