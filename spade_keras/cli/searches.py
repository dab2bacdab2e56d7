"""The commands that search: search, and search worker."""

from __future__ import annotations

import contextlib
import inspect
import json
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from spade_keras.cli.arguments import (
    INTERRUPTED,
    ModelFile,
    counts,
    import_library,
    refusals_are_mistakes,
)
from spade_keras.search.options import SearchOptions

_EVALUATE = "Your function that scores a model, higher is better; else agreement with MODEL."
_FINETUNE = "Your function finetune(slim, full): trains slim in place, or returns another model."
_DATA = "Held-out inputs: an .npz file, or a function that returns inputs or (inputs, targets)."
_BUDGET = "0.5 (of MODEL's latency), 8ms, 'p99<=8ms' or 'throughput>=200/s'."
_FUNCTION = "module:function"
_STORAGE = (
    "A journal file; for many machines postgresql://user:password@host/database or the "
    "grpc://host:port of `spade-keras search proxy`."
)

StudyName = Annotated[str, typer.Option("--study", metavar="NAME", help="The study's name.")]
MixDevices = Annotated[
    bool, typer.Option("--mix-devices", help=SearchOptions.descriptions()["mix_devices"])
]


def _options() -> Iterator[inspect.Parameter]:
    """One command-line option per field of `SearchOptions`, with its name and default."""
    described = SearchOptions.descriptions()
    for name, field in SearchOptions.model_fields.items():
        if name == "latency_budget":  # --budget
            continue
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        several = typing.get_origin(field.annotation) is tuple
        kind = next((k for k in (bool, int, float) if k in kinds and not several), str)
        flag = name.replace("_", "-")
        default = ",".join(map(str, field.default)) if several else field.default
        # Only what is on by default needs a way to be turned off.
        names = f"--{flag}/--no-{flag}" if default is True else f"--{flag}"
        words = "N,..." if name == "iterations" else "NAME,..."
        option = typer.Option(names, help=described[name], metavar=words if several else None)
        optional = kind | None if default is None else kind
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[optional, option],
        )


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces `**fields` in a command's signature by the options of a search."""
    signature = inspect.signature(command, eval_str=True)
    *own, _ = signature.parameters.values()
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    parameters = [*named, *_options()]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


@_with_options
def search(
    model: ModelFile,
    data: Annotated[str, typer.Option(metavar=f"FILE.npz|{_FUNCTION}", help=_DATA)],
    budget: Annotated[str, typer.Option(help=_BUDGET)],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for the results.")],
    evaluate: Annotated[str | None, typer.Option(metavar=_FUNCTION, help=_EVALUATE)] = None,
    finetune: Annotated[str | None, typer.Option(metavar=_FUNCTION, help=_FINETUNE)] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="Registers classes of MODEL's own."),
    ] = None,
    importance: Annotated[str, typer.Option(help="Ranks the channels to keep.")] = "group_l1",
    study: StudyName = "search",
    seed: Annotated[int, typer.Option(help="Seed of the sampler.")] = 0,
    **fields: Any,
) -> None:
    """Find the configuration of any Keras model that meets a latency budget at the best quality.

    Writes the slim model, its plan and latency receipt, the trials and a report. To continue an
    interrupted search, give the same command again.
    """
    _check_data("--data", data)
    for option, spec in (("--evaluate", evaluate), ("--finetune", finetune)):
        if spec is not None and ":" not in spec:
            raise typer.BadParameter(f"`{option}` must read {_FUNCTION}. Received: {spec}")
    with refusals_are_mistakes():
        options = SearchOptions.of(budget, **_parsed(fields))
    with _interruptible("give the same command again"):
        import_library()
        from spade_keras.pipeline import search_model
        from spade_keras.tasks import SearchJob

        with refusals_are_mistakes():
            job = SearchJob.of(
                model,
                data,
                options,
                evaluate=evaluate,
                finetune=finetune,
                imports=tuple(imports or ()),
                importance=importance,
                seed=seed,
            )
            found = search_model(job, output, Console(), name=study)
    _show(found, output)


def work(
    storage: Annotated[str, typer.Option(metavar="PATH|URL", help=_STORAGE)],
    study: StudyName,
    model: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Where MODEL is on this machine."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar=f"FILE.npz|{_FUNCTION}", help="Where the data are here.")
    ] = None,
    mix_devices: MixDevices = False,
) -> None:
    """Help with a search that `spade-keras search` began, on this machine or another."""
    if data is not None:
        _check_data("--data", data)
    with _interruptible("give the same command again"):
        import_library()
        from spade_keras.pipeline import join_search

        console = Console()
        with refusals_are_mistakes():
            found = join_search(
                storage, study, console, model=model, data=data, mix_devices=mix_devices
            )
    counts = found.counts()
    console.print(
        f"The study {study!r} has {counts['total']} trials, {counts['feasible']} within the "
        f"budget ({found.budget}). The process that began it times the best again and writes the "
        "slim model.",
        highlight=False,
    )


def _parsed(fields: dict[str, Any]) -> dict[str, Any]:
    """Splits what is given with commas between, such as 2,3,4."""
    parsed = dict(fields)
    for name, field in SearchOptions.model_fields.items():
        if typing.get_origin(field.annotation) is tuple and name in fields:
            parsed[name] = (
                counts("--iterations", fields[name])
                if name == "iterations"
                else tuple(word for word in fields[name].split(",") if word)
            )
    return parsed


def _check_data(option: str, data: str) -> None:
    if ":" not in data and not Path(data).is_file():
        raise typer.BadParameter(
            f"`{option}` must be an .npz file that exists, or {_FUNCTION}. Received: {data}"
        )


@contextlib.contextmanager
def _interruptible(remedy: str) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print(
            f"\nInterrupted; the study is intact. To continue, {remedy}.", soft_wrap=True
        )
        raise typer.Exit(INTERRUPTED) from None


def _show(found: Any, folder: Path) -> None:

    from spade_keras.report import SearchFindings, search_overview
    from spade_keras.search.layer_table import LayerTable
    from spade_keras.search.receipt import read_receipt

    console = Console()
    receipt = read_receipt(folder / "receipt.json")
    layers = folder / "layers.json"
    table = LayerTable.from_dict(json.loads(layers.read_text())) if layers.exists() else None
    console.print(search_overview(SearchFindings(found, table, receipt)))
    for name in ("slim.keras", "receipt.json", "report.html"):
        if (folder / name).exists():
            console.print(f"{folder / name}", soft_wrap=True, highlight=False)
