"""The command line: thin wrappers that check arguments before keras is imported.

Exit codes: 0 done; 1 a failure; 2 a mistake in a recipe, an argument or a file; 3 no configuration
met the latency budget, or a receipt does not hold; 130 interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from spade_keras import __version__
from spade_keras.cli import models, receipts, recipes, searches
from spade_keras.cli.arguments import BUDGET_NOT_MET, FAILURE, INTERRUPTED, MISTAKE
from spade_keras.errors import BudgetNotMetError, RecipeError, SpadeError

__all__ = ["BUDGET_NOT_MET", "FAILURE", "INTERRUPTED", "MISTAKE", "app", "main"]


class _Commands(TyperGroup):
    """Commands of one word or of two: `search`, `search worker`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Joins the first two words where they name a command."""
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in self.commands else args)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a Keras 3 network meet a measured latency budget.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Words after the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        app(args=arguments, prog_name="spade-keras")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILURE
    except RecipeError as error:
        errors.print(recipes.problem_list(error), markup=False)
        return MISTAKE
    except BudgetNotMetError as error:
        errors.print(f"Budget not met. {error}", markup=False)
        return BUDGET_NOT_MET
    except (SpadeError, OSError) as error:
        errors.print(f"Error: {error}", markup=False)
        return FAILURE
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"spade-keras {__version__}", highlight=False)
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Make a Keras 3 network meet a measured latency budget."""


for _command in (
    recipes.run,
    recipes.validate,
    models.inspect,
    models.prune,
    models.measure,
    models.export,
):
    app.command()(_command)
app.command("search")(searches.search)
app.command("search worker")(searches.work)
app.command()(receipts.replay)
