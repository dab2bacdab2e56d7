"""The cost of a trial beside building, measuring and evaluating its candidate.

    python benchmarks/search_overhead.py                                  # memory and journal
    python benchmarks/search_overhead.py --storage postgresql://user:password@host/database

Writes benchmarks/results/search_overhead.json. The network is that of
recipes/mri_unrolled_quickstart.toml, untrained, with its space of widths. Its time is taken to be
proportional to the parameters, and its quality to be the importance kept, so that nothing but the
search itself and the building of candidates takes time. Each storage is measured three times, of
which the run with the lowest median counts: other work on the machine only adds to it. The goal is
a median of at most 50 ms a trial.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import keras
import numpy as np

from spade_keras import latency, pruning, search
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.recipe import load_recipe

RESULT = Path(__file__).resolve().parent / "results" / "search_overhead.json"
GOAL_MS = 50.0
BUDGET = 0.5
REPEATS = 3


def make_network() -> keras.Model:
    """The full network of the quickstart, with new weights."""
    keras.utils.set_random_seed(0)
    recipe: Any = load_recipe("mri_unrolled_quickstart")
    settings = recipe.network
    prior = priors.dncnn(filters=settings.prior.filters)
    return UnrolledPGD(CartesianMRI(), prior, iterations=settings.iterations)


def parameter_timer(network: keras.Model) -> Any:
    """Times a candidate as its share of the parameters, without running it."""
    full = pruning.count_parameters(network)

    def times(milliseconds: float) -> latency.Latency:
        return latency.summarize(
            [milliseconds] * 3,
            first_ms=milliseconds,
            calls_per_window=1,
            stable=True,
            peak_memory_bytes=None,
            fingerprint={},
        )

    def timer(candidate: keras.Model) -> latency.Comparison:
        ratio = pruning.count_parameters(candidate) / full
        interval = latency.Ratio(ratio, ratio, ratio, 0.95, 3)
        return latency.Comparison(times(10.0), times(10.0 * ratio), interval)

    return timer


def run(network: keras.Model, storage: str | None, trials: int) -> dict[str, Any]:
    """Searches, and returns the milliseconds per trial spent on what."""
    space = search.SearchSpace.from_groups(pruning.find_groups(network), multiple=4, minimum=4)
    ended: list[float] = []
    result = search.run(
        network,
        budget=search.LatencyBudget(BUDGET),
        data=None,
        objective=search.KeptImportance(network),
        timer=parameter_timer(network),
        space=space,
        seeds=("uniform",),
        trials=trials,
        storage=storage,
        on_trial=lambda trial: ended.append(time.perf_counter()),
        name=f"overhead_{datetime.datetime.now():%Y%m%d_%H%M%S_%f}",
    )
    phases = ("build", "compile", "measure", "evaluate")
    named = [sum(trial.seconds[phase] for phase in phases) for trial in result.trials]
    # From the end of one trial to the end of the next: claiming, sampling and storing included.
    spent = {
        "overhead": 1e3 * (np.diff(ended) - named[1:]),
        "build": 1e3 * np.array([trial.seconds["build"] for trial in result.trials]),
    }
    figures = {
        phase: {"median_ms": float(np.median(ms)), "p95_ms": float(np.percentile(ms, 95))}
        for phase, ms in spent.items()
    }
    return {"trials": len(result.trials), **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--storage", help="a database to measure beside memory and journal")
    parser.add_argument("--trials", type=int, default=60)
    options = parser.parse_args()
    network = make_network()
    stored = json.loads(RESULT.read_text())["storages"] if RESULT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        storages = {"memory": None, "journal": str(Path(folder) / "study.journal")}
        if options.storage:
            storages[options.storage.split(":")[0]] = options.storage
        for name, storage in storages.items():
            runs = [run(network, storage, options.trials) for _ in range(REPEATS)]
            figures = min(runs, key=lambda found: found["overhead"]["median_ms"])
            stored[name] = {**figures, "date": datetime.date.today().isoformat()}
            overhead, build = figures["overhead"], figures["build"]
            print(
                f"{name:12s} overhead {overhead['median_ms']:6.1f} ms (95 %: "
                f"{overhead['p95_ms']:.1f}), build {build['median_ms']:6.1f} ms"
            )
    content = {
        "goal_ms": GOAL_MS,
        "goal_met": {name: row["overhead"]["median_ms"] <= GOAL_MS for name, row in stored.items()},
        "storages": stored,
        "fingerprint": latency.fingerprint(),
    }
    RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
