"""The commands that take a model: measure, export, inspect and prune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spade_keras.cli.startup import (
    InputsFile,
    ModelFile,
    Shapes,
    counts,
    existing_file,
    import_library,
    load_model,
    refusals_are_mistakes,
)


def measure(
    model: ModelFile,
    shape: Shapes = None,
    inputs: InputsFile = None,
    repeats: Annotated[int, typer.Option(min=5, help="Timed calls.")] = 50,
    self_check: Annotated[
        bool,
        typer.Option("--self-check", help="Time the model against itself: what can be resolved?"),
    ] = False,
    mode: Annotated[
        str | None,
        typer.Option(help="How the backend runs it: graph, xla; jit; eager, compile."),
    ] = None,
    batches: Annotated[
        str | None, typer.Option(metavar="N,...", help="Batch sizes to time: 1,2,4,8.")
    ] = None,
) -> None:
    """Measure latency, parameters, multiply-accumulates and memory on this device."""
    if self_check and batches:
        raise typer.BadParameter("Give `--self-check` or `--batches`, not both.")
    sizes = counts("--batches", batches)
    import_library()
    from rich.console import Console
    from rich.table import Table

    from spade_keras import latency, pruning
    from spade_keras.report.page import flat

    network, arrays = load_model(model, shape, inputs)
    with refusals_are_mistakes():
        if self_check:
            typer.echo(latency.self_check(network, arrays, pairs=repeats, mode=mode))
            return
        if sizes:
            table = Table("batch", "ms (median)", "samples per second", title=str(model))
            for entry in latency.sweep_batches(network, arrays, sizes, repeats=repeats, mode=mode):
                median_ms = f"{entry.latency.median_ms:.3f}"
                table.add_row(str(entry.batch), median_ms, f"{entry.samples_per_s:.1f}")
            Console().print(table)
            return
        timing = latency.measure(network, arrays, repeats=repeats, mode=mode)
        macs = pruning.count_macs(network, arrays)
    rows = [
        ("latency (median)", f"{timing.median_ms:.3f} ms"),
        ("latency (quartiles)", f"{timing.q1_ms:.3f} to {timing.q3_ms:.3f} ms"),
        ("latency (99th percentile)", f"{timing.p99_ms:.3f} ms"),
        ("first call, with compilation", f"{timing.compile_ms:.0f} ms"),
        ("parameters", f"{pruning.count_parameters(network):,}"),
        ("multiply-accumulates", f"{macs.total:,}"),
    ]
    if timing.peak_memory_bytes is not None:
        rows.append(("peak memory", f"{timing.peak_memory_bytes / 2**20:.1f} MiB"))
    table = Table("quantity", "value", title=str(model))
    for row in (*rows, *flat(timing.fingerprint)):
        table.add_row(*row)
    Console().print(table)


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
    import_library()
    from spade_keras import export as exporting

    network, arrays = load_model(model, shape, inputs)
    with refusals_are_mistakes():
        exporting.export_model(network, output, arrays)
    typer.echo(f"Wrote {output}")


def inspect(
    model: ModelFile,
    latency: Annotated[
        bool,
        typer.Option("--latency", help="Time each group's layers: which widenings are free?"),
    ] = False,
    shape: Shapes = None,
    inputs: InputsFile = None,
    multiple: Annotated[
        int | None, typer.Option(min=1, help="Step of the widths to time; else eighths.")
    ] = None,
) -> None:
    """Show the channel groups: what is coupled, what is fixed and why; or what each costs."""
    if not latency and (shape or inputs):
        raise typer.BadParameter("`--shape` and `--inputs` are for `--latency`.")
    import_library()
    if latency:
        from spade_keras.search.layer_table import latency_by_group

        network, arrays = load_model(model, shape, inputs)
        with refusals_are_mistakes():
            text = latency_by_group(network, arrays, multiple=multiple)
    else:
        from spade_keras.pruning import files

        with refusals_are_mistakes():
            text = files.inspect_model(model)
    typer.echo(text)


def prune(
    model: ModelFile,
    output: Annotated[Path, typer.Option("-o", "--output", help="The .keras file to write.")],
    ratio: Annotated[
        float | None, typer.Option(help="Fraction of channels to remove, 0 <= ratio < 1.")
    ] = None,
    plan: Annotated[Path | None, existing_file(help="A plan made before (JSON).")] = None,
    target_macs: Annotated[
        float | None, typer.Option(help="Multiply-accumulates to keep; below 1: a fraction.")
    ] = None,
    target_parameters: Annotated[
        float | None, typer.Option(help="Parameters to keep; below 1: a fraction.")
    ] = None,
    importance: Annotated[str, typer.Option(help="What ranks channels.")] = "group_l1",
    round_to: Annotated[int, typer.Option(min=1, help="Keep multiples of this width.")] = 1,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.npz|module:function",
            help="Inputs on which the readers of removed channels are refitted; no labels.",
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="N,...", help="Input shape, batch first.")
    ] = None,
) -> None:
    """Remove whole channels of any Keras model; give one of the four ways to say how many."""
    names = ("--ratio", "--plan", "--target-macs", "--target-parameters")
    ways = zip(names, (ratio, plan, target_macs, target_parameters), strict=True)
    given = [name for name, value in ways if value is not None]
    if len(given) != 1:
        received = " ".join(given) or "none"
        raise typer.BadParameter(f"Give exactly one of {', '.join(names)}. Received: {received}")
    if ratio is not None and not 0 <= ratio < 1:
        hint = f" For {ratio:g} % pass {ratio / 100:g}." if 1 < ratio < 100 else ""
        raise typer.BadParameter(f"`--ratio` must be in [0, 1). Received: {ratio:g}.{hint}")
    if output.suffix != ".keras" or not output.parent.is_dir():
        raise typer.BadParameter(
            f"`--output` must be a .keras file in an existing folder. Received: {output}"
        )
    import_library()
    from spade_keras.pruning import files
    from spade_keras.tasks.model_inputs import load_data, parse_shape

    with refusals_are_mistakes():
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
            inputs_of=None if data is None else lambda network: load_data(data, network)[0],
        )
    typer.echo(text)
