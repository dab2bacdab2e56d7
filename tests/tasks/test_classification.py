"""Classifiers through the stages of a run: what they learn from, and what they may not see."""

import shutil

import keras
import numpy as np
import pytest
from rich.console import Console

from spade_keras import latency, pipeline, search, tasks
from spade_keras.backend.batches import predict
from spade_keras.errors import SpadeError
from spade_keras.export import CheckReport
from spade_keras.pipeline import LatencyJob, closing, latency_run
from spade_keras.pipeline.run_folder import Stages
from spade_keras.pruning import count_parameters
from spade_keras.recipe import load_recipe
from spade_keras.registry import CLASSIFIERS
from tests import parameter_clock as clock

SIZE, CLASSES = 12, 3
ON_TF = keras.backend.backend() == "tensorflow"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Stripes whose direction is their class, in noise."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, 120)
    rows, columns = np.indices((SIZE, SIZE))
    phases = np.stack([rows, columns, rows + columns])[y] + rng.integers(0, 4, (120, 1, 1))
    x = (phases % 4 < 2) + 0.2 * rng.standard_normal((120, SIZE, SIZE))
    x = x[..., None]
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    np.savez(path, x=x, y=y)
    return path


def recipe(folder, file, *overrides):
    return load_recipe(
        "classifier_latency",
        [
            f'run.folder="{folder}"',
            f'data.path="{file}"',
            "data.validation_samples=30",
            "data.test_samples=30",
            "network.filters=[8, 8]",
            "training.epochs=5",
            "training.batch_size=12",
            "training.learning_rate=1e-2",
            "search.latency_budget=0.8",
            "search.batch_size=2",
            "search.trials=4",
            "search.staircase=false",
            'search.seeds=["uniform"]',
            "search.finalists=1",
            "search.minimum_width=4",
            "finetuning.epochs=2",
            "finetuning.batch_size=12",
            "export.pairs=15",
            *overrides,
        ],
    )


def test_too_few_samples_say_which_keys_to_lower(file, tmp_path):
    task = tasks.get(recipe(tmp_path, file, "data.test_samples=90"))
    with pytest.raises(SpadeError, match=r"number of samples \(120\).*data\.test_samples=90"):
        task.make_data(tmp_path, print)


def comparison(share):
    """What a clock without noise says of a network that takes `share` of the full one's time."""
    return clock.comparison(share, spread=0)


@pytest.fixture
def parameter_clock(monkeypatch):
    """A device whose time is proportional to the parameters, in any process."""

    def timer(network, inputs, **options):
        full = count_parameters(network)
        return lambda candidate: comparison(count_parameters(candidate) / full)

    def fresh(full, slim, inputs, **options):
        assert inputs.shape == (2, SIZE, SIZE, 1)
        a, b = (keras.saving.load_model(path, compile=False) for path in (full, slim))
        return comparison(count_parameters(b) / count_parameters(a))

    monkeypatch.setattr(search, "interleaved_timer", timer)
    monkeypatch.setattr(latency, "compare_in_fresh_process", fresh)


def stages_of(settings, *names):
    """Runs stages one after the other, without those that export."""
    this = LatencyJob(settings, Stages(settings.run_folder), Console(quiet=True))
    makers = {
        "data": latency_run.make_data,
        "train": latency_run.train,
        "search": latency_run.search_widths,
        "prune": latency_run.prune,
        "finetune": latency_run.finetune,
    }
    for name in names or makers:
        folder = settings.run_folder / name
        folder.mkdir(parents=True)
        makers[name](this, folder)
    return this


def test_a_whole_run(file, parameter_clock, monkeypatch, tmp_path):
    """Everything but the exporting itself, which knows nothing of tasks."""

    def check(folders, inputs, expected, *, timing_batch, single_calls, **options):
        assert timing_batch == 2
        assert not single_calls
        assert expected["slim"].shape == (30, CLASSES)
        timed = comparison(0.6)
        none = dict.fromkeys(folders, 0.0)
        return CheckReport(none, none, {"full": timed.a, "slim": timed.b}, timed.ratio)

    monkeypatch.setattr(closing, "check_saved_models", check)
    monkeypatch.setattr(closing, "export_model", lambda network, folder, sample: None)
    rivals = ON_TF  # one backend is enough for those
    settings = recipe(tmp_path, file, f"evaluation.rivals={str(rivals).lower()}")
    metrics = pipeline.run(settings, Console(quiet=True))
    assert metrics["task"] == "classification"
    assert set(metrics["quality"]) >= {"full", "pruned", "finetuned"}
    assert ("from_scratch" in metrics["quality"]) == rivals
    assert metrics["quality"]["full"]["accuracy"] > 0.8
    assert metrics["quality"]["finetuned"]["accuracy"] > 0.8
    assert {*metrics["columns"], "convention"} == set(metrics["quality"]["full"])
    if rivals:
        scratch = metrics["rivals"].pop("from_scratch")
        assert scratch["epochs"] == 5 + 2 and scratch["seconds"] > 0
        assert metrics["training_seconds"]["from_scratch"] == [scratch["seconds"]]
    assert metrics["rivals"] == {}
    assert metrics["exported_excess"] == pytest.approx(0.6 / 0.8 - 1)
    assert metrics["parameters"]["slim"] < metrics["parameters"]["full"]
    assert (metrics["test_samples"], metrics["classes"]) == (30, CLASSES)
    assert metrics["macs"]["full"] % 2 == 0  # for the budget's batch of two
    page = (settings.run_folder / "report.html").read_text()
    assert "Budget met" in page
    assert "accuracy" in page


@pytest.fixture(scope="module")
def trained(file, tmp_path_factory):
    """The folder of a run whose network is trained."""
    settings = recipe(tmp_path_factory.mktemp("runs"), file)
    stages_of(settings, "data", "train")
    return settings.run_folder


def slimmed(settings, trained, labels=None):
    """The weights of a slim network; with `labels`, all labels are changed to them."""
    for name in ("data", "train"):
        shutil.copytree(trained / name, settings.run_folder / name)
    for path in (settings.run_folder / "data").glob("*.npz"):
        with np.load(path) as arrays:
            x, y = arrays["x"], arrays["y"]
        np.savez(path, x=x, y=y if labels is None else np.full(len(y), labels))
    return stages_of(settings, "search", "prune", "finetune").model("finetune").get_weights()


@pytest.mark.once
def test_a_school_never_sees_the_labels(file, trained, parameter_clock, tmp_path):
    expected = slimmed(recipe(tmp_path / "clean", file), trained)
    weights = slimmed(recipe(tmp_path / "poisoned", file), trained, labels=np.nan)
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.once
def test_a_supervised_run_fails_loudly_without_labels(file, trained, parameter_clock, tmp_path):
    settings = recipe(tmp_path, file, "finetuning.strategy=supervised")
    with pytest.raises(SpadeError, match="candidates failed"):
        slimmed(settings, trained, labels=np.nan)


@pytest.fixture
def softmax_file(tmp_path):
    """A trained classifier of someone else's: a Sequential model that gives probabilities."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 1)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    path = tmp_path / "theirs.keras"
    model.save(path)
    return path


def test_a_classifier_from_a_file_is_taken_as_it_is(file, softmax_file, parameter_clock, tmp_path):
    settings = recipe(
        tmp_path, file, f'network.path="{softmax_file}"', "training.epochs=0", "finetuning.epochs=1"
    )
    this = stages_of(settings)
    theirs = keras.saving.load_model(softmax_file)
    for a, b in zip(this.model("train").get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert this.json("train", "history") == {"loss": [], "seconds": []}
    slim = this.model("finetune")
    assert count_parameters(slim) <= 0.8 * count_parameters(theirs)
    test = this.samples("test")
    np.testing.assert_allclose(predict(slim, test.inputs).sum(axis=-1), 1, atol=1e-5)


def test_losses_fit_logits_and_probabilities(file, softmax_file, tmp_path):
    task = tasks.get(recipe(tmp_path, file))
    theirs = keras.saving.load_model(softmax_file)
    x = np.random.default_rng(0).standard_normal((4, SIZE, SIZE, 1)).astype("float32")
    labels = np.array([0, 1, 2, 0])
    logits = keras.Model(theirs.inputs[0], theirs.layers[-1].input)
    p = keras.ops.convert_to_numpy(theirs(x))
    expected = -np.log(p[range(4), labels]).mean()
    for network in (theirs, _with_logits(theirs, logits)):
        outputs = network(x)
        distance = task.distance("supervised", network, x)
        assert float(distance(labels, outputs)) == pytest.approx(expected, rel=1e-4)
        loss = task.training_options(network, x)["loss"]
        assert float(loss(labels, outputs)) == pytest.approx(expected, rel=1e-4)
        lessons = keras.ops.convert_to_numpy(outputs)
        assert float(task.distance("school", network, x)(lessons, outputs)) == pytest.approx(
            0, abs=1e-5
        )


def _with_logits(model, features):
    """The same classifier without its softmax."""
    dense = model.layers[-1]
    logits = keras.layers.Dense(CLASSES)
    outputs = logits(features.output)
    logits.set_weights(dense.get_weights())
    return keras.Model(features.inputs[0], outputs)


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((SIZE, SIZE, 3), CLASSES, r"takes the data, of shape \(12, 12, 1\)"),
        ((SIZE, SIZE, 1), CLASSES - 1, "at least 3 classes"),
    ],
)
def test_a_classifier_that_does_not_fit_the_data_is_named(file, tmp_path, shape, classes, message):
    path = tmp_path / "other.keras"
    CLASSIFIERS["convolutional"](shape, classes, filters=[2]).save(path)
    settings = recipe(tmp_path, file, f'network.path="{path}"')
    stages_of(settings, "data")
    with pytest.raises(SpadeError, match=message) as caught:
        stages_of(settings, "train")
    assert "other.keras" in str(caught.value)
