"""Pruning from file to file: loads safely, lists the groups, writes the slim model atomically."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from spade_keras.errors import OpenSizesError
from spade_keras.files import load_model, save_model
from spade_keras.pruning.compensation import calibrate
from spade_keras.pruning.cost import count_macs, count_parameters
from spade_keras.pruning.groups import Group, find_groups
from spade_keras.pruning.plan import PruningPlan
from spade_keras.pruning.planning import make_plan
from spade_keras.pruning.rebuild import rebuild
from spade_keras.pruning.selection import own_layers, width_step


def inspect_model(path: str | Path) -> str:
    """Returns a table of the groups of a `.keras` file: what is coupled, what is fixed and why."""
    model = load_model(path)
    groups = find_groups(model)
    free = sum(group.fixed is None for group in groups)
    lines = [f"{model.name}: {count_parameters(model):,} parameters, {_macs_text(model)}"]
    lines.append(f"{len(groups)} groups of coupled channels, {free} of which can be narrowed")
    rows = [("group", "width", "layers, or why fixed"), *map(_group_row, groups)]
    sizes = [max(len(row[column]) for row in rows) for column in range(2)]
    lines += [f"{name:<{sizes[0]}}  {width:>{sizes[1]}}  {note}" for name, width, note in rows]
    return "\n".join(lines)


def prune_model(  # noqa: PLR0913 - one argument per command-line option
    path: str | Path,
    out: str | Path,
    *,
    ratio: float | None = None,
    plan: str | Path | None = None,
    target_macs: float | None = None,
    target_parameters: float | None = None,
    importance: str = "group_l1",
    round_to: int = 1,
    input_shape: tuple[int, ...] | None = None,
    inputs_of: Callable[[keras.Model], Any] | None = None,
) -> str:
    """Prunes a saved model into a new file, which appears whole or not at all.

    Exactly one of `ratio`, `plan` (a file from `PruningPlan.to_json`), `target_macs` and
    `target_parameters` must be given; see `make_plan`. Multiply-accumulates are counted for
    `input_shape`, batch first. `inputs_of` gives inputs of the loaded model, on which readers are
    refitted; see `calibrate`.

    Returns:
        The summary of the plan and the size of the slim model.
    """
    out = Path(out)
    if out.suffix != ".keras" or not out.parent.is_dir():
        raise ValueError(f"`out` must be a .keras file in an existing folder. Received: out={out}.")
    targets = {"macs": target_macs, "parameters": target_parameters}
    amounts = {"ratio": ratio, "plan": plan, **{f"target_{k}": x for k, x in targets.items()}}
    given = [name for name, value in amounts.items() if value is not None]
    if len(given) != 1:
        raise ValueError(f"Exactly one of {list(amounts)} must be given. Received: {given}.")
    model = load_model(path)
    statistics = None if inputs_of is None else calibrate(model, inputs_of(model))
    if plan is not None:
        try:
            text = Path(plan).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"`plan` must be a JSON file. Received: plan={plan}: {error}."
            ) from error
        chosen = PruningPlan.from_json(text)
    else:
        chosen = make_plan(
            model,
            ratio=ratio,
            target={name: x for name, x in targets.items() if x is not None} or None,
            importance=importance,
            round_to=round_to,
            inputs=input_shape,
            calibration=statistics,
        )
    slim = rebuild(model, chosen, calibration=statistics)
    save_model(slim, out)
    return "\n".join(
        [
            chosen.summary(),
            f"parameters  {count_parameters(model):,} -> {count_parameters(slim):,}",
            f"before  {_macs_text(model, input_shape)}",
            f"after   {_macs_text(slim, input_shape)}",
            f"wrote {out}",
        ]
    )


def _macs_text(model: Any, inputs: Any = None) -> str:
    try:
        report = count_macs(model, inputs)
    except OpenSizesError:
        return "MACs unknown (input sizes are open)"
    text = f"{report.total:,} MACs"
    if report.uncounted:
        text += f" without {', '.join(report.uncounted)}, for which there is no rule"
    return text


def _group_row(group: Group) -> tuple[str, str, str]:
    if group.fixed is not None:
        return group.name, str(group.width), f"fixed: {group.fixed}"
    note = ", ".join(own_layers(group))
    step = width_step(group)
    if step > 1:
        note += f" (a multiple of {step})"
    return group.name, str(group.width), note
