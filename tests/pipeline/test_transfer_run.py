"""The whole run of a transfer on a tiny recipe: what it leaves, keeps and refuses."""

import io
import json

import keras
import numpy as np
import pytest
from rich.console import Console

from spade_keras import cli, latency, pipeline, pruning
from spade_keras.backend.batches import predict
from spade_keras.errors import RecipeError, SpadeError
from spade_keras.export import CheckReport
from spade_keras.pipeline import transfer_run
from spade_keras.pipeline.run_folder import Stages
from spade_keras.pipeline.transfer_run import ARMS, TransferJob
from spade_keras.pruning import BlockStep, PruningPlan, rebuild
from spade_keras.recipe import load_recipe
from spade_keras.tasks import transfer

RECIPE = "classifier_basis_scaling"
SIDE, CLASSES, SAMPLES = 8, 6, 40
ON_TF = keras.backend.backend() == "tensorflow"


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Stripes whose direction and width are their class, in noise."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(CLASSES), SAMPLES)
    rows, columns = np.indices((SIDE, SIDE))
    phases = np.stack([rows, columns, rows + columns])[y % 3] + rng.integers(0, 4, (len(y), 1, 1))
    period = np.where(y < 3, 4, 2)[:, None, None]
    x = (phases % period < period // 2) + 0.1 * rng.standard_normal((len(y), SIDE, SIDE))
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    np.savez(path, x=x[..., None], y=y)
    return path


def recipe(folder, file, *overrides):
    return load_recipe(RECIPE, tiny(folder, file, *overrides))


def tiny(folder, file, *overrides):
    return [
        f'run.folder="{folder}"',
        f'data.path="{file}"',
        "data.source_classes=[0, 1, 2]",
        "data.target_classes=[5, 3, 4]",
        "data.train_per_class=16",
        "data.validation_per_class=8",
        "network.filters=[6, 8]",
        "training.source_epochs=2",
        "training.epochs=4",
        "training.batch_size=8",
        "training.learning_rate=1e-2",
        "pruning.allowed_loss=0.6",
        "pruning.shares=[0.2]",
        "pruning.patience=[0]",
        "pruning.learning_rates=[5e-3]",
        "pruning.phase_epochs=3",
        "pruning.closing_epochs=1",
        "pruning.tuning_epochs=0",
        "evaluation.batch_size=4",
        "evaluation.pairs=5",
        "export.pairs=5",
        *overrides,
    ]


def job(settings):
    return TransferJob(settings, Stages(settings.run_folder), Console(quiet=True))


def stages_of(settings, *names):
    """Runs stages one after the other."""
    this = job(settings)
    makers = {stage.name: stage.make for stage in this.order()}
    for name in names:
        folder = settings.run_folder / name
        folder.mkdir(parents=True)
        makers[name](this, folder)
    return this


@pytest.fixture(scope="module")
def finished(file, tmp_path_factory):
    """A tiny run; exporting, which knows nothing of tasks, is left out but on TensorFlow."""
    settings = recipe(tmp_path_factory.mktemp("runs"), file)
    with pytest.MonkeyPatch.context() as patch:
        if not ON_TF:
            patch.setattr(transfer_run, "export_model", lambda network, folder, sample: None)
            patch.setattr(transfer_run, "check_saved_models", no_check)
        return settings, pipeline.run(settings, Console(quiet=True))


def no_check(folders, inputs, expected, *, pairs, timing_batch):
    ratio = latency.Ratio(0.6, 0.5, 0.7, 0.95, pairs)
    return CheckReport(dict.fromkeys(folders, 0.0), dict.fromkeys(folders, 0.0), {}, ratio)


def test_metrics_hold_what_was_measured(finished):
    settings, metrics = finished
    assert json.loads((settings.run_folder / "metrics.json").read_text()) == metrics
    networks = metrics["networks"]
    assert list(networks) == list(ARMS) == ["original", "basis", "channel", "double", "scratch"]
    for cost in networks.values():
        assert set(cost) == {
            "accuracy",
            "validation_accuracy",
            "parameters",
            "macs",
            "ms",
            "time_ratio",
        }
        ratio = cost["time_ratio"]
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    sizes = {name: cost["parameters"] for name, cost in networks.items()}
    assert sizes["double"] < sizes["basis"] < sizes["original"]
    assert sizes["channel"] <= sizes["basis"] <= sizes["scratch"] < 1.5 * sizes["basis"]
    assert networks["basis"]["macs"] < networks["original"]["macs"]
    assert networks["original"]["accuracy"] > 0.6  # of three classes
    assert metrics["samples"] == {"source": 120, "train": 48, "validation": 24, "test": 48}
    assert metrics["batch_size"] == 4
    assert "classes 5, 3, 4 of stripes.npz" in metrics["data_note"]
    assert set(metrics["seconds"]) == {"data", "source", *ARMS, "evaluate", "export"}


def test_what_is_exported_is_what_was_judged(finished):
    settings, metrics = finished
    folder, this = settings.run_folder / "export", job(settings)
    test = this.target["test"]
    for name in ("basis", "double"):
        shipped = keras.saving.load_model(folder / f"{name}.keras")
        assert {type(layer).__module__.split(".")[0] for layer in shipped.layers} == {"keras"}
        assert transfer.accuracy(shipped, test) == metrics["networks"][name]["accuracy"]
        assert pruning.count_parameters(shipped) == metrics["networks"][name]["parameters"]
        found = metrics["export"][name]
        assert found["max_abs_error"] < 1e-4
        if ON_TF:
            assert (folder / name / "saved_model.pb").exists()
            assert found["ratio"]["pairs"] == 5


def test_the_plans_rebuild_the_shipped_networks(finished):
    """All but norms and head, which train on, comes from the plan and the network before it."""
    settings, _ = finished
    this = job(settings)
    plans = {
        name: PruningPlan.from_json(
            (settings.run_folder / "export" / f"{name}_plan.json").read_text()
        )
        for name in ("basis", "double")
    }
    original, narrow = this.model("original"), this.model("double", "channels")
    channels, components = plans["double"].steps
    assert shapes(rebuild(original, PruningPlan("", (channels,)))) == shapes(narrow)
    assert shapes(rebuild(original, plans["double"])) == shapes(this.model("double"))
    test = this.target["test"][0]
    for before, plan, name in (
        (original, plans["basis"], "basis"),
        (narrow, PruningPlan(narrow.name, (components,)), "double"),
    ):
        rebuilt, shipped = rebuild(before, plan), this.model(name)
        assert shapes(rebuilt) == shapes(shipped)
        assert shapes(shipped) != shapes(before)
        for layer in rebuilt.layers:
            if isinstance(layer, keras.layers.BatchNormalization | keras.layers.Dense):
                layer.set_weights(shipped.get_layer(layer.name).get_weights())
        np.testing.assert_allclose(predict(rebuilt, test), predict(shipped, test), atol=1e-4)


def shapes(model):
    return {weight.path: tuple(weight.shape) for weight in model.weights}


@pytest.mark.once
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_original_teaches_every_pruned_network(finished, file, tmp_path, monkeypatch, share):
    settings, _ = finished
    keys = {"teacher_share": share, "temperature": 3.0, "tuning_epochs": 7}
    this = job(recipe(tmp_path, file, *(f"pruning.{key}={keys[key]}" for key in keys)))
    this.stages = Stages(settings.run_folder)
    original, (x, y) = this.model("original"), this.target["train"]
    lessons, trainings = [], []

    def prune(model, tasks, **options):
        lessons.append(tasks["train"])
        return transfer.PrunedComponents(model, PruningPlan("", (BlockStep(()),)), ())

    def tune(model, train, validation, *, epochs, **options):
        lessons.append(train)
        trainings.append((validation, epochs, options["learning_rate"]))
        return model

    monkeypatch.setattr(transfer, "prune_components", prune)
    monkeypatch.setattr(transfer, "fit", tune)
    for make in (transfer_run.make_basis, transfer_run.make_channel, transfer_run.make_double):
        make(this, tmp_path)
    expected = y
    if share:
        _, expected = transfer.soft_labels(original, (x, y), share=share, temperature=3.0)
    assert len(lessons) == 6
    for inputs, labels in lessons:
        np.testing.assert_array_equal(inputs, x)
        np.testing.assert_allclose(labels, expected, atol=1e-6)
    assert [epochs for _, epochs, _ in trainings] == [7, 4, 4, 7]
    for validation, _, rate in trainings:
        assert validation is this.target["validation"]
        assert rate == 1e-2


@pytest.mark.once
@pytest.mark.parametrize(("weights", "rate"), [("source", 2e-3), ("imagenet", 1e-4)])
def test_the_learning_rate_is_that_of_the_weights(tmp_path, monkeypatch, weights, rate):
    rates = []
    monkeypatch.setattr(transfer, "fit", lambda *_, **options: rates.append(options))
    settings = load_recipe(RECIPE, [f'run.folder="{tmp_path}"', f"network.weights={weights}"])
    job(settings).fit(None, {"train": ()}, 1)
    assert [options["learning_rate"] for options in rates] == [rate]


def test_table_and_page_show_every_network(finished):
    settings, metrics = finished
    console = Console(width=80, file=io.StringIO())
    console.print(pipeline.closing_table(metrics))
    lines = console.file.getvalue().splitlines()
    for name in ("original", "basis", "channel", "double", "from scratch"):
        (row,) = [line for line in lines if line.strip().startswith(name + " ") and "%" in line]
        cost = metrics["networks"]["scratch" if name == "from scratch" else name]
        assert f"{cost['accuracy']:.1%}" in row
        assert f"{cost['parameters'] / metrics['networks']['original']['parameters']:.1%}" in row
    page = (settings.run_folder / "report.html").read_text()
    assert "data:image/png" in page and "from scratch" in page
    assert "with a weight of 0.5, from the original's answers" in page
    assert "all weights trained for" not in page
    assert (settings.run_folder / "ranks.png").stat().st_size > 1000
    rows = {row["layer"]: row for row in metrics["ranks"]}
    assert list(rows) == ["stem_conv", "block0_conv"]
    assert rows["stem_conv"]["components"] == 6
    assert rows["block0_conv"]["double_of"] < rows["block0_conv"]["basis_of"] == 8
    kept = sum(row["basis"] for row in rows.values())
    met = [entry for phase in metrics["rounds"]["basis"] for entry in phase if entry["met"]]
    assert kept == met[-1]["components"] < 6 + 8


def test_a_finished_run_is_kept(finished):
    settings, metrics = finished
    records = {path: path.read_text() for path in settings.run_folder.glob("*/stage.json")}
    assert len(records) == 2 + len(ARMS) + 2
    assert pipeline.run(settings, Console(quiet=True)) == metrics
    assert {path: path.read_text() for path in records} == records
    assert load_recipe(settings.run_folder / "recipe.toml") == settings


@pytest.mark.once
@pytest.mark.parametrize(
    ("override", "remade"),
    [
        ("evaluation.pairs=6", {"evaluate", "export"}),
        ("export.pairs=6", {"export"}),
        ("pruning.allowed_loss=0.5", {"basis", "channel", "double"}),
        ("data.train_per_class=17", {"data"}),
        ("network.name=resnet", {"source", "original", *ARMS}),
    ],
)
def test_a_change_remakes_the_stages_that_depend_on_it(finished, file, override, remade):
    """At least these: what is made from them follows by itself."""
    settings, _ = finished
    changed = recipe(settings.run.folder, file, override)
    stages = Stages(settings.run_folder)
    lost = {
        stage.name
        for stage in job(changed).order()
        if not stages.is_done(stage.name, stage.sections, after=stage.after)
    }
    assert lost == remade


@pytest.mark.once
def test_the_command_line_ends_with_the_table(finished, file, capsys):
    settings, _ = finished
    assert cli.main(["run", RECIPE, *tiny(settings.run.folder, file)]) == 0
    shown = capsys.readouterr().out
    assert "from scratch" in shown and "95 % interval" in shown
    assert shown.count("finished before, kept") == 2 + len(ARMS) + 2


@pytest.mark.once
def test_without_rivals_nothing_is_trained_from_scratch(finished, file, tmp_path):
    settings = recipe(tmp_path, file, "evaluation.rivals=false")
    stages_of(settings, "scratch")
    assert not list((settings.run_folder / "scratch").iterdir())
    for stage in ("data", "original", "basis", "channel", "double"):
        (settings.run_folder / stage).symlink_to(finished[0].run_folder / stage)
    this = stages_of(settings, "evaluate")
    assert list(this.json("evaluate", "evaluation")["networks"]) == list(ARMS)[:-1]


@pytest.mark.parametrize("classes", [2, 4])
def test_a_trained_network_of_a_file_gets_a_new_head(file, tmp_path, classes):
    theirs = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="theirs"),
            keras.layers.Flatten(),
            keras.layers.Dense(classes),
        ]
    )
    theirs.save(tmp_path / "theirs.keras")
    path = f'network.path="{tmp_path / "theirs.keras"}"'
    settings = load_recipe(
        RECIPE, [o for o in tiny(tmp_path, file, path, "training.epochs=1") if "filters" not in o]
    )
    this = stages_of(settings, "data", "source", "original")
    np.testing.assert_array_equal(
        this.model("source").get_layer("theirs").kernel, theirs.get_layer("theirs").kernel
    )
    original = this.model("original")
    assert original.output_shape == (None, 3)
    assert [type(layer).__name__ for layer in original.layers[1:]] == ["Conv2D", "Flatten", "Dense"]
    assert not (settings.run_folder / "data" / "source.npz").exists()


@pytest.mark.once
@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("headless", r"must .* end with a `Dense` layer.*GlobalAveragePooling2D"),
        ("large", r"takes the data, of shape \(8, 8, 1\)"),
        ("broken", "`network.path` cannot be read"),
        ("shallow", r"beside its head, that can be decomposed.*'depthwise'"),
    ],
)
def test_a_network_that_cannot_be_transferred_is_refused_at_once(file, tmp_path, network, message):
    path = tmp_path / "theirs.keras"
    inputs = keras.Input((SIDE, SIDE, 3 if network == "large" else 1))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(inputs))
    if network == "shallow":
        depthwise = keras.layers.DepthwiseConv2D(3, name="depthwise")(inputs)
        x = keras.layers.GlobalAveragePooling2D()(depthwise)
    if network in ("large", "shallow"):
        x = keras.layers.Dense(3)(x)
    keras.Model(inputs, x).save(path)
    if network == "broken":
        path.write_bytes(b"PK")
    overrides = [o for o in tiny(tmp_path, file, f'network.path="{path}"') if "filters" not in o]
    settings = load_recipe(RECIPE, overrides)
    stages_of(settings, "data")
    with pytest.raises(SpadeError, match=message):
        stages_of(settings, "source")


@pytest.mark.once
@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.target_classes=[3, 9]", r"`data.target_classes` must be classes.*\[9\]"),
        ("data.train_per_class=32", r"at least 41 samples.*\{5: 40, 3: 40, 4: 40\}"),
        ("network.weights=imagenet", r"must have values in \[0, 1\]"),
    ],
)
def test_samples_that_do_not_fit_are_named(file, tmp_path, override, message):
    overrides = [o for o in tiny(tmp_path, file, override) if "filters" not in o]
    with pytest.raises(SpadeError, match=message):
        stages_of(load_recipe(RECIPE, overrides), "data")


@pytest.mark.once
def test_pictures_too_small_for_the_network_are_named(file, tmp_path):
    settings = recipe(tmp_path, file, "network.filters=[2, 2, 2, 2, 2]")
    stages_of(settings, "data")
    with pytest.raises(SpadeError, match=r"at most 4 widths for pictures of 8 x 8 pixels"):
        stages_of(settings, "source")


@pytest.mark.once
def test_an_unknown_source_is_a_mistake_of_the_recipe(tmp_path):
    with pytest.raises(RecipeError, match='Did you mean "cifar10"'):
        load_recipe(RECIPE, ["data.source=cifar100"])


@pytest.mark.once
def test_keras_datasets_go_through_the_same_stages(monkeypatch, tmp_path):
    """As they are: 28 x 28 and gray."""
    rng = np.random.default_rng(0)
    part = (rng.integers(0, 256, (60, 28, 28)).astype("uint8"), np.arange(60) % 10)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (part, part))
    overrides = ["data.source=mnist", "data.train_per_class=3", "data.validation_per_class=2"]
    settings = load_recipe(RECIPE, [f'run.folder="{tmp_path}"', *overrides])
    this = stages_of(settings, "data")
    assert this.samples("source")[0].shape == (60, 28, 28, 1)
    assert this.json("data", "facts")["samples"]["test"] == 60 - 25
    assert "digits" not in this.json("data", "facts")["note"]
