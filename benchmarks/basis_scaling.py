"""Basis scaling after a transfer with few samples: what it removes, and what each part is worth.

    KERAS_BACKEND=tensorflow python benchmarks/basis_scaling.py [--network vgg resnet] [--seeds 5]

Repeats recipes/classifier_basis_scaling.toml over seeds, each with its own split and weights: the
original, basis scaling, channel pruning to the same size, both, and a network as large that is
trained from scratch. In every seed, without any training after it:

* group_l1 and interpolative: channels removed by either criterion.

In the first `--other-seeds`, from the same originals:

* labels and factors alone: no teacher, and no training of single weights, as in the paper;
* taylor, sigma, random: other rankings of the components;
* components, then channels: the reverse order, by as large a share of the channels.

Prints means over the seeds and writes benchmarks/results/basis_scaling.json after every seed.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from spade_keras import latency, pruning
from spade_keras.pipeline.run_folder import Stages
from spade_keras.pipeline.transfer_run import ARMS, TransferJob
from spade_keras.recipe import load_recipe
from spade_keras.tasks import transfer

RESULT = Path(__file__).resolve().parent / "results" / "basis_scaling.json"
RANKINGS = ("taylor", "sigma", "random")
UNTRAINED_RATIOS = (0.3, 0.5)
KEYS = ("accuracy", "parameters", "macs", "time_ratio")
GOAL = {"loss": 0.01, "removed": 0.9}


def make_job(network: str, train: int, seed: int, folder: str) -> TransferJob:
    """The job of one seed, whose stages lie in a folder."""
    changes = [f'run.folder="{folder}"', f"run.seed={seed}", f"network.name={network}"]
    recipe = load_recipe("classifier_basis_scaling", [*changes, f"data.train_per_class={train}"])
    return TransferJob(recipe, Stages(recipe.run_folder), Console(quiet=True))


def run_stages(job: TransferJob) -> dict[str, keras.Model]:
    """Runs the stages that make networks, and returns these."""
    for stage in job.order():
        if stage.name not in ("evaluate", "export"):
            folder = job.stages.folder / stage.name
            folder.mkdir(parents=True)
            stage.make(job, folder)
    return {"from scratch" if name == "scratch" else name: job.model(name) for name in ARMS}


def other_arms(job: TransferJob, models: dict[str, keras.Model]) -> dict[str, keras.Model]:
    """The arms that the recipe does not have."""
    settings, options = job.recipe.pruning, job.component_options
    original, made = models["original"], {}
    for name in RANKINGS:
        ranked = {**options, "importance": name}
        made[name] = transfer.prune_components(original, job.taught, **ranked).model
        job.fit(made[name], job.taught, settings.tuning_epochs)
    alone = transfer.prune_components(original, job.target, **options)
    made["labels and factors alone"] = alone.model
    plan = pruning.make_plan(models["basis"], ratio=settings.channel_ratio)
    narrow = pruning.rebuild(models["basis"], plan)
    made["components, then channels"] = job.fit(narrow, job.taught, job.recipe.training.epochs)
    return made


def untrained(tasks: transfer.Tasks, original: keras.Model) -> dict[str, keras.Model]:
    """Channels removed by either criterion, and nothing trained after it."""
    made = {}
    for ratio in UNTRAINED_RATIOS:
        plan = pruning.make_plan(original, ratio=ratio)
        made[f"group_l1 {ratio:.0%}"] = pruning.rebuild(original, plan)
        made[f"interpolative {ratio:.0%}"] = pruning.prune_interpolative(
            original, tasks["train"][0], ratio=ratio
        ).model
    return made


def run_seed(job: TransferJob, pairs: int, others: bool) -> dict[str, Any]:
    """All arms for one seed."""
    start, load = time.time(), os.getloadavg()[0]
    models = run_stages(job)
    original = models["original"]
    if others:
        models |= other_arms(job, models)
    options = {"batch_size": job.recipe.evaluation.batch_size}

    def row(model: keras.Model, pairs: int) -> dict[str, Any]:
        return transfer.measure_cost(model, original, job.target, pairs=pairs, **options)

    rows = {name: row(model, pairs) for name, model in models.items()}
    rows |= {name: row(model, 0) for name, model in untrained(job.target, original).items()}
    return {
        "seed": job.recipe.run.seed,
        "samples": job.json("data", "facts")["samples"],
        "seconds": round(time.time() - start),
        "load_average": [load, os.getloadavg()[0]],
        "rows": rows,
    }


def shares(run: dict[str, Any], arm: str) -> dict[str, float]:
    """Figures of one arm and seed, sizes as shares of the original's."""
    row, original = run["rows"][arm], run["rows"]["original"]
    times = {"time_ratio": row["time_ratio"]["value"]} if "time_ratio" in row else {}
    return {
        "accuracy": row["accuracy"],
        "loss": original["accuracy"] - row["accuracy"],
        "parameters": row["parameters"] / original["parameters"],
        "macs": row["macs"] / original["macs"],
        **times,
    }


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds that have an arm, and whether the goal is met."""
    means = {}
    for arm in dict.fromkeys(name for run in runs for name in run["rows"]):
        found = [shares(run, arm) for run in runs if arm in run["rows"]]
        means[arm] = {key: statistics.mean(each[key] for each in found) for key in found[0]}
        means[arm]["seeds"] = len(found)
    met = {
        arm: {
            "loss": means[arm]["loss"] <= GOAL["loss"],
            "removed": 1 - means[arm]["parameters"] >= GOAL["removed"],
            "better_than_scratch": means[arm]["accuracy"] > means["from scratch"]["accuracy"],
        }
        for arm in ("basis", "double")
    }
    return {"means": means, "goal": GOAL, "goal_met": met}


def show(title: str, summary: dict[str, Any]) -> None:
    heads = "".join(f"{key:>12s}" for key in (*KEYS[:1], "loss", *KEYS[1:]))
    print(f"\n{title:26s}{heads}{'seeds':>7s}")
    for arm, row in summary["means"].items():
        cells = "".join(f"{row[key]:12.1%}" for key in ("accuracy", "loss", "parameters", "macs"))
        ratio = f"{row['time_ratio']:.2f}" if "time_ratio" in row else ""
        print(f"{arm:26s}{cells}{ratio:>12s}{row['seeds']:7d}")
    print(f"goal met: {summary['goal_met']}", flush=True)


def write(title: str, content: dict[str, Any]) -> None:
    """Replaces the part of one network and number of samples in the result file."""
    old = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**old, title: content}, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--network", nargs="+", choices=("vgg", "resnet"), default=("vgg", "resnet")
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train", type=int, default=60, help="per class")
    parser.add_argument("--pairs", type=int, default=10, help="timed windows of each network")
    parser.add_argument("--other-seeds", type=int, default=5, help="seeds with all arms")
    given = parser.parse_args()
    for network in given.network:
        runs: list[dict[str, Any]] = []
        for seed in range(given.seeds):
            with tempfile.TemporaryDirectory() as folder:
                job = make_job(network, given.train, seed, folder)
                runs.append(run_seed(job, given.pairs, seed < given.other_seeds))
            summary = summarize(runs)
            title = f"{network}, {given.train} per class"
            show(title, summary)
            sample = job.target["test"][0][: job.recipe.evaluation.batch_size]
            recipe = job.recipe.model_dump(mode="json", exclude={"run"})
            content = {
                "date": datetime.date.today().isoformat(),
                "fingerprint": latency.fingerprint(sample),
                "settings": {**recipe, "filters": transfer.FILTERS},
                "summary": summary,
                "runs": runs,
            }
            write(title, content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
