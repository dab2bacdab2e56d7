"""Exit codes and arguments that the commands share; loading a model."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from spade_keras.cli.startup import import_keras

FAILURE, MISTAKE, BUDGET_NOT_MET, INTERRUPTED = 1, 2, 3, 130

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


@contextlib.contextmanager
def refusals_are_mistakes() -> Iterator[None]:
    """Turns the ValueError of an argument the library refuses into exit code 2."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def import_library() -> None:
    """Imports keras and the modules that register classes that a `.keras` file may name."""
    import_keras()
    importlib.import_module("spade_keras.networks")


def load_model(model: Path, shape: list[str] | None, inputs: Path | None) -> tuple[Any, Any]:
    """Loads a model and makes inputs for it, as `--shape` and `--inputs` say."""
    from spade_keras.files import load_model
    from spade_keras.tasks.model_inputs import example_inputs

    with refusals_are_mistakes():
        network = load_model(model)
        return network, example_inputs(network, shape or (), inputs)


def counts(option: str, text: str | None) -> tuple[int, ...]:
    """Reads whole numbers with commas between them; none if there is no text.

    Args:
        option: What the user calls them, for the error.
        text: Such as "2,3,4".
    """
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise typer.BadParameter(
            f"`{option}` must read 2,3,4: whole numbers. Received: {text}"
        ) from None
