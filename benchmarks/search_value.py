"""What a search for widths is worth against uniform widths of equal measured time.

    python benchmarks/search_value.py                          # hours on two cores
    python benchmarks/search_value.py --networks classifier    # some minutes per seed and budget

Networks whose layers differ: inverted bottlenecks on the digits of scikit-learn, an equilibrium
network with residual prior (shipped weights) and an end-to-end variational network. `searched` is
what `search.run`, `preselect` and `accept` choose for a budget; `uniform` loses one share of every
group, the one at which its time is closest to that of `searched`, both timed interleaved. Both are
ranked by "obs", refitted to training inputs and not tuned. `holds`: the mean ratio of a plan in
three more processes meets the budget. `correlation` is Spearman's, of the quality as pruned with
that after a short tuning, over random widths of half the multiply-accumulates: refitted, and
ranked by l1 and cut. Intervals (95 %) draw seeds and test samples, or configurations, anew.

Every finished piece is written to benchmarks/results/search_value.json at once, and skipped there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import compensation
import keras
import numpy as np
from scipy import stats

from spade_keras import latency, pruning, search, tasks
from spade_keras.backend.batches import count_samples, first_samples, predict
from spade_keras.data import SliceDataset
from spade_keras.errors import BudgetNotMetError
from spade_keras.files import load_model, save_model, write_bytes_atomic
from spade_keras.finetuning import IMAGE_CLIP_NORM
from spade_keras.pipeline.training import fit_best
from spade_keras.pruning.importance import find_importance
from spade_keras.recipe import load_recipe

RESULTS = Path(__file__).parent / "results" / "search_value.json"
RECIPES = {
    "deep_equilibrium": ("mri_deq_quickstart", "network.weights=mni152", "training.epochs=0"),
    "e2e_varnet": ("mri_e2e_varnet_fastmri",),
}
NETWORKS = ("classifier", *RECIPES)
CORRELATED = NETWORKS[:2]
IMPORTS = ("spade_keras.networks",)
EQUAL, PAIRS, PROCESSES, RESAMPLES = 0.03, 40, 3, 4000


@dataclass(frozen=True)
class Lab:
    """A trained network, and what it is pruned, timed and judged by.

    `inputs` are those of the splits "train" and "validation"; a search sees no others. `score`
    gives percent (0 or 100) or PSNR in dB per test sample, `judge` scores candidates without
    truth, `tune` trains in place, and `timed` makes the form of a network that a search times.
    """

    path: Path
    full: keras.Model
    options: search.SearchOptions
    inputs: Mapping[str, Any]
    judge: search.Objective
    score: Callable[[keras.Model], np.ndarray]
    tune: Callable[[keras.Model], None]
    timed: Callable[[keras.Model], keras.Model] = lambda network: network

    @cached_property
    def calibration(self) -> pruning.Calibration:
        return pruning.calibrate(self.full, self.inputs["train"])

    @cached_property
    def criterion(self) -> Any:
        return find_importance("obs", self.calibration)

    def call(self, number: int = 0) -> Any:
        """The inputs of one call, other ones for every number as long as there are any."""
        size, inputs = self.options.batch_size, self.inputs["validation"]
        start = number * size % count_samples(inputs)
        return latency.fill_batch(first_samples(inputs, size, start), size)

    def timer(self, against: keras.Model, pairs: int) -> search.Timer:
        sizes = {"pairs": pairs, "batch_size": self.options.batch_size}
        timer = search.interleaved_timer(self.timed(against), self.call(), **sizes)
        return lambda network: timer(self.timed(network))

    def arm(self, network: keras.Model) -> dict[str, Any]:
        """Scores of a network, and the ratio of its time to the full one's in new processes."""
        compare = partial(
            latency.compare_in_fresh_process, self.path, pairs=PAIRS // 2, imports=IMPORTS
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "slim.keras")
            save_model(network, path)
            times = [compare(path, self.call(number)) for number in range(PROCESSES)]
        ratio = latency.pool(times).ratio.as_dict()
        return {"ratio": ratio, "scores": np.round(self.score(network), 3).tolist()}


def fit(network, data, batch_size, loss, **options):
    """Trains on split -> (inputs, targets) to the best weights by validation loss."""
    train = SliceDataset(*data["train"], batch_size=batch_size, shuffle_seed=0)
    validation = SliceDataset(*data["validation"], batch_size=batch_size)
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder, "best.weights.h5")
        loss = {"loss": loss}
        fit_best(network, train, validation, checkpoint=best, compile_options=loss, **options)


def classifier(seed: int, path: Path) -> Lab:
    x, y = compensation.digits()
    parts = {"train": slice(0, 1200), "validation": slice(1200, 1400)}
    inputs = {split: x[part] for split, part in parts.items()}
    data = {split: (x[part], y[part]) for split, part in parts.items()}
    if not path.exists():
        keras.utils.set_random_seed(seed)
        body = compensation.NETWORKS["inverted_bottlenecks"]
        save_model(compensation.trained(body, x, y, epochs=12), path)
    full = load_model(path)
    options = {"batch_size": 200, "width_multiple": 4, "safety_margin": 0.05, "finalists": 2}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Lab(
        path,
        full,
        search.SearchOptions.of(0.5, pairs=20, **options),
        inputs,
        search.LogitAgreement(inputs["validation"], full, from_logits=True),
        lambda network: 100.0 * (predict(network, x[1400:], batch_size=64).argmax(-1) == y[1400:]),
        lambda network: fit(network, data, 64, loss, epochs=1, learning_rate=5e-4, clip_norm=1.0),
    )


def imaging(recipe: Sequence[str], seed: int, path: Path) -> Lab:
    recipe = load_recipe(recipe[0], [*recipe[1:], f"run.seed={seed}"])
    task, training = tasks.get(recipe), recipe.training
    with tempfile.TemporaryDirectory() as folder:
        task.make_data(Path(folder), print)
        lazy = ((split, task.load(Path(folder), split)) for split in tasks.SPLITS)
        samples = {split: found.take(0, len(found)) for split, found in lazy}
    inputs, test = {split: found.inputs for split, found in samples.items()}, samples["test"]
    settings = {"learning_rate": training.learning_rate, "clip_norm": IMAGE_CLIP_NORM}
    if not path.exists():
        keras.utils.set_random_seed(seed)
        network = task.new_network(samples["train"])
        if training.epochs:
            loss = task.training_options(network, samples["train"].take(0, 1).inputs)["loss"]
            data = {split: (found.inputs, found.targets) for split, found in samples.items()}
            fit(network, data, training.batch_size, loss, epochs=training.epochs, **settings)
        save_model(network, path)
    full = load_model(path)

    def score(network):
        outputs = predict(network, test.inputs)
        each = (task.scores(test.take(i, 1), outputs[i : i + 1]) for i in range(len(test)))
        return np.array([found["psnr_db"] for found in each])

    def tune(network):
        data = {split: (x, predict(full, x)) for split, x in inputs.items()}
        fit(network, data, training.batch_size, "mse", epochs=1, **settings)

    judge = task.objective("school", inputs["validation"], teacher=full)
    few = {"train": first_samples(inputs["train"], 32), "validation": inputs["validation"]}
    return Lab(path, full, recipe.search, few, judge, score, tune, task.timed)


@lru_cache(maxsize=1)
def make_lab(name: str, seed: int) -> Lab:
    path = Path(__file__).parent / "runs" / f"search_value-{name}-{seed}.keras"
    path.parent.mkdir(exist_ok=True)
    return classifier(seed, path) if name == "classifier" else imaging(RECIPES[name], seed, path)


def match_time(ratio_of: Callable[[float], float]) -> float:
    """The share of channels to remove at which `ratio_of`, which falls with it, is closest to 1."""
    low, high = 0.0, 0.97
    found: dict[float, float] = {}
    while len(found) < 10:
        share = (low + high) / 2
        found[share] = ratio_of(share)
        if abs(found[share] - 1) < EQUAL / 3:
            break
        low, high = (share, high) if found[share] > 1 else (low, share)
    return min(found, key=lambda share: abs(found[share] - 1))


def find_plan(lab: Lab, seed: int, options: search.SearchOptions):
    """Returns the finalist of a search, accepted or else the best, its origin and its network."""
    timer, refit = partial(lab.timer, lab.full), {"calibration": lab.calibration}
    judged = {"objective": lab.judge, "timer": timer(options.pairs), "importance": "obs"}
    result = search.run(lab.full, data=lab.call(), options=options, seed=seed, **judged, **refit)
    rejected: list[search.Finalist] = []
    again = {"timer": timer, "pairs": PAIRS, "rejected": rejected, "say": print}
    with_margin = search.preselect(lab.full, result, count=options.finalists, **again, **refit)
    with tempfile.TemporaryDirectory() as folder:
        slim_path = Path(folder, "slim.keras")
        tried, accepted = search.accept(
            islice(with_margin, 2),  # the first group, widened and as it was found
            full=lab.full,
            full_path=lab.path,
            slim_path=slim_path,
            inputs=lab.inputs["validation"],
            budget=options.budget,
            score=lab.judge,
            say=print,
            imports=IMPORTS,
        )
        slim = load_model(slim_path) if accepted else None
    best = next((found for found in (accepted, *tried, *rejected) if found), None)
    if best is None:
        raise BudgetNotMetError(result.failure())
    if slim is None:
        slim = search.realize(lab.full, best.configuration, best.plan, lab.calibration)
    return best, result.trials[best.trial].origin, slim


def compare_arms(lab: Lab, seed: int, budget: float, trials: int) -> dict[str, Any]:
    """Searches for a budget, accepts a plan, and brings uniform widths to its time."""
    every = {"trials": trials, "compensate": True, "seeds": tuple(search.SEEDS)}
    options = search.SearchOptions.of(budget, lab.options, **every)
    try:
        found, origin, searched = find_plan(lab, seed, options)
    except BudgetNotMetError as error:
        return {"failure": str(error)}
    time_to_searched = lab.timer(searched, PAIRS)

    plan_for = partial(pruning.make_plan, lab.full, importance=lab.criterion)

    def ratio_of(share):
        return time_to_searched(pruning.rebuild(lab.full, plan_for(ratio=share))).ratio.value

    plan = plan_for(ratio=match_time(ratio_of))
    uniform = pruning.rebuild(lab.full, plan, calibration=lab.calibration)
    row = {
        "trials": trials,
        "origin": origin,
        "accepted": found.accepted,
        "uniform_over_searched": time_to_searched(uniform).ratio.as_dict(),
        "widths": {"searched": found.plan.widths, "uniform": plan.widths},
        "full": np.round(lab.score(lab.full), 3).tolist(),
        "searched": lab.arm(searched),
        "uniform": lab.arm(uniform),
    }
    return {**row, "holds": row["searched"]["ratio"]["value"] <= budget}


def random_widths(lab: Lab, number: int) -> dict[str, Any]:
    """Random widths at half the multiply-accumulates: quality as pruned, and after tuning."""
    draw = np.random.default_rng(number)

    def by_lot(group, weights):
        return draw.uniform(size=group.width) * 3 ** draw.uniform(-1, 1)

    half = {"target": {"macs": 0.5}, "inputs": lab.call(), "importance": by_lot}
    widths = pruning.make_plan(lab.full, **half).widths
    row: dict[str, Any] = {"widths": widths}
    arms = {"compensated": (lab.criterion, lab.calibration), "l1": ("group_l1", None)}
    for arm, (importance, calibration) in arms.items():
        plan = pruning.make_plan(lab.full, widths=widths, importance=importance)
        judged = pruning.rebuild(lab.full, plan, calibration=calibration, sequential=False)
        tuned = pruning.rebuild(lab.full, plan, calibration=calibration)
        lab.tune(tuned)
        row[arm] = {"as_pruned": lab.judge(judged), "tuned": float(lab.score(tuned).mean())}
    return row


def estimate(value: float, draws: Any) -> dict[str, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": float(value), "low": float(low), "high": float(high)}


def paired(full: Any, uniform: Any, searched: Any) -> dict[str, Any]:
    """Returns the gain of `searched` on `uniform`, and its share of the loss of `uniform`.

    Scores are `(seeds, samples)`. Seeds and samples are drawn independently, since samples of a
    seed share a network. The share is None where a draw of uniform loses nothing.
    """
    f, u, s = (np.asarray(scores, "float64") for scores in (full, uniform, searched))
    generator, (seeds, samples) = np.random.default_rng(0), s.shape
    rows = generator.integers(seeds, size=(RESAMPLES, seeds, 1))
    columns = generator.integers(samples, size=(RESAMPLES, 1, samples))
    gain, loss = (x[rows, columns].mean(axis=(1, 2)) for x in (s - u, f - u))
    share = (s - u).mean() / (f - u).mean() if loss.min() > 0 else None
    recovered = None if share is None else estimate(share, gain / loss)
    return {"gain": estimate((s - u).mean(), gain), "recovered": recovered}


def rank_correlation(rows: Sequence[Any], arm: str) -> dict[str, float] | None:
    """Spearman's, as pruned and tuned, with a bootstrap interval over four or more rows."""
    x, y = (np.array([row[arm][quality] for row in rows]) for quality in ("as_pruned", "tuned"))
    chosen = np.random.default_rng(0).integers(len(x), size=(RESAMPLES // 4, len(x)))
    draws = [stats.spearmanr(x[c], y[c])[0] for c in chosen if np.ptp(x[c]) and np.ptp(y[c])]
    return estimate(stats.spearmanr(x, y)[0], draws) if len(rows) > 3 else None


def summarize(pieces: Mapping[str, Any]) -> dict[str, Any]:
    """Arms by network and budget over the seeds there are; correlations by network."""
    groups: dict[str, list[Any]] = {}
    for key in sorted(pieces):
        groups.setdefault(key.rsplit(", ", 1)[0], []).append(pieces[key])
    summary: dict[str, Any] = {}
    for name, found in groups.items():
        if "l1" in found[0]:
            summary[name] = {arm: rank_correlation(found, arm) for arm in ("compensated", "l1")}
            continue
        rows = [row for row in found if "searched" in row]
        held = [row["holds"] for row in rows if row["accepted"]]
        summary[name] = {
            "accepted": f"{len(held)} of {len(found)}",
            "accepted_and_hold": f"{sum(held)} of {len(held)}",
        }
        if rows:
            arms = {arm: [row[arm]["scores"] for row in rows] for arm in ("uniform", "searched")}
            arms = {"full": [row["full"] for row in rows], **arms}
            times = [row["uniform_over_searched"]["value"] for row in rows]
            summary[name] |= {arm: float(np.mean(scores)) for arm, scores in arms.items()}
            summary[name] |= paired(**arms)
            summary[name]["equal_time"] = [abs(ratio - 1) <= EQUAL for ratio in times]
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", nargs="*", type=float, default=(0.7, 0.5, 0.3))
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--configurations", type=int, default=8)
    options = parser.parse_args()
    pieces = json.loads(RESULTS.read_text())["pieces"] if RESULTS.exists() else {}
    for network, seed in product(options.networks, range(options.seeds)):
        makers: dict[str, Callable[[Lab], dict[str, Any]]] = {}
        for budget in options.budgets:
            make = partial(compare_arms, seed=seed, budget=budget, trials=options.trials)
            makers[f"{network}, budget {budget:g}, seed {seed}"] = make
        for number in range(options.configurations if network in CORRELATED and not seed else 0):
            make = partial(random_widths, number=number)
            makers[f"{network}, correlation, number {number}"] = make
        for key in (key for key in makers if key not in pieces):
            started = time.perf_counter()
            found = makers[key](make_lab(network, seed))
            pieces[key] = {**found, "seconds": round(time.perf_counter() - started, 1)}
            content = {"summary": summarize(pieces), "fingerprint": latency.fingerprint()}
            text = json.dumps({**content, "pieces": pieces}).replace(', "', ',\n"')  # key by line
            write_bytes_atomic(RESULTS, text.encode() + b"\n")
            print(f"{key} took {pieces[key]['seconds']} s", flush=True)
    print(json.dumps(summarize(pieces), indent=1))


if __name__ == "__main__":
    main()
