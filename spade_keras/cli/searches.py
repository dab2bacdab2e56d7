"""The commands about searches: search, its worker and proxy, and replay of a latency receipt."""

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

from spade_keras.cli.startup import (
    BUDGET_NOT_MET,
    INTERRUPTED,
    InputsFile,
    ModelFile,
    counts,
    existing_file,
    import_library,
    refusals_are_mistakes,
)
from spade_keras.search.options import SearchOptions

_EVALUATE = "Your function that scores a model, higher is better; else agreement with MODEL."
_FINETUNE = "Your function finetune(slim, full): trains slim in place, or returns another model."
_DATA = "Held-out inputs: an .npz file, or a function that returns inputs or (inputs, targets)."
_BUDGET = "0.5 (of MODEL's latency), 8ms, 'p99<=8ms' or 'throughput>=200/s'."
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_FUNCTION = "module:function"
_DATABASE = "The database: postgresql://user:password@host/database."
_BESIDE = "else beside RECEIPT"
_HOST = "Network interface to listen on; anybody who reaches it may read and write studies."
_STORAGE = (
    "A journal file; for many machines postgresql://user:password@host/database or the "
    "grpc://host:port of `spade-keras search proxy`."
)

_MIX_DEVICES = SearchOptions.descriptions()["mix_devices"]

StudyName = Annotated[str, typer.Option("--study", metavar="NAME", help="The study's name.")]


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
            name, _KEYWORD, default=default, annotation=Annotated[optional, option]
        )


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replaces `**fields` in a command's signature by the options of a search."""
    signature = inspect.signature(command, eval_str=True)
    *own, _ = signature.parameters.values()
    named = [p.replace(kind=_KEYWORD) for p in own]
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
    with _interruptible():
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
    model: Annotated[Path | None, existing_file(help="Where MODEL is on this machine.")] = None,
    data: Annotated[
        str | None, typer.Option(metavar=f"FILE.npz|{_FUNCTION}", help="Where the data are here.")
    ] = None,
    mix_devices: Annotated[bool, typer.Option("--mix-devices", help=_MIX_DEVICES)] = False,
) -> None:
    """Help with a search that `spade-keras search` began, on this machine or another."""
    if data is not None:
        _check_data("--data", data)
    with _interruptible():
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


def proxy(
    storage: Annotated[str, typer.Option(metavar="URL", help=_DATABASE)],
    host: Annotated[str, typer.Option(help=_HOST)] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 13000,
) -> None:
    """Serve a database to workers that pass grpc://HOST:PORT as their --storage."""
    from spade_keras.search.proxy import serve

    def say(message: str) -> None:
        Console(stderr=True).print(message, highlight=False)

    try:
        serve(storage, host, port, say=say)
    except KeyboardInterrupt:
        raise typer.Exit() from None


def replay(
    receipt: Annotated[
        Path,
        typer.Argument(metavar="RECEIPT", exists=True, dir_okay=False, help="A receipt.json."),
    ],
    full: Annotated[Path | None, existing_file(help=f"The full model; {_BESIDE}.")] = None,
    slim: Annotated[
        Path | None, existing_file(help=f"The slim model; {_BESIDE}, else rebuilt from the plan.")
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


def _parsed(fields: dict[str, Any]) -> dict[str, Any]:
    """Splits what is given with commas between, such as 2,3,4."""
    options = SearchOptions.model_fields.items()
    several = [name for name, field in options if typing.get_origin(field.annotation) is tuple]
    words = {name: tuple(filter(None, fields[name].split(","))) for name in several}
    return {**fields, **words, "iterations": counts("--iterations", fields["iterations"])}


def _check_data(option: str, data: str) -> None:
    if ":" not in data and not Path(data).is_file():
        raise typer.BadParameter(
            f"`{option}` must be an .npz file that exists, or {_FUNCTION}. Received: {data}"
        )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            "\nInterrupted; the study is intact. To continue, give the same command again.",
            err=True,
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
