"""The arms of search_value.py that search, and the study of what a search should maximize."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from search_value_lab import (
    Arm,
    Curve,
    Lab,
    Settings,
    Shape,
    percent,
    scaled,
    shape_arm,
    timing_material,
    tuned_arm,
    tuning_material,
)

from spade_keras import data, search
from spade_keras.files import write_json_atomic
from spade_keras.finetuning import Supervised
from spade_keras.latency import LatencyCache
from spade_keras.search.layer_table import LayerTable

# The short fine-tunings go at the library's default rate, and once at the rate of the long ones.
OBJECTIVES = ("as_pruned", "kept_importance", "half_epoch", "one_epoch", "one_epoch_at_tuning_rate")
# Kind of search -> the arm that its best trial becomes.
KINDS = {"searched": "tpe", "random_search": "random_search", "joint": "joint_tpe"}
# A search ships the best of its contenders after tuning.
CONTENDERS = {
    "searched": ("tpe", "knapsack", "uniform"),
    "joint": ("joint_tpe", "knapsack", "uniform"),
}


def search_arms(settings: Settings, seed: int) -> Iterator[Arm]:
    """Knapsack alone, searched, random search, joint search, and the searched widths retrained."""
    sweep = {"minimum_width": settings.minimum_width, "multiple": settings.multiple}
    yield Arm(seed, "table", measure_table, sweep, timed=True)
    needed = ("data", "train", "table")
    for budget in settings.budgets:
        at = percent(budget)
        knapsack = shape_arm(settings, seed, f"knapsack_{at}", _knapsack_shape, budget, needed)
        yield replace(knapsack, material={**knapsack.material, "by": "propose"})
        yield tuned_arm(settings, seed, f"knapsack_{at}")
        for kind, best in KINDS.items():
            study = f"study_of_{kind}_{at}"
            yield Arm(
                seed,
                study,
                lambda lab, folder, b=budget, k=kind: _search(lab, folder, b, k),
                {**timing_material(settings, budget), **_searching(settings, kind)},
                needed,
                keep_partial=True,
                timed=True,
            )
            yield shape_arm(
                settings, seed, f"{best}_{at}", lambda lab, b, s=study: _best_shape(lab, b, s),
                budget, (*needed, study),
            )  # fmt: skip
            yield tuned_arm(settings, seed, f"{best}_{at}")
        for kind, arms in CONTENDERS.items():
            pieces = tuple(f"{arm}_{at}" for arm in arms)
            yield Arm(
                seed,
                f"{kind}_{at}",
                lambda lab, folder, pieces=pieces: _choose(lab, folder, pieces),
                {},
                pieces,
            )
        yield Arm(
            seed,
            f"from_scratch_{at}",
            lambda lab, folder, piece=f"searched_{at}": _scratch(lab, folder, piece),
            tuning_material(settings),
            ("data", "train", f"searched_{at}"),
        )


def objective_study(settings: Settings, seed: int, members: tuple[str, ...]) -> Arm:
    """Scores the networks of a study of equal latency by every objective, before their tuning."""
    return Arm(
        seed,
        "objectives",
        lambda lab, folder: _judge(lab, folder, members),
        {"tuning_rate": settings.tuning_rate, "objectives": OBJECTIVES},
        ("data", "train", *members),
    )


def measure_table(lab: Lab, folder: Path) -> None:
    """Times the layers at every width, in a cache of the benchmark's own, shared by the seeds."""
    started = time.perf_counter()
    inputs = lab.job.samples("validation").inputs
    options = search.SearchOptions.of(
        0.5, width_multiple=lab.settings.multiple, minimum_width=lab.settings.minimum_width
    )
    space, table = search.choose_space(
        lab.full,
        {name: array[:1] for name, array in inputs.items()},
        options,
        cache=LatencyCache(lab.stages.folder.parent / "latencies"),
    )
    content = {"table": table.as_dict(), "edges": space.as_dict()["edges"]}
    content["seconds"] = time.perf_counter() - started
    write_json_atomic(folder / "table.json", content)
    lab.console.print(f"    {content['edges']}", highlight=False)


def _searching(settings: Settings, kind: str) -> dict[str, Any]:
    chosen = asdict(settings)
    names = ("multiple", "search_pairs")
    trials = "random_trials" if kind == "random_search" else "trials"
    objective = "joint_objective" if kind == "joint" else "objective"
    material = {name: chosen[name] for name in names}
    return {**material, "trials": chosen[trials], "objective": chosen[objective]}


def _table(lab: Lab) -> tuple[LayerTable, dict[str, list[int]]]:
    content = lab.job.json("table", "table")
    return LayerTable.from_dict(content["table"]), content["edges"]


def _knapsack_shape(lab: Lab, budget: float) -> Shape:
    """The search's own knapsack seed, widened: what there is without any trial."""
    table, edges = _table(lab)

    def excess(configuration: search.Configuration) -> float:
        shape = Shape(lab.full.iterations, dict(configuration.widths))
        return lab.ratio(shape)["high"] / (lab.settings.aim * budget) - 1

    space = search.SearchSpace.from_edges(edges)
    proposed = search.propose(("knapsack",), lab.full, space, excess=excess, table=table)
    return _widened(lab, Shape(lab.full.iterations, dict(proposed[0][1].widths)), budget)


def _search(lab: Lab, folder: Path, budget: float, kind: str) -> None:
    table, edges = _table(lab)
    iterations = range(1, lab.full.iterations + 1) if kind == "joint" else ()
    settings = lab.settings
    material = _searching(settings, kind)
    options: dict[str, Any] = {"sampler": "tpe"}
    if kind == "random_search":
        options = {"sampler": "random", "seeds": ()}
    result = search.run(
        lab.full,
        budget=search.LatencyBudget(fraction=budget, safety_margin=1 - settings.aim),
        data=lab.job.samples("validation").inputs,
        storage=folder / "study.journal",
        trials=material["trials"],
        objective=objective(lab, material["objective"]),
        timer=lab.timer(settings.search_pairs),
        space=search.SearchSpace.from_edges(edges, iterations=iterations),
        table=table,
        seed=lab.seed,
        on_trial=lambda trial: _tell(lab, trial),
        **options,
    )
    write_json_atomic(folder / "result.json", result.as_dict())


def _best_shape(lab: Lab, budget: float, study: str) -> Shape:
    """The best trial, widened."""
    found = search.SearchResult.from_dict(lab.result(study)).best.configuration
    shape = Shape(found.iterations or lab.full.iterations, dict(found.widths))
    return _widened(lab, shape, budget)


def _widened(lab: Lab, shape: Shape, budget: float) -> Shape:
    """A shape of edges widened in its own proportions to what the budget still allows."""
    if lab.ratio(shape, final=True)["value"] >= 0.99 * lab.settings.aim * budget:
        return shape
    full = lab.full_shape
    shares = [width / full.widths[group] for group, width in shape.widths.items()]
    curve = _wider(scaled(shares, full, lab.settings.minimum_width), shape)
    return lab.to_budget(curve, budget)


def _wider(curve: Curve, least: Shape) -> Curve:
    """A curve that starts at a shape: no group becomes narrower than there."""

    def bounded(position: float) -> Shape:
        widths = curve(position).widths
        return Shape(least.iterations, {g: max(w, least.widths[g]) for g, w in widths.items()})

    return bounded


def _choose(lab: Lab, folder: Path, pieces: Sequence[str]) -> None:
    """The contender that is best on the validation slab after its tuning."""
    best = max(pieces, key=lambda piece: lab.result(piece)["validation_db"])
    result = lab.result(best)
    write_json_atomic(folder / "result.json", {**result, "chosen": best})
    shutil.copy(lab.stages.folder / best / "network.keras", folder)
    lab.console.print(f"  of {', '.join(pieces)}: {best}", highlight=False)


def _scratch(lab: Lab, folder: Path, piece: str) -> None:
    """The searched widths with new weights, trained for the steps of training and tuning."""
    found = lab.result(piece)
    shape = Shape(found["iterations"], found["widths"])
    slim = lab.build(shape)
    keras.utils.set_random_seed(lab.seed + 3)
    epochs = lab.job.recipe.training.epochs + lab.settings.tuning_epochs
    lab.finish(folder, type(slim).from_config(slim.get_config()), shape, epochs=epochs)


def objective(lab: Lab, name: str) -> search.Objective:
    """The objectives that the supervised strategy may see."""
    if name == "kept_importance":
        return search.KeptImportance(lab.full)
    validation = lab.job.samples("validation")
    quality = search.ValidationPSNR(validation.inputs, validation.targets)
    if name == "as_pruned":
        return quality
    slices = lab.job.samples("train")
    # Every second slice: half an epoch.
    chosen = slice(None, None, 2) if name == "half_epoch" else slice(None)
    batches = data.SliceDataset(
        {key: array[chosen] for key, array in slices.inputs.items()},
        slices.targets[chosen],
        batch_size=1,
        shuffle_seed=lab.seed,
    )
    options = {"learning_rate": lab.settings.tuning_rate} if name.endswith("tuning_rate") else {}
    return search.ShortFineTune(quality, Supervised, batches, rungs=1, **options)


def _judge(lab: Lab, folder: Path, members: tuple[str, ...]) -> None:
    scores: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}
    results = [lab.result(member) for member in members]
    for name in OBJECTIVES:
        judge = objective(lab, name)
        started = time.perf_counter()
        for note in results:
            keras.utils.set_random_seed(lab.seed + 2)
            candidate = lab.build(Shape(note["iterations"], note["widths"]))
            scores.setdefault(name, []).append(judge(candidate))
        seconds[name] = (time.perf_counter() - started) / len(results)
        lab.console.print(f"    {name}: {np.round(scores[name], 3).tolist()}", highlight=False)
    content = {
        "members": members,
        "scores": scores,
        "seconds_per_candidate": seconds,
        "final_validation_db": [note["validation_db"] for note in results],
        "final_test_db": [float(np.mean(note["test_db"])) for note in results],
        "ratios": [lab.job.json(f"shape_{m}", "shape")["ratio"]["value"] for m in members],
    }
    write_json_atomic(folder / "result.json", content)


def _tell(lab: Lab, trial: search.TrialRecord) -> None:
    ratio = "failed" if trial.timing is None else f"{trial.timing.latency_ratio:.3f}"
    quality = "" if trial.quality is None else f", {trial.quality:.3f}"
    lab.console.print(f"    #{trial.number} {trial.origin}: {ratio}{quality}", highlight=False)
