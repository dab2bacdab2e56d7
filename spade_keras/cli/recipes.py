"""The commands that take recipes: run and validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_keras.cli.startup import INTERRUPTED, MISTAKE, import_keras, prepare_backend
from spade_keras.errors import RecipeError


def run(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
) -> None:
    """Train, search or transfer, prune, evaluate, export and report.

    A run that was stopped continues where it stopped: give the same command again.
    """
    from rich.console import Console

    from spade_keras.recipe import load_recipe

    prepare_backend()
    settings = load_recipe(recipe, overrides or ())
    console = Console()
    try:
        import_keras()
        from spade_keras import pipeline

        metrics = pipeline.run(settings, console)
    except KeyboardInterrupt:
        typer.echo("\nInterrupted. To continue, run the same command again.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    console.print(pipeline.closing_table(metrics))
    for name in ("report.html", "metrics.json"):
        typer.echo(settings.run_folder / name)


def validate(
    paths: Annotated[list[str], typer.Argument(metavar="PATHS...", help="Recipes or folders.")],
) -> None:
    """Report every mistake in every recipe, before any work."""
    from spade_keras.recipe import load_recipe

    prepare_backend()
    faulty = 0
    for path in [file for place in paths for file in _recipe_files(place)]:
        try:
            load_recipe(path)
        except RecipeError as error:
            faulty += 1
            typer.echo(f"{path}\n{error.listed()}")
        else:
            typer.echo(f"{path}: valid")
    if faulty:
        raise typer.Exit(MISTAKE)


def _recipe_files(path: str) -> list[str]:
    if not Path(path).is_dir():
        return [path]
    files = sorted(str(file) for file in Path(path).rglob("*.toml"))
    if not files:
        raise typer.BadParameter(f"There is no .toml file in {path}.")
    return files
