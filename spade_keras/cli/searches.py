"""The commands that search: search, and search worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
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

_EVALUATE = "Your function that scores a model, higher is better; else agreement with MODEL."
_FINETUNE = "Your function finetune(slim, full): trains slim in place, or returns another model."
_DATA = "Held-out inputs: an .npz file, or a function that returns inputs or (inputs, targets)."
_BUDGET = "0.5 (of MODEL's latency), 8ms, 'p99<=8ms' or 'throughput>=200/s'."
_FUNCTION = "module:function"
_STORAGE = "A journal file, or postgresql://user:password@host/database for many machines."

StudyName = Annotated[str, typer.Option("--study", metavar="NAME", help="The study's name.")]
MixDevices = Annotated[
    bool, typer.Option("--mix-devices", help="Go on with times of another device.")
]


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
    trials: Annotated[int, typer.Option(min=1, help="Finished trials to end with.")] = 60,
    timeout: Annotated[
        float | None, typer.Option(metavar="MINUTES", min=0, help="No new trial after that.")
    ] = None,
    stagnation: Annotated[
        int | None, typer.Option(min=1, help="End after so many trials without a better one.")
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, gp, nsga2 or random.")] = "tpe",
    seeds: Annotated[
        str,
        typer.Option(metavar="NAME,...", help="Families tried first, brought to the budget."),
    ] = "uniform,sensitivity,knapsack",
    warm_start: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="An earlier search, whose best are tried first."),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Samples per timed call.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(help="What MODEL and candidates compute in; else as MODEL does.")
    ] = None,
    margin: Annotated[
        float, typer.Option(min=0, max=0.99, help="Share of the budget the search leaves unused.")
    ] = 0.03,
    pairs: Annotated[int, typer.Option(min=2, help="Timed windows per candidate.")] = 10,
    finalists: Annotated[
        int, typer.Option(min=1, help="Candidates to fine-tune, of which the best is taken.")
    ] = 1,
    multiple: Annotated[int, typer.Option(min=1, help="Widths are multiples of it.")] = 8,
    staircase: Annotated[
        bool, typer.Option(help="Time the layers first; try only widths that are worth it.")
    ] = True,
    iterations: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Iteration counts to try, if MODEL iterates."),
    ] = None,
    drop_blocks: Annotated[
        bool, typer.Option("--drop-blocks", help="Try to leave out residual blocks.")
    ] = False,
    dtypes: Annotated[
        str | None,
        typer.Option(metavar="DTYPE,...", help="What to compute in besides: bfloat16, float16."),
    ] = None,
    ranks: Annotated[
        bool, typer.Option("--ranks", help="Try to split layers into pairs of lower rank.")
    ] = False,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Search the whole front of time and quality.")
    ] = False,
    storage: Annotated[str | None, typer.Option(metavar="PATH|URL", help=_STORAGE)] = None,
    study: StudyName = "search",
    seed: Annotated[int, typer.Option(help="Of the sampler.")] = 0,
    mix_devices: MixDevices = False,
) -> None:
    """Find the widths of any Keras model that meet a latency budget at the best quality.

    Writes the slim model, its plan and latency receipt, the trials and a report. A search that was
    stopped goes on where it was: give the same command again.
    """
    _check_data("--data", data)
    for option, spec in (("--evaluate", evaluate), ("--finetune", finetune)):
        if spec is not None and ":" not in spec:
            raise typer.BadParameter(f"`{option}` must read {_FUNCTION}. Received: {spec}")
    with _interruptible("give the same command again"):
        import_library()
        from spade_keras.model_search import SearchJob, search_model
        from spade_keras.search import LatencyBudget

        with refusals_are_mistakes():
            job = SearchJob.of(
                model,
                data,
                LatencyBudget.parse(budget, batch_size=batch, safety_margin=margin, dtype=dtype),
                evaluate=evaluate,
                imports=tuple(imports or ()),
                pareto=pareto,
                sampler=sampler,
                seed=seed,
                seeds=tuple(name for name in seeds.split(",") if name),
                multiple=multiple,
                staircase=staircase,
                iterations=counts("--iterations", iterations),
                drop_blocks=drop_blocks,
                dtypes=tuple(dtypes.split(",")) if dtypes else (),
                ranks=ranks,
                pairs=pairs,
                trials=trials,
                timeout_minutes=timeout,
                stagnation=stagnation,
            )
            found = search_model(
                job,
                output,
                Console(),
                storage=storage,
                name=study,
                finalists=finalists,
                finetune=finetune,
                warm_start=warm_start,
                mix_devices=mix_devices,
            )
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
        from spade_keras.model_search import join_search

        console = Console()
        with refusals_are_mistakes():
            found = join_search(
                storage, study, console, model=model, data=data, mix_devices=mix_devices
            )
    counts = found.counts()
    console.print(
        f"The study {study!r} has {counts['total']} trials, {counts['feasible']} within the "
        f"budget ({found.budget}). Whoever began it measures the best again and writes the slim "
        "model.",
        highlight=False,
    )


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
    import json

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
