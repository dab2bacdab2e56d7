"""The whole run on a tiny recipe: its figures, what it may see, and what a kill may not break."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import optuna
import pytest
from rich.console import Console

from spade_keras import data, latency, pipeline, search
from spade_keras.errors import BudgetNotMetError
from spade_keras.pipeline import LatencyJob, latency_run
from spade_keras.pipeline.run_folder import Stages
from spade_keras.pruning import count_parameters
from spade_keras.recipe import load_recipe
from spade_keras.search import finalists as finals
from tests import parameter_clock as clock

pytestmark = pytest.mark.alone

TINY = [
    "data.height=48",
    "data.width=48",
    "data.validation_slices=3",
    "data.test_slices=3",
    "data.gap_slices=46",
    "network.iterations=3",
    "network.prior.filters=[48,48]",
    "training.epochs=2",
    "training.batch_size=2",
    "search.latency_budget=0.95",
    "search.safety_margin=0.0",
    "search.trials=4",
    "search.staircase=false",
    "search.width_multiple=8",
    "search.minimum_width=8",
    "search.pairs=5",
    "network.weights=none",
    "finetuning.epochs=2",
    "finetuning.batch_size=2",
    "export.pairs=15",
]
# Where time is measured: what is found must meet the budget again on a busy machine.
REAL_CLOCK = "search.safety_margin=0.15"
RECIPE = "mri_unrolled_quickstart"
ON_TF = keras.backend.backend() == "tensorflow"


def recipe(folder, *overrides):
    return load_recipe(RECIPE, [*TINY, f'run.folder="{folder}"', *overrides])


def job(settings):
    return LatencyJob(settings, Stages(settings.run_folder), Console(quiet=True))


def comparison(share):
    """What a clock without noise says of a network that takes `share` of the full one's time."""
    return clock.comparison(share, spread=0)


def parameter_process(full, slim, inputs, **options):
    """As `latency.compare_in_fresh_process`, on the device of `parameter_timer`."""
    a, b = (keras.saving.load_model(path, compile=False) for path in (full, slim))
    return comparison(count_parameters(b) / count_parameters(a))


def parameter_timer(slower_when_timed_again=0.0):
    """A device whose time is proportional to the parameters: the same in every run.

    The pipeline times again with `export.pairs` pairs.
    """

    def timer(network, inputs, *, pairs, **options):
        full = count_parameters(network)
        more = slower_when_timed_again if pairs == 15 else 0.0

        def compare(candidate):
            return comparison(count_parameters(candidate) / full + more)

        return compare

    return timer


@pytest.fixture
def parameter_clock(monkeypatch):
    monkeypatch.setattr(search, "interleaved_timer", parameter_timer())
    monkeypatch.setattr(latency, "compare_in_fresh_process", parameter_process)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A tiny run, from the data to the report.

    Where a backend's overhead hides what pruning saves in so small a network, widths are found by
    parameters, far below the budget, so that the exports, which are timed, meet it.
    """
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        if not ON_TF:
            patch.setattr(search, "interleaved_timer", parameter_timer())
            patch.setattr(latency, "compare_in_fresh_process", parameter_process)
        settings = recipe(folder, REAL_CLOCK if ON_TF else "search.safety_margin=0.5")
        return settings, pipeline.run(settings, Console(quiet=True))


def test_metrics_hold_what_was_measured(finished):
    settings, metrics = finished
    assert json.loads((settings.run_folder / "metrics.json").read_text()) == metrics
    assert set(metrics["quality"]) == {
        "zero_filled",
        "full",
        "pruned",
        "finetuned",
        "from_scratch",
        "fewer_iterations",
    }
    for scores in metrics["quality"].values():
        numbers = {key: value for key, value in scores.items() if key != "convention"}
        assert scores["convention"] == "slab"
        assert {"psnr_db", "ssim", "nmse", "psnr_db_std", "ssim_std", "nmse_std"} == set(numbers)
        assert np.isfinite(list(numbers.values())).all()
    for name in ("full", "slim"):
        for where in ("keras", "exported"):
            times = metrics["latency_ms"][name][where]
            assert 0 < times["q1"] <= times["median"] <= times["q3"]
    for ratio in (metrics["latency_ratio"], metrics["exported_ratio"]):
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    assert metrics["exported_ratio"]["high"] <= metrics["latency_budget"] == 0.95
    exported = metrics["latency_ms"]
    # The mean over processes, which a busy machine sets apart from the medians of all windows.
    assert metrics["exported_ratio"]["value"] == pytest.approx(
        exported["slim"]["exported"]["median"] / exported["full"]["exported"]["median"], rel=0.3
    )
    assert metrics["exported_ratio"]["processes"] >= finals.PROCESSES
    assert metrics["trials"]["total"] >= 4
    assert metrics["trials"]["feasible"] + metrics["trials"]["infeasible"] == 4
    assert metrics["export"]["format"] == "saved_model"
    assert metrics["export"]["max_abs_error"] < 1e-4
    assert set(metrics["seconds"]) >= {"data", "train", "search", "prune", "finetune", "evaluate"}
    assert metrics["fingerprint"]["backend"] == keras.backend.backend()
    assert "average" in metrics["data_note"]


def test_slim_network_is_the_plan_and_smaller(finished):
    settings, metrics = finished
    this = job(settings)
    full, slim = this.model("train"), this.model("finetune")
    widths = metrics["search"]["chosen"]["widths"]
    for name, width in widths.items():
        layer = name.removeprefix("prior/")
        if layer.startswith("conv"):
            assert slim.prior.get_layer(layer).filters == width
    assert count_parameters(slim) == metrics["parameters"]["slim"] < metrics["parameters"]["full"]
    assert metrics["macs"]["slim"] < metrics["macs"]["full"]
    assert count_parameters(full) == metrics["parameters"]["full"]
    scratch = this.model("rivals", "from_scratch")
    assert [w.shape for w in scratch.weights] == [w.shape for w in slim.weights]
    fewer = this.model("rivals", "fewer_iterations")
    assert fewer.iterations == metrics["rivals"]["fewer_iterations"]["iterations"] < full.iterations
    assert metrics["rivals"]["from_scratch"]["epochs"] == 4  # 2 to train + 2 to fine-tune


def test_training_helps_even_here(finished):
    _, metrics = finished
    quality = metrics["quality"]
    assert quality["full"]["psnr_db"] > quality["zero_filled"]["psnr_db"] + 1


def test_the_full_network_computes_in_the_dtype_of_the_recipe(finished, tmp_path):
    settings = recipe(tmp_path, "network.dtype=bfloat16", "training.epochs=1")
    shutil.copytree(finished[0].run_folder / "data", settings.run_folder / "data")
    latency_run.train(job(settings), tmp_path)
    network = keras.saving.load_model(tmp_path / "network.keras")
    computing = {layer.compute_dtype for layer in network.prior.layers if layer.weights}
    assert "bfloat16" in computing
    history = json.loads((tmp_path / "history.json").read_text())
    assert np.isfinite(history["loss"][0])


def test_a_finished_run_is_not_run_again(finished):
    settings, metrics = finished
    record = settings.run_folder / "train" / "stage.json"
    before = record.read_text()
    started = time.perf_counter()
    assert pipeline.run(settings, Console(quiet=True)) == metrics
    assert time.perf_counter() - started < 30
    assert record.read_text() == before


def test_report_shows_the_run(finished):
    settings, _ = finished
    page = (settings.run_folder / "report.html").read_text()
    assert "Budget met" in page
    assert list(settings.run_folder.glob("*.png"))
    assert load_recipe(settings.run_folder / "recipe.toml") == settings


def rerun_stages(settings, source, target, poison):
    """Search, prune and fine-tune anew on a copy of a run's data and trained network."""
    for stage in ("data", "train"):
        shutil.copytree(source / stage, target / stage)
    if poison:
        for split in ("train", "validation", "test"):
            path = str(target / "data" / f"{split}.npz")
            slices = data.MeasuredSlices.load(path)
            slices.targets[:] = np.nan
            slices.save(path)
    this = LatencyJob(settings, Stages(target), Console(quiet=True))
    for name, stage in (
        ("search", latency_run.search_widths),
        ("prune", latency_run.prune),
        ("finetune", latency_run.finetune),
    ):
        (target / name).mkdir()
        stage(this, target / name)
    weights = [np.array(w) for w in this.model("finetune").get_weights()]
    return this.json("finetune", "chosen")["widths"], weights


@pytest.mark.parametrize("strategy", ["school", "self_supervised", "supervised"])
def test_only_supervised_runs_touch_the_truth(finished, parameter_clock, tmp_path, strategy):
    """NaN as truth: the same widths and weights, or, where truth is needed, a loud failure."""
    source = finished[0].run_folder
    settings = recipe(tmp_path, f"finetuning.strategy={strategy}", "search.latency_budget=0.5")
    (tmp_path / "clean").mkdir()
    (tmp_path / "poisoned").mkdir()
    if strategy == "supervised":
        with pytest.raises(Exception, match=r"failed|finite"):
            rerun_stages(settings, source, tmp_path / "poisoned", poison=True)
        return
    widths, weights = rerun_stages(settings, source, tmp_path / "clean", poison=False)
    poisoned_widths, poisoned = rerun_stages(settings, source, tmp_path / "poisoned", poison=True)
    assert poisoned_widths == widths
    for a, b in zip(weights, poisoned, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(np.isfinite(w).all() for w in weights)


def test_a_budget_out_of_reach_ends_honestly(finished, parameter_clock, tmp_path):
    settings = recipe(tmp_path, "search.latency_budget=0.001")
    for stage in ("data", "train"):
        shutil.copytree(finished[0].run_folder / stage, settings.run_folder / stage)
    with pytest.raises(BudgetNotMetError, match=r"The fastest took 0\.0"):
        pipeline.run(settings, Console(quiet=True))
    assert not (settings.run_folder / "prune").exists()
    assert not (settings.run_folder / "metrics.json").exists()
    assert (settings.run_folder / "search" / "result.json").exists()


def searched(settings, finished):
    """A job whose data, training and search are done."""
    this = job(settings)
    for stage in ("data", "train"):
        shutil.copytree(finished[0].run_folder / stage, settings.run_folder / stage)
    for name in ("search", "prune", "finetune"):
        (settings.run_folder / name).mkdir()
    latency_run.search_widths(this, settings.run_folder / "search")
    return this, search.SearchResult.from_dict(this.json("search", "result")).ranking


@pytest.mark.parametrize("all_miss", [False, True])
def test_what_misses_the_budget_when_timed_again_is_no_finalist(
    finished, monkeypatch, parameter_clock, tmp_path, all_miss
):
    settings = recipe(
        tmp_path, "search.latency_budget=0.6", "search.trials=12", "search.finalists=2"
    )
    this, ranking = searched(settings, finished)
    folder = settings.run_folder / "prune"
    best, fastest = ranking[0].latency_ratio, min(trial.latency_ratio for trial in ranking)
    assert fastest < best
    # So much slower that the best misses the budget, and, or not, the fastest as well.
    slower = 1.0 if all_miss else 0.6 - (best + fastest) / 2
    monkeypatch.setattr(search, "interleaved_timer", parameter_timer(slower))
    if all_miss:
        with pytest.raises(BudgetNotMetError, match="missed it when they were timed again"):
            latency_run.prune(this, folder)
        assert not list(folder.iterdir())
        return
    latency_run.prune(this, folder)
    chosen = this.json("prune", "finalists")
    assert 1 <= len([f for f in chosen["finalists"] if f["group"] == 0]) <= 2
    assert all(finalist["ratio"]["high"] <= 0.6 for finalist in chosen["finalists"])
    assert all(rejected["ratio"]["high"] > 0.6 for rejected in chosen["rejected"])
    numbers = {t["number"] for t in chosen["rejected"] + chosen["finalists"]}
    contenders = this.search_result().contenders[: len(numbers)]
    assert numbers == {trial.number for trial in contenders}
    assert chosen["rejected"]


@pytest.mark.parametrize("slow", [(), (0,), (0, 1)], ids=["none", "better", "both"])
def test_the_better_finalist_that_is_fast_enough_in_a_fresh_process_is_accepted(
    finished, monkeypatch, parameter_clock, tmp_path, slow
):
    settings = recipe(
        tmp_path,
        "search.latency_budget=0.6",
        "search.trials=8",
        "search.finalists=2",
    )
    this, _ = searched(settings, finished)
    latency_run.prune(this, settings.run_folder / "prune")
    finalists = this.json("prune", "finalists")["finalists"]
    names = [finalist["name"] for finalist in finalists if finalist["group"] == 0]
    assert names == ["finalist_0", "finalist_1"]
    asked = []

    def process(full, slim, inputs, **options):
        if slim not in asked:
            asked.append(slim)
        late = len(slow) == 2 or asked.index(slim) in slow
        return comparison(0.7) if late else parameter_process(full, slim, inputs)

    monkeypatch.setattr(latency, "compare_in_fresh_process", process)
    monkeypatch.setattr(latency_run, "fit_by_strategy", lambda *arguments: {"loss": [0.0]})
    folder = settings.run_folder / "finetune"
    if len(slow) == 2:
        with pytest.raises(BudgetNotMetError, match=r"fresh processes: trial \d+ took 0\.700 of"):
            latency_run.finetune(this, folder)
        assert not (folder / "network.keras").exists()
        assert not (folder / "receipt.json").exists()
        return
    latency_run.finetune(this, folder)
    chosen = this.json("finetune", "chosen")
    quality = this.score(this.model("train"))
    other = next(path for path in folder.glob("finalist_*.keras"))
    scores = [quality(this.model("finetune")), quality(this.model("finetune", other.stem))]
    assert (scores[0] >= scores[1]) == (not slow)
    assert chosen["quality"] == pytest.approx(scores[0], abs=1e-3)
    assert len(asked) == 1 + len(slow)
    receipt = this.json("finetune", "receipt")
    assert receipt["ratio"] == chosen["ratio"]
    assert receipt["configuration"] == chosen["configuration"]


def test_a_joint_search_may_choose_iterations_and_keeps_absolute_budgets(
    finished, parameter_clock, tmp_path
):
    settings = recipe(
        tmp_path,
        "search.latency_budget=6ms",
        "search.trials=6",
        "search.iterations=[1, 2]",
        "search.sampler=random",
        "search.objective=kept_importance",
    )
    this, ranking = searched(settings, finished)
    result = this.search_result()
    assert result.space.iterations == (1, 2, 3)
    assert str(result.budget) == "median of at most 6 ms"
    assert result.quality_name.startswith("share of importance kept")
    assert {trial.configuration.iterations for trial in result.trials} > {3}
    assert all(trial.timing.latency_ms <= 6 for trial in ranking)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "agreement with the full network (PSNR, dB)"),
        (["search.iterations=[1, 2]"], "agreement with the full network (PSNR, dB) after 7 steps"),
        (["search.iterations=[1, 2]", "search.objective=as_pruned"], "agreement with the full"),
    ],
)
def test_depth_is_judged_after_a_short_fine_tuning(finished, tmp_path, overrides, expected):
    """A network cut in depth loses less at once than in the end."""
    settings = recipe(tmp_path, *overrides)
    this = job(settings)
    for stage in ("data", "train"):
        shutil.copytree(finished[0].run_folder / stage, settings.run_folder / stage)
    objective = latency_run._objective(this, this.model("train"))
    assert objective.name.startswith(expected)
    assert ("steps" in objective.name) == ("steps" in expected)


def command(settings_overrides, folder):
    return [
        sys.executable,
        "-m",
        "spade_keras.cli",
        "run",
        RECIPE,
        *TINY,
        REAL_CLOCK,
        f'run.folder="{folder}"',
        *settings_overrides,
    ]


def wait_for(condition, process, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def finished_trials(folder):
    """Complete and pruned trials in the journal of a search under way."""
    [journal, *_] = [*folder.glob(".partial-search-*/study.journal"), None]
    if journal is None:
        return 0
    entries = [
        json.loads(line)
        for line in journal.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    return sum(entry.get("state") in done for entry in entries)


@pytest.mark.skipif(not ON_TF, reason="the command line is the same; one backend is enough")
def test_killed_at_two_moments_a_run_continues(tmp_path):
    overrides = ["evaluation.rivals=false", "finetuning.epochs=1", "search.trials=5"]
    folder = Path(recipe(tmp_path, *overrides).run_folder)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}

    def start():
        return subprocess.Popen(
            command(overrides, tmp_path),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    process = start()
    wait_for(lambda: finished_trials(folder) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    trained = (folder / "train" / "stage.json").read_text()
    kept = finished_trials(folder)
    assert not (folder / "search").exists()

    process = start()
    wait_for((folder / "prune" / "stage.json").exists, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / "train" / "stage.json").read_text() == trained
    searched = (folder / "search" / "stage.json").read_text()
    assert kept >= 2

    process = start()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert (folder / "search" / "stage.json").read_text() == searched
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["trials"]["feasible"] + metrics["trials"]["infeasible"] == 5
    assert metrics["trials"]["total"] <= 6  # at most the interrupted one was tried again
    assert set(metrics["quality"]) == {"zero_filled", "full", "pruned", "finetuned"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".attempt")]
