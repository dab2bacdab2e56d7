"""The command that replays a latency receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from spade_keras.cli.arguments import (
    BUDGET_NOT_MET,
    InputsFile,
    import_library,
    refusals_are_mistakes,
)


def replay(
    receipt: Annotated[
        Path,
        typer.Argument(metavar="RECEIPT", exists=True, dir_okay=False, help="A receipt.json."),
    ],
    full: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The full model; else beside RECEIPT."),
    ] = None,
    slim: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="The slim model; else beside RECEIPT, else rebuilt from the plan.",
        ),
    ] = None,
    inputs: InputsFile = None,
    pairs: Annotated[int | None, typer.Option(min=2, help="Timed windows of each model.")] = None,
) -> None:
    """Time the files of a latency receipt again, on this or another device.

    Ends with 0 if the budget is met again, with 3 if it is not, with 2 if the files are not those
    of the receipt.
    """
    import_library()
    from spade_keras.search import replay as replaying
    from spade_keras.search.receipt import read_receipt
    from spade_keras.search.user_code import import_module
    from spade_keras.tasks.model_inputs import example_inputs

    with refusals_are_mistakes():
        content = read_receipt(receipt)
        full = full or replaying.find_file(content.full, receipt)
        if full is None:
            raise typer.BadParameter(
                f"`--full` must name the full model: {content.full.name} is not beside the receipt."
            )
        for module in content.imports:
            import_module(module)
        replayed = replaying.replay(
            content,
            full,
            slim or replaying.find_file(content.slim, receipt),
            inputs=None if inputs is None else example_inputs(None, arrays_file=inputs),
            pairs=pairs,
        )
    Console().print(str(replayed), markup=False, highlight=False, soft_wrap=True)
    if not replayed.holds:
        raise typer.Exit(BUDGET_NOT_MET)
