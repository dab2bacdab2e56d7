"""The command line: thin wrappers that check arguments before keras is imported.

Exit codes: 0 done; 1 a failure; 2 a mistake in a recipe, an argument or a file; 3 no configuration
met the latency budget; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from spade_keras import __version__
from spade_keras.errors import BudgetNotMetError, RecipeError, SpadeError
from spade_keras.startup import import_keras

FAILURE, MISTAKE, BUDGET_NOT_MET, INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Make a Keras 3 network meet a measured latency budget.",
)

ModelFile = Annotated[
    Path,
    typer.Argument(metavar="MODEL", exists=True, dir_okay=False, help="A .keras file."),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--shape",
        metavar="[NAME=]N,...",
        help="Input shape, batch first: 1,256,256,2; once per input.",
    ),
]
InputsFile = Annotated[
    Path | None,
    typer.Option("--inputs", exists=True, dir_okay=False, help="An .npz file with real inputs."),
]


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
        errors.print(_problem_list(error), markup=False)
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


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[section.key=value]...")] = None,
) -> None:
    """Train, search, prune, fine-tune, evaluate, export and report.

    A run that was stopped goes on where it was: give the same command again.
    """
    from spade_keras.recipe import load_recipe

    settings = load_recipe(recipe, overrides or ())
    console = Console()
    try:
        import_keras()
        from spade_keras import pipeline, report

        metrics = pipeline.run(settings, console)
    except KeyboardInterrupt:
        Console(stderr=True).print("\nInterrupted. To continue, run the same command again.")
        raise typer.Exit(INTERRUPTED) from None
    console.print(report.closing_table(metrics))
    for name in ("report.html", "metrics.json"):
        console.print(f"{settings.run_folder / name}", soft_wrap=True, highlight=False)


@app.command()
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
            console.print(f"{path}\n{_problem_list(error)}", markup=False)
        else:
            console.print(f"{path}: valid", markup=False)
    if faulty:
        raise typer.Exit(MISTAKE)


@app.command()
def measure(
    model: ModelFile,
    shape: Shapes = None,
    inputs: InputsFile = None,
    repeats: Annotated[int, typer.Option(min=5, help="Timed calls.")] = 50,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="Time the model against itself: what can be resolved?"),
    ] = False,
) -> None:
    """Measure latency, parameters, multiply-accumulates and memory on this device."""
    _import_library()
    from spade_keras import latency, pruning

    network, arrays = _load(model, shape, inputs)
    if self_check:
        with _refusals_are_mistakes():
            check = latency.self_check(network, arrays, pairs=repeats)
        Console().print(str(check), markup=False, soft_wrap=True, highlight=False)
        return
    with _refusals_are_mistakes():
        timing = latency.measure(network, arrays, repeats=repeats)
        macs = pruning.count_macs(network, arrays)
    table = Table("quantity", "value", title=str(model))
    table.add_row("latency (median)", f"{timing.median_ms:.3f} ms")
    table.add_row("latency (quartiles)", f"{timing.q1_ms:.3f} to {timing.q3_ms:.3f} ms")
    table.add_row("latency (99th percentile)", f"{timing.p99_ms:.3f} ms")
    table.add_row("first call, with compilation", f"{timing.compile_ms:.0f} ms")
    table.add_row("parameters", f"{pruning.count_parameters(network):,}")
    table.add_row("multiply-accumulates", f"{macs.total:,}")
    if timing.peak_memory_bytes is not None:
        table.add_row("peak memory", f"{timing.peak_memory_bytes / 2**20:.1f} MiB")
    for key, value in timing.fingerprint.items():
        table.add_row(str(key), _plain(value))
    Console().print(table)


@app.command()
def export(
    model: ModelFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.")],
    shape: Shapes = None,
    inputs: InputsFile = None,
    format_: Annotated[
        str, typer.Option("--format", help="The format: saved_model.")
    ] = "saved_model",
) -> None:
    """Export a model for use without spade-keras."""
    if format_ != "saved_model":
        raise typer.BadParameter(f"`--format` must be saved_model. Received: {format_}")
    if output.exists():
        raise typer.BadParameter(f"`--output` must not exist yet. Received: {output}")
    _import_library()
    from spade_keras import export as exporting

    network, arrays = _load(model, shape, inputs)
    with _refusals_are_mistakes():
        exporting.saved_model(network, output, arrays)
    Console().print(f"Wrote {output}", soft_wrap=True, highlight=False)


@app.command()
def inspect(model: ModelFile) -> None:
    """Show the channel groups: what is coupled, what is fixed and why."""
    _import_library()
    from spade_keras.pruning import files

    with _refusals_are_mistakes():
        text = files.inspect_model(model)
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
def prune(
    model: ModelFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .keras file to write.")],
    ratio: Annotated[
        float | None, typer.Option(help="Fraction of channels to remove, 0 <= ratio < 1.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A plan made before (JSON).")
    ] = None,
    target_macs: Annotated[
        float | None, typer.Option(help="Multiply-accumulates to keep; below 1: a fraction.")
    ] = None,
    target_parameters: Annotated[
        float | None, typer.Option(help="Parameters to keep; below 1: a fraction.")
    ] = None,
    importance: Annotated[str, typer.Option(help="What ranks channels.")] = "group_l1",
    round_to: Annotated[int, typer.Option(min=1, help="Keep multiples of this width.")] = 1,
    shape: Annotated[
        str | None, typer.Option(metavar="N,...", help="Input shape, batch first.")
    ] = None,
) -> None:
    """Remove whole channels of any Keras model; give one of the four ways to say how many."""
    ways = {
        "--ratio": ratio,
        "--plan": plan,
        "--target-macs": target_macs,
        "--target-parameters": target_parameters,
    }
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        received = " ".join(given) or "none"
        raise typer.BadParameter(f"Give exactly one of {', '.join(ways)}. Received: {received}")
    if ratio is not None and not 0 <= ratio < 1:
        hint = f" For {ratio:g} % pass {ratio / 100:g}." if 1 < ratio < 100 else ""
        raise typer.BadParameter(f"`--ratio` must be in [0, 1). Received: {ratio:g}.{hint}")
    if output.suffix != ".keras" or not output.parent.is_dir():
        raise typer.BadParameter(
            f"`--output` must be a .keras file in an existing folder. Received: {output}"
        )
    _import_library()
    from spade_keras.model_inputs import parse_shape
    from spade_keras.pruning import files

    with _refusals_are_mistakes():
        text = files.prune_model(
            model,
            output,
            ratio=ratio,
            plan=plan,
            target_macs=target_macs,
            target_parameters=target_parameters,
            importance=importance,
            round_to=round_to,
            input_shape=None if shape is None else parse_shape(shape)[1],
        )
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


@contextlib.contextmanager
def _refusals_are_mistakes() -> Iterator[None]:
    """Turns the ValueError of an argument the library refuses into exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _import_library() -> None:
    """Imports keras and whatever registers classes that a `.keras` file may name."""
    import_keras()
    importlib.import_module("spade_keras.networks")


def _load(model: Path, shape: list[str] | None, inputs: Path | None) -> tuple[Any, Any]:
    from spade_keras.model_inputs import example_inputs
    from spade_keras.pruning.files import load_model_safely

    with _refusals_are_mistakes():
        network = load_model_safely(model)
        return network, example_inputs(network, shape or (), inputs)


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


def _problem_list(error: RecipeError) -> str:
    count = len(error.problems)
    lines = [f"{count} mistake{'s' if count > 1 else ''}:"]
    return "\n".join(lines + [f"  - {problem}" for problem in error.problems])


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
