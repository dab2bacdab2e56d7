"""The commands that take recipes: run and validate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spade_keras.cli.arguments import INTERRUPTED, MISTAKE
from spade_keras.cli.startup import import_keras
from spade_keras.errors import RecipeError


def run(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
) -> None:
    """Train, search or transfer, prune, evaluate, export and report.

    A run that was stopped goes on where it was: give the same command again.
    """
    from spade_keras.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    console = Console()
    try:
        import_keras()
        from spade_keras import pipeline

        metrics = pipeline.run(settings, console)
    except KeyboardInterrupt:
        Console(stderr=True).print("\nInterrupted. To continue, run the same command again.")
        raise typer.Exit(INTERRUPTED) from None
    console.print(pipeline.closing_table(metrics))
    for name in ("report.html", "metrics.json"):
        console.print(f"{settings.run_folder / name}", soft_wrap=True, highlight=False)


def validate(
    paths: Annotated[list[str], typer.Argument(metavar="PATHS...", help="Recipes or folders.")],
) -> None:
    """Report every mistake in every recipe, before any work."""
    from spade_keras.recipe import load_recipe

    console = Console(soft_wrap=True, highlight=False)
    faulty = 0
    for path in _recipe_files(paths):
        try:
            load_recipe(path)
        except RecipeError as error:
            faulty += 1
            console.print(f"{path}\n{problem_list(error)}", markup=False)
        else:
            console.print(f"{path}: valid", markup=False)
    if faulty:
        raise typer.Exit(MISTAKE)


def _recipe_files(paths: Sequence[str]) -> list[str]:
    files: list[str] = []
    for path in paths:
        if Path(path).is_dir():
            found = sorted(str(file) for file in Path(path).rglob("*.toml"))
            if not found:
                raise typer.BadParameter(f"There is no .toml file in {path}.")
            files += found
        else:
            files.append(path)
    return files


def problem_list(error: RecipeError) -> str:
    """Lists the mistakes of a recipe."""
    count = len(error.problems)
    lines = [f"{count} mistake{'s' if count > 1 else ''}:"]
    return "\n".join(lines + [f"  - {problem}" for problem in error.problems])
