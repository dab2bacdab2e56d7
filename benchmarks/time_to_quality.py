"""Training seconds until a slim network is as good as the converged full one, by how it starts.

    python benchmarks/time_to_quality.py           # about 40 minutes on two cores

The full network of the quickstart comes trained (`[network] weights`). Half of its channels go,
and the slim network is trained by four arms: refitted readers and the full network as teacher,
refitted readers and truth, l1 and truth, and the same widths from scratch. Every arm takes the
better of two learning rates, by the validation loss of its shortest schedule with seed 0. Every
schedule is a training of its own, with its own cosine, since a longer one stopped early is worse.
An arm's time to within x dB is the shortest of its schedules that gets there on test slices: its
epochs x the median seconds of an epoch over all arms (they train the same network, and a busy
machine must not decide), and the median seconds of the refit. Writes
benchmarks/results/time_to_quality.json after every training, and continues there when it is
started again.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from scipy import stats

from spade_keras import latency, pruning, tasks
from spade_keras.backend.batches import predict
from spade_keras.data import SliceDataset
from spade_keras.files import write_json_atomic
from spade_keras.finetuning import IMAGE_CLIP_NORM
from spade_keras.pipeline.training import fit_best
from spade_keras.recipe import load_recipe

RESULTS = Path(__file__).parent / "results" / "time_to_quality.json"
RECIPE = "mri_unrolled_quickstart"
ARMS = {
    # arm: importance, refit, targets, epochs of its schedules
    "compensated + school": ("obs", True, "teacher", (1, 2, 4, 8, 16)),
    "compensated + supervised": ("obs", True, "truth", (1, 4, 16)),
    "l1 + supervised": ("group_l1", False, "truth", (4, 16)),
    "from scratch": (None, False, "truth", (8, 24, 48)),
}
RATES = (2e-3, 4e-3)
WITHIN_DB = (0.1, 0.2, 0.5)


class Study:
    """The data, the full network and the slim ones of one seed."""

    def __init__(self, folder: Path, seed: int, ratio: float) -> None:
        self.recipe = load_recipe(RECIPE, ["network.weights=mni152", "training.epochs=0"])
        self.folder, self.seed, self.ratio = folder, seed, ratio
        self.task = tasks.get(self.recipe)
        self.task.make_data(folder, print)
        self.samples = {split: self.task.load(folder, split) for split in tasks.SPLITS}
        self.full = self.task.new_network(self.samples["train"])
        self.calibration = pruning.calibrate(
            self.full, self.samples["train"].take(0, 32).inputs, samples=64
        )

    def start(self, importance: str | None, refit: bool):
        """Returns a slim network before training, and the seconds that its refit took."""
        plan = pruning.make_plan(
            self.full,
            ratio=self.ratio,
            importance=importance or "group_l1",
            calibration=self.calibration if importance == "obs" else None,
        )
        started = time.perf_counter()
        slim = pruning.rebuild(self.full, plan, calibration=self.calibration if refit else None)
        seconds = time.perf_counter() - started if refit else 0.0
        if importance is None:
            keras.utils.set_random_seed(100 + self.seed)
            slim = type(slim).from_config(slim.get_config())
        return slim, seconds

    def train(self, network, targets: str, epochs: int, learning_rate: float):
        """Trains a network as a recipe does; returns seconds and lowest validation loss."""
        keras.utils.set_random_seed(self.seed)
        batches = {
            split: SliceDataset(
                samples.inputs,
                predict(self.full, samples.inputs) if targets == "teacher" else samples.targets,
                batch_size=1,
                shuffle_seed=self.seed if split == "train" else None,
            )
            for split, samples in self.samples.items()
        }
        started = time.perf_counter()
        history = fit_best(
            network,
            batches["train"],
            batches["validation"],
            epochs=epochs,
            learning_rate=learning_rate,
            checkpoint=self.folder / "best.weights.h5",
            clip_norm=IMAGE_CLIP_NORM,
            compile_options={"loss": "mse"},
        )
        return time.perf_counter() - started, min(history["val_loss"])

    def scores(self, network) -> dict[str, float]:
        test = self.samples["test"]
        return self.task.scores(test, predict(network, test.inputs))

    def row(self, arm: str, epochs: int, rate: float) -> dict:
        importance, refit, targets, _ = ARMS[arm]
        slim, seconds = self.start(importance, refit)
        before = self.scores(slim)
        training, loss = self.train(slim, targets, epochs, rate)
        return {
            "arm": arm,
            "seed": self.seed,
            "epochs": epochs,
            "learning_rate": rate,
            "refit_seconds": seconds,
            "training_seconds": training,
            "validation_loss": loss,
            "as_started": {key: before[key] for key in ("psnr_db", "ssim")},
            "trained": {key: self.scores(slim)[key] for key in ("psnr_db", "ssim")},
        }

    def cost(self) -> dict:
        plan = pruning.make_plan(self.full, ratio=self.ratio)
        inputs = self.samples["test"].take(0, 1).inputs
        ratio = latency.compare(self.full, pruning.rebuild(self.full, plan), inputs, pairs=40).ratio
        return {"widths": plan.widths, "latency_ratio": ratio.as_dict()}


def summarize(rows: list[dict], full: dict[str, float]) -> dict:
    """Seconds of each arm to within x dB of the full network, and ratios to the first arm."""
    summary = {}
    for within in WITHIN_DB:
        times = {
            arm: [_seconds(rows, arm, seed, full["psnr_db"] - within) for seed in _seeds(rows)]
            for arm in ARMS
        }
        reference = times["from scratch"]
        summary[f"within_{within}_db"] = {
            arm: {
                "seconds": [None if math.isinf(s) else round(s, 1) for s in seconds],
                "from_scratch_takes_longer": _ratio(reference, seconds, rows),
            }
            for arm, seconds in times.items()
        }
    return summary


def _seeds(rows):
    """The seeds whose arms all have their longest schedule."""
    done = {(row["seed"], row["arm"], row["epochs"]) for row in rows}
    longest = [(arm, settings[-1][-1]) for arm, settings in ARMS.items()]
    seeds = {row["seed"] for row in rows}
    return sorted(seed for seed in seeds if all((seed, *last) in done for last in longest))


def _seconds(rows, arm, seed, wanted):
    """Seconds of the shortest schedule that reaches `wanted`; infinite if none does."""
    found = [
        row["epochs"]
        for row in rows
        if (row["arm"], row["seed"]) == (arm, seed) and row["trained"]["psnr_db"] >= wanted
    ]
    return _cost(rows, arm, min(found)) if found else math.inf


def _cost(rows, arm, epochs):
    """Seconds of a schedule of an arm, its refit included."""
    epoch = np.median([row["training_seconds"] / row["epochs"] for row in rows])
    refit = np.median([row["refit_seconds"] for row in rows if row["arm"] == arm])
    return float(epochs * epoch + refit)


def _ratio(reference, seconds, rows):
    """Geometric mean over seeds of reference / seconds, with its 95 % interval.

    Where the reference never got there, its longest schedule stands in: the ratio is a lower bound.
    """
    if not seconds or any(map(math.isinf, seconds)):
        return None
    longest = _cost(rows, "from scratch", ARMS["from scratch"][-1][-1])
    bounded = any(map(math.isinf, reference))
    known = [longest if math.isinf(value) else value for value in reference]
    logs = np.log(np.array(known) / np.array(seconds))
    ratio = {"value": float(np.exp(logs.mean())), "lower_bound": bounded}
    if len(logs) > 1:
        half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
        ratio |= {
            "low": float(np.exp(logs.mean() - half)),
            "high": float(np.exp(logs.mean() + half)),
        }
    return ratio


def missing(rows: list[dict], arms: list[str], seeds: int):
    """Yields seed, arm, epochs and learning rate of what is left to train."""
    done = {(row["seed"], row["arm"], row["epochs"], row["learning_rate"]) for row in rows}
    for seed in range(seeds):
        for arm in arms:
            for epochs in ARMS[arm][-1]:
                rates = RATES if (seed, epochs) == (0, ARMS[arm][-1][0]) else [_rate(rows, arm)]
                yield from (
                    (seed, arm, epochs, rate)
                    for rate in rates
                    if (seed, arm, epochs, rate) not in done
                )


def _rate(rows, arm):
    tried = [row for row in rows if (row["seed"], row["arm"]) == (0, arm)]
    shortest = [row for row in tried if row["epochs"] == ARMS[arm][-1][0]]
    return min(shortest, key=lambda row: row["validation_loss"])["learning_rate"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    study = None
    with tempfile.TemporaryDirectory() as folder:
        for seed, arm, epochs, rate in missing(rows, arguments.arms, arguments.seeds):
            if study is None or study.seed != seed:
                study = Study(Path(folder), seed, arguments.ratio)
                full, cost = study.scores(study.full), study.cost()
            rows.append(study.row(arm, epochs, rate))
            print(json.dumps(rows[-1]), flush=True)
            content = {
                "recipe": RECIPE,
                "full": {key: full[key] for key in ("psnr_db", "ssim")},
                **cost,
                "summary": summarize(rows, full),
                "rows": rows,
                "fingerprint": latency.fingerprint(),
            }
            write_json_atomic(RESULTS, content)


if __name__ == "__main__":
    main()
