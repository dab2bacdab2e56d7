"""The command line: thin wrappers that check arguments before keras is imported.

Exit codes: 0 done; 1 a failure; 2 a mistake in a recipe, an argument or a file; 3 no configuration
met the latency budget, or a receipt does not hold; 130 interrupted.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from spade_keras import __version__
from spade_keras.cli.startup import BUDGET_NOT_MET, FAILURE, INTERRUPTED, MISTAKE
from spade_keras.errors import BudgetNotMetError, RecipeError, SpadeError

__all__ = ["BUDGET_NOT_MET", "COMMANDS", "FAILURE", "INTERRUPTED", "MISTAKE", "app", "main"]

# Name of a command -> "module:function".
COMMANDS = {
    "run": "recipes:run",
    "validate": "recipes:validate",
    "inspect": "models:inspect",
    "prune": "models:prune",
    "measure": "models:measure",
    "export": "models:export",
    "search": "searches:search",
    "search worker": "searches:work",
    "search proxy": "searches:proxy",
    "replay": "searches:replay",
}


class _Group(TyperGroup):
    """Commands of one word or of two (`search`, `search worker`), each imported when called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Imports a command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        single = typer.Typer(add_completion=False)
        home = importlib.import_module(f"{__name__}.{module}")
        single.command(cmd_name)(getattr(home, function))
        return typer.main.get_command(single)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Joins the first two words where they name a command."""
        two = " ".join(args[:2])
        return super().resolve_command(ctx, [two, *args[2:]] if two in COMMANDS else args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a Keras 3 network meet a measured latency budget.",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, by default the process's own, and returns the exit code."""
    try:
        app(args=arguments, prog_name="spade-keras")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILURE
    except RecipeError as error:
        return _fail(error.listed(), MISTAKE)
    except BudgetNotMetError as error:
        return _fail(f"Budget not met. {error}", BUDGET_NOT_MET)
    except (SpadeError, OSError) as error:
        return _fail(f"Error: {error}", FAILURE)
    return 0


def _fail(message: str, code: int) -> int:
    typer.echo(message, err=True)
    return code


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spade-keras {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Make a Keras 3 network meet a measured latency budget."""
