"""Every imaging recipe from the data to the report at a tiny size; time is that of parameters."""

import keras
import numpy as np
import pytest
from rich.console import Console

from spade_keras import data, latency, pipeline, search
from spade_keras.export import CheckReport
from spade_keras.pipeline import LatencyJob, closing, latency_run
from spade_keras.pipeline.run_folder import Stages
from spade_keras.pruning import count_parameters
from spade_keras.recipe import load_recipe
from spade_keras.search import finalists

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="the networks have tests on every backend"
)

COMMON = [
    "training.epochs=1",
    "search.latency_budget=0.95",
    "search.safety_margin=0.0",
    "search.trials=2",
    'search.seeds=["uniform"]',
    "search.staircase=false",
    "search.width_multiple=4",
    "search.minimum_width=4",
    "search.pairs=5",
    "search.finalists=1",
    "finetuning.epochs=1",
    "export.pairs=5",
]
TINY = {
    "mri_deq_quickstart": [
        "data.height=16",
        "data.width=16",
        "data.acs_lines=4",
        "data.gap_slices=46",
        "data.validation_slices=2",
        "data.test_slices=3",
        "network.weights=none",
        "network.iterations=3",
        "network.max_iterations=12",
        "network.gradient_steps=2",
        "network.prior.filters=[8,8]",
    ],
    "mri_e2e_varnet_fastmri": [
        "data.height=16",
        "data.width=16",
        "data.acs_lines=4",
        "data.coils=2",
        "data.volumes=3",
        "data.validation_volumes=1",
        "data.test_volumes=1",
        "data.slices=2",
        "network.iterations=2",
        "network.prior.filters=[8,8]",
        "network.sensitivity.filters=[8,8]",
    ],
    "sr_usrnet_quickstart": [
        "data.patch=16",
        "data.patches=8",
        "data.image_size=32",
        "network.weights=none",
        "network.iterations=2",
        "network.prior.filters=[8,8]",
    ],
    "mri_self_supervised": [
        "data.height=32",
        "data.width=32",
        "data.acs_lines=8",
        "data.slices=8",
        "data.validation_slices=2",
        "data.test_slices=2",
        "data.gap_slices=0",
        "network.iterations=2",
        "network.prior.filters=[8,8]",
    ],
}


def comparison(share):
    """What a clock without noise says of a network that takes `share` of the full one's 10 ms."""
    a, b = (
        latency.summarize(
            [ms] * 3,
            first_ms=1.0,
            calls_per_window=1,
            stable=True,
            peak_memory_bytes=None,
            fingerprint={},
        )
        for ms in (10.0, 10 * share)
    )
    return latency.Comparison(a, b, latency.Ratio(share, share, share, 0.95, 3))


def ratio(full, slim):
    return count_parameters(slim) / count_parameters(full)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs a recipe by name, once, on a device whose time is that of the parameters."""
    folder = tmp_path_factory.mktemp("runs")
    finished = {}

    def timer(network, inputs, **options):
        return lambda candidate: comparison(ratio(network, candidate))

    def process(full, slim, inputs, **options):
        return comparison(
            ratio(*(keras.saving.load_model(path, compile=False) for path in (full, slim)))
        )

    def check(folders, inputs, expected, **options):
        found = comparison(0.9)
        errors = dict.fromkeys(folders, 0.0)
        times = {"full": found.a, "slim": found.b}
        return CheckReport(errors, errors, times, found.ratio)

    def run(name, *overrides):
        key = (name, *overrides)
        if key not in finished:
            settings = load_recipe(
                name,
                [*COMMON, *TINY[name], f'run.folder="{folder / str(len(finished))}"', *overrides],
            )
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(search, "interleaved_timer", timer)
                patch.setattr(latency, "compare_in_fresh_process", process)
                patch.setattr(latency, "compare", lambda a, b, *_, **__: comparison(ratio(a, b)))
                patch.setattr(finalists, "PROCESSES", 1)
                patch.setattr(closing, "check_saved_models", check)
                patch.setattr(closing, "export_model", lambda *_: None)
                metrics = pipeline.run(settings, Console(quiet=True))
            finished[key] = settings, metrics
        return finished[key]

    return run


def job(settings):
    return LatencyJob(settings, Stages(settings.run_folder), Console(quiet=True))


@pytest.mark.parametrize("name", TINY)
def test_a_recipe_runs_from_data_to_report(runs, name):
    settings, metrics = runs(name)
    assert metrics["exported_ratio"]["high"] <= 0.95
    assert metrics["skipped"] == {}
    assert metrics["parameters"]["slim"] < metrics["parameters"]["full"]
    for scores in metrics["quality"].values():
        assert all(np.isfinite(v) for v in scores.values() if not isinstance(v, str))
        assert set(metrics["columns"]) <= set(scores)
    page = (settings.run_folder / "report.html").read_text()
    assert f"convention {metrics['convention_name']}" in page
    assert (settings.run_folder / "pictures.png").exists()


def test_an_equilibrium_is_timed_as_it_iterates_and_searched_as_it_is_counted(runs):
    settings, metrics = runs("mri_deq_quickstart")
    full, slim = (job(settings).model(stage) for stage in ("train", "finetune"))
    assert slim.tolerance == full.tolerance == settings.network.tolerance
    assert slim.max_iterations == full.max_iterations == 12
    timed = job(settings).task.timed(full)
    assert timed.tolerance == 0 and timed.max_iterations == full.iterations == 3
    for name in ("full", "slim"):
        facts = metrics["networks"][name]
        assert facts["tolerance"] == settings.network.tolerance
        assert len(facts["iterations"]) == len(facts["residual"]) == 3
        for residual, converged in zip(facts["residual"], facts["converged"], strict=True):
            assert (residual <= facts["tolerance"]) == converged
    assert "Equilibria of the test data" in (settings.run_folder / "report.html").read_text()


def test_the_networks_of_coil_maps_are_slimmed_too(runs):
    _, metrics = runs("mri_e2e_varnet_fastmri")
    widths = metrics["search"]["chosen"]["widths"]
    assert {name.split("/")[0] for name in widths} >= {"sensitivity", "cascade_0", "cascade_1"}
    assert metrics["quality"]["full"]["convention"] == "fastmri"


def test_without_truth_pictures_are_compared_with_the_full_network(runs):
    settings, metrics = runs("mri_self_supervised")
    assert "No true image is known" in (settings.run_folder / "report.html").read_text()
    with np.load(settings.run_folder / "evaluate" / "panel.npz") as panel:
        assert set(panel.files) == {"zero_filled", "full", "finetuned"}
    assert metrics["search"]["quality"].startswith("agreement")


def test_fine_tuning_without_truth_goes_on_with_test_measurements(runs):
    _, metrics = runs(
        "mri_self_supervised", "finetuning.strategy=self_supervised", "finetuning.on=test"
    )
    assert metrics["finetuning"] == {"strategy": "self_supervised", "on": "test"}
    assert metrics["search"]["quality"].startswith("held-out self-supervised loss")


def test_training_without_truth_never_reads_it(tmp_path):
    """Truth of NaN gives the network that true images give."""
    weights = []
    for poisoned in (False, True):
        settings = load_recipe(
            "mri_unrolled_quickstart",
            [
                f'run.folder="{tmp_path / str(poisoned)}"',
                "training.strategy=self_supervised",
                "training.splitting=0.4",
                "training.epochs=2",
                "network.weights=none",
                "data.height=16",
                "data.width=16",
                "data.acs_lines=4",
                "data.gap_slices=46",
                "data.validation_slices=2",
                "data.test_slices=3",
                "network.iterations=2",
                "network.prior.filters=[12]",
            ],
        )
        this = job(settings)
        folder = settings.run_folder / "data"
        folder.mkdir(parents=True)
        latency_run.make_data(this, folder)
        for path in folder.glob("*.npz") if poisoned else ():
            slices = data.MeasuredSlices.load(str(path))
            slices.targets[:] = np.nan
            slices.save(str(path))
        latency_run.train(this, tmp_path)
        weights.append(keras.saving.load_model(tmp_path / "network.keras").get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)
