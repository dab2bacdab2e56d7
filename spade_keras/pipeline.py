"""The whole run of a recipe: data -> train -> search -> prune -> fine-tune -> evaluate -> export.

Every stage is a function of the job that fills one folder; the next stages read it from there. So
a run that was stopped goes on where it was, and a stage can be looked at, or replaced, by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from spade_keras import data, latency, pruning, search
from spade_keras.errors import BudgetNotMetError
from spade_keras.export import CheckReport, check_saved_models, saved_model
from spade_keras.job import Job
from spade_keras.metrics import image_quality
from spade_keras.operators import CartesianMRI
from spade_keras.prediction import predict
from spade_keras.progress import ProgressBar, stage_line
from spade_keras.recipe import Recipe
from spade_keras.report import write_report
from spade_keras.run_metrics import collect_metrics
from spade_keras.stages import Stages, write_bytes_atomic, write_json_atomic
from spade_keras.training import fit_by_strategy, fit_on_truth, new_network

SPLITS = ("train", "validation", "test")
RESULTS = ("metrics.json", "report.html", "tradeoff.png", "widths.png", "pictures.png")


def run(recipe: Recipe, console: Console) -> dict[str, Any]:
    """Runs every stage that is not finished already.

    Args:
        recipe: The validated recipe.
        console: Where progress is shown.

    Returns:
        The content of `metrics.json`.

    Raises:
        BudgetNotMetError: If no width met the latency budget when measured.
    """
    with Stages(recipe.run_folder, results=RESULTS) as stages:
        job = Job(recipe, stages, console)
        write_bytes_atomic(recipe.run_folder / "recipe.toml", recipe.to_toml().encode())
        for stage in _plan(recipe):
            _run_stage(job, stage)
        with stage_line(console, "report", "figures and page"):
            return report(job)


def make_data(job: Job, folder: Path) -> None:
    """Simulates the acquisition of three disjoint slabs of the template."""
    settings = job.recipe.data
    volume = data.load_brain_template(settings.height, settings.width)
    slabs = data.slab_split(
        len(volume),
        validation=settings.validation_slices,
        test=settings.test_slices,
        gap=settings.gap_slices,
    )
    for index, split in enumerate(SPLITS):
        slices = data.simulate_multicoil(
            volume[getattr(slabs, split)],
            coils=settings.coils,
            acceleration=settings.acceleration,
            acs_lines=settings.acs_lines,
            noise_std=settings.noise_std,
            seed=len(SPLITS) * job.recipe.run.seed + index,
        )
        slices.save(str(folder / f"{split}.npz"))
        job.console.print(
            f"  {split}: {len(slices)} slices, true acceleration {slices.true_acceleration:.2f}",
            highlight=False,
        )


def train(job: Job, folder: Path) -> None:
    """Trains the full network on ground truth."""
    job.seed(1)
    network = new_network(job.recipe)
    history = fit_on_truth(job, folder, network, job.recipe.training.epochs, "epoch")
    network.save(folder / "network.keras")
    write_json_atomic(folder / "history.json", history)


def search_widths(job: Job, folder: Path) -> None:
    """Searches one width per channel group within the latency budget."""
    settings = job.recipe.search
    network = job.model("train")
    validation = job.slices("validation")
    strategy = job.recipe.finetuning.strategy
    supervised = strategy == "supervised"
    quality = search.strategy_quality(
        strategy,
        validation.inputs,
        targets=validation.truth if supervised else None,
        teacher=network,
    )
    space = search.SearchSpace.from_groups(
        pruning.find_groups(network),
        multiple=settings.width_multiple,
        minimum=settings.minimum_width,
    )
    with ProgressBar(job.console, "trial", settings.trials) as bar:
        result = search.run(
            network,
            budget=_budget(job.recipe),
            data=validation.inputs,
            trials=settings.trials,
            storage=folder / "study.journal",
            on_trial=lambda trial: bar.advance(_describe_trial(trial)),
            quality=quality,
            timer=search.interleaved_timer(network, validation.inputs, pairs=settings.pairs),
            space=space,
            importance=job.recipe.pruning.importance,
            sampler=settings.sampler,
            seed=job.recipe.run.seed,
        )
    write_json_atomic(folder / "result.json", result.as_dict())


def prune(job: Job, folder: Path) -> None:
    """Rebuilds the best candidate that still meets the budget when it is measured again.

    The best of many noisy timings is too good to be true; so candidates are timed afresh, longer,
    from the best quality down.

    Raises:
        BudgetNotMetError: If none does.
    """
    network = job.model("train")
    result = search.SearchResult.from_dict(job.json("search", "result"))
    timer = search.interleaved_timer(
        network, job.slices("validation").inputs, pairs=job.recipe.export.pairs
    )
    if not result.ranking:
        raise BudgetNotMetError(result.failure())
    rejected: list[dict[str, Any]] = []
    for trial in result.ranking:
        plan = pruning.make_plan(
            network, widths=trial.widths, importance=job.recipe.pruning.importance
        )
        slim = pruning.rebuild(network, plan)
        ratio = timer(slim).ratio
        job.console.print(
            f"  trial {trial.number} timed again: ratio {ratio.value:.3f}, 95 % interval "
            f"{ratio.low:.3f} to {ratio.high:.3f}",
            highlight=False,
        )
        if ratio.high <= result.budget.target:
            slim.save(folder / "network.keras")
            write_bytes_atomic(folder / "plan.json", plan.to_json().encode())
            chosen = {"number": trial.number, "widths": plan.widths, "ratio": ratio.as_dict()}
            write_json_atomic(folder / "chosen.json", {**chosen, "rejected": rejected})
            return
        rejected.append({"number": trial.number, "ratio": ratio.as_dict()})
    raise BudgetNotMetError(
        f"{result.failure()} {len(rejected)} candidates that met it during the search missed it "
        "when they were timed again."
    )


def finetune(job: Job, folder: Path) -> None:
    """Fine-tunes the slim network by the strategy of the recipe."""
    job.seed(2)
    network = job.model("prune")
    history = fit_by_strategy(job, folder, network, "epoch")
    network.save(folder / "network.keras")
    write_json_atomic(folder / "history.json", history)


def train_rivals(job: Job, folder: Path) -> None:
    """Trains two honest alternatives to the slim network with the same number of steps.

    One has the slim widths from the start and trains from scratch for as many steps as the full
    network and its fine-tuning took together. The other is the full network cut to as many
    iterations as the budget allows, fine-tuned as the slim one is.
    """
    if not job.recipe.evaluation.rivals:
        write_json_atomic(folder / "rivals.json", {})
        return
    job.seed(3)
    full = job.model("train")
    steps = [len(job.json(stage, "history")["loss"]) for stage in ("train", "finetune")]
    slim = job.model("prune")
    scratch = type(slim).from_config(slim.get_config())  # its widths, with new weights
    split = job.recipe.finetuning.on
    tuning_steps = steps[1] * len(job.batches(split, job.recipe.finetuning.batch_size))
    per_epoch = len(job.batches("train", job.recipe.training.batch_size))
    epochs = steps[0] + round(tuning_steps / per_epoch)
    fit_on_truth(job, folder, scratch, epochs, "from scratch, epoch")
    scratch.save(folder / "from_scratch.keras")

    fewer, ratio = _cut_to_budget(job, full)
    fit_by_strategy(job, folder, fewer, "fewer iterations, epoch")
    fewer.save(folder / "fewer_iterations.keras")
    write_json_atomic(
        folder / "rivals.json",
        {
            "from_scratch": {"epochs": epochs},
            "fewer_iterations": {"iterations": fewer.iterations, "ratio": ratio.as_dict()},
        },
    )


def evaluate(job: Job, folder: Path) -> None:
    """Scores every network on the test slab, and times full and slim in turn."""
    test = job.slices("test")
    truth = _magnitude(test.truth)
    networks = {
        "full": job.model("train"),
        "pruned": job.model("prune"),
        "finetuned": job.model("finetune"),
    }
    for rival in job.json("rivals", "rivals"):
        networks[rival] = job.model("rivals", rival)
    operator = CartesianMRI()
    images = {
        "zero_filled": _magnitude(
            operator.adjoint(test.measurements, **operator.parameters(test.inputs))
        )
    }
    for name, network in networks.items():
        images[name] = _magnitude(predict(network, test.inputs))
    scores = {name: image_quality(truth, image).as_dict() for name, image in images.items()}
    sample = {name: array[:1] for name, array in test.inputs.items()}
    full, slim = networks["full"], networks["finetuned"]
    timing = latency.compare(full, slim, sample, pairs=job.recipe.export.pairs)
    middle = len(truth) // 2
    panel = {  # turned so that the front of the head is up
        name: np.rot90(image[middle]) for name, image in {"truth": truth, **images}.items()
    }
    np.savez(folder / "panel.npz", **panel)
    write_json_atomic(
        folder / "evaluation.json",
        {
            "quality": scores,
            "latency_ms": {"full": _quartiles(timing.a), "slim": _quartiles(timing.b)},
            "latency_ratio": timing.ratio.as_dict(),
            "parameters": {
                "full": pruning.count_parameters(full),
                "slim": pruning.count_parameters(slim),
            },
            "macs": {
                "full": pruning.count_macs(full, sample).total,
                "slim": pruning.count_macs(slim, sample).total,
            },
            "fingerprint": latency.fingerprint(sample),
        },
    )


def export(job: Job, folder: Path) -> None:
    """Exports full and slim network, and checks and times both where Keras is not installed.

    Raises:
        BudgetNotMetError: If the exported slim network misses the budget.
    """
    inputs = job.slices("test").inputs
    networks = {"full": job.model("train"), "slim": job.model("finetune")}
    sample = {name: array[:1] for name, array in inputs.items()}
    for name, network in networks.items():
        saved_model(network, folder / name, sample)
    check = _check_exports(job, folder, networks, inputs)
    budget = job.recipe.search.latency_budget
    ratio = _ratio(check)
    if ratio.high > budget:
        raise BudgetNotMetError(
            f"The slim network met the latency budget of {budget:g} in Keras but not as exported: "
            f"it took {ratio.value:.3f} times the full network's latency (95 % interval "
            f"{ratio.low:.3f} to {ratio.high:.3f}; {check.latency['slim'].median_ms:.2f} ms). Run "
            "again on a quieter machine, or raise `search.safety_margin`."
        )
    write_json_atomic(folder / "check.json", check.as_dict())


def _check_exports(
    job: Job, folder: Path, networks: Mapping[str, keras.Model], inputs: dict[str, np.ndarray]
) -> CheckReport:
    """Checks both exports; while the interval holds the budget, times twice as long, twice."""
    expected = {name: predict(network, inputs) for name, network in networks.items()}
    pairs = job.recipe.export.pairs
    for attempt in range(3):
        check = check_saved_models(
            {name: folder / name for name in networks},
            inputs,
            expected,
            pairs=pairs * 2**attempt,
            timing_batch=1,
        )
        ratio = _ratio(check)
        if not ratio.low <= job.recipe.search.latency_budget < ratio.high:
            break
    return check


def _ratio(check: CheckReport) -> latency.Ratio:
    assert check.ratio is not None  # two models were timed
    return check.ratio


def report(job: Job) -> dict[str, Any]:
    """Writes `metrics.json`, `report.html` and its pictures at the top of the run's folder."""
    metrics = collect_metrics(job)
    chosen = metrics["search"]["chosen"]
    trials = [
        {**trial, "chosen": trial["number"] == chosen["number"]}
        for trial in job.json("search", "result")["trials"]
    ]
    plan = pruning.PruningPlan.from_json((job.stages.folder / "prune" / "plan.json").read_text())
    widths = [
        {"group": group.name, "before": group.width, "after": len(group.kept)}
        for group in plan.groups
        if not group.fixed
    ]
    folder = job.recipe.run_folder
    with np.load(job.stages.folder / "evaluate" / "panel.npz") as panel:
        write_report(folder, metrics=metrics, trials=trials, widths=widths, panel=dict(panel))
    write_json_atomic(folder / "metrics.json", metrics)
    return metrics


@dataclass(frozen=True)
class _Stage:
    name: str
    what: str
    make: Callable[[Job, Path], None]
    sections: Mapping[str, Any]
    after: tuple[str, ...] = ()
    keep_partial: bool = False


def _plan(recipe: Recipe) -> tuple[_Stage, ...]:
    """The stages in order, each with the part of the recipe and the stages it depends on."""
    device = {"fingerprint": latency.fingerprint()}
    common = {"seed": recipe.run.seed, "backend": keras.backend.backend()}
    tuning = {**common, "finetuning": recipe.finetuning}
    timing = {**device, "pairs": recipe.export.pairs}
    budget = {**timing, "search": recipe.search, "pruning": recipe.pruning}
    strategy = recipe.finetuning.strategy
    return (
        _Stage("data", "simulated MRI of the brain template", make_data,
               {"data": recipe.data, "seed": recipe.run.seed}),
        _Stage("train", "the full network, on ground truth", train,
               {**common, "network": recipe.network, "training": recipe.training}, ("data",)),
        _Stage("search", f"widths within the latency budget, judged for {strategy}", search_widths,
               {**common, **budget, "strategy": strategy}, ("data", "train"), keep_partial=True),
        _Stage("prune", "the best candidate that meets the budget when timed again", prune,
               budget, ("train", "search")),
        _Stage("finetune", f"the slim network, by {strategy}", finetune, tuning,
               ("data", "train", "prune")),
        _Stage("rivals", "the same steps spent otherwise", train_rivals,
               {**tuning, **timing, "training": recipe.training, "evaluation": recipe.evaluation,
                "budget": recipe.search.latency_budget},
               ("data", "train", "prune", "finetune")),
        _Stage("evaluate", "on the test slab", evaluate, timing,
               ("data", "train", "prune", "finetune", "rivals")),
        _Stage("export", "SavedModels, checked and timed without Keras", export,
               {**timing, "export": recipe.export, "budget": recipe.search.latency_budget},
               ("data", "train", "finetune")),
    )  # fmt: skip


def _run_stage(job: Job, stage: _Stage) -> None:
    if job.stages.is_done(stage.name, stage.sections, after=stage.after):
        job.console.print(f"[bold]{stage.name}[/]: [dim]finished before, kept[/]")
        return
    with stage_line(job.console, stage.name, stage.what):
        job.stages.run(
            stage.name,
            stage.sections,
            lambda folder: stage.make(job, folder),
            after=stage.after,
            keep_partial=stage.keep_partial,
        )


def _cut_to_budget(job: Job, full: keras.Model) -> tuple[keras.Model, latency.Ratio]:
    """The full network with the most iterations that meet the budget, at least one."""
    timer = search.interleaved_timer(
        full, job.slices("validation").inputs, pairs=job.recipe.export.pairs
    )
    for iterations in range(full.iterations - 1, 0, -1):
        fewer = full.with_iterations(iterations)
        ratio = timer(fewer).ratio
        if ratio.high <= job.recipe.search.latency_budget:
            return fewer, ratio
    fewer = full.with_iterations(1)
    return fewer, timer(fewer).ratio


def _budget(recipe: Recipe) -> search.LatencyBudget:
    return search.LatencyBudget(
        fraction=recipe.search.latency_budget, safety_margin=recipe.search.safety_margin
    )


def _magnitude(image: Any) -> np.ndarray:
    return np.linalg.norm(keras.ops.convert_to_numpy(image), axis=-1)


def _quartiles(measured: latency.Latency) -> dict[str, float]:
    return {"median": measured.median_ms, "q1": measured.q1_ms, "q3": measured.q3_ms}


def _describe_trial(trial: search.TrialRecord) -> str:
    if trial.latency_ratio is None:
        return f"#{trial.number} failed"
    quality = f", {trial.quality:.2f} dB" if trial.quality is not None else ", over budget"
    return f"#{trial.number} {trial.origin}: ratio {trial.latency_ratio:.3f}{quality}"
