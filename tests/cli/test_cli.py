"""The command line: exit codes, what reaches the library, and that mistakes cost no time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import spade_keras
from spade_keras import cli
from spade_keras.errors import BudgetNotMetError, MissingExtraError, SpadeError
from spade_keras.tasks.model_inputs import example_inputs, parse_shape
from tests.recipe.minimal import TOML


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.toml"
    path.write_text(TOML)
    return path


@pytest.fixture
def pipeline(monkeypatch):
    """A stand-in for the pipeline, so that a run takes no time; records what it was given."""
    calls = SimpleNamespace(recipes=[], outcome={})

    def run(settings, console):
        calls.recipes.append(settings)
        if isinstance(calls.outcome, BaseException):
            raise calls.outcome
        return calls.outcome

    module = SimpleNamespace(run=run, closing_table=lambda metrics: f"table {metrics}")
    monkeypatch.setitem(sys.modules, "spade_keras.pipeline", module)
    monkeypatch.setattr(spade_keras, "pipeline", module, raising=False)
    return calls


@pytest.fixture
def model_file(tmp_path):
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(3, 3)])
    path = tmp_path / "model.keras"
    model.save(path)
    return path


def output_of(capsys):
    """Standard output and error with the line breaks and boxes of the terminal taken out."""
    captured = capsys.readouterr()
    return [" ".join(text.replace("│", " ").split()) for text in (captured.out, captured.err)]


def test_version_and_help(capsys):
    assert cli.main(["--version"]) == 0
    assert output_of(capsys)[0] == f"spade-keras {spade_keras.__version__}"
    assert cli.main(["--help"]) == 0
    shown = output_of(capsys)[0]
    for command in ("run", "validate", "measure", "export", "inspect", "prune"):
        assert command in shown


def test_run_hands_over_the_recipe_and_shows_table_and_paths(recipe, pipeline, capsys):
    pipeline.outcome = {"a": 1}
    arguments = ["run", str(recipe), "search.latency_budget=0.4", "finetuning.strategy=supervised"]
    assert cli.main(arguments) == 0
    (settings,) = pipeline.recipes
    assert settings.search.latency_budget == 0.4
    assert settings.finetuning.strategy == "supervised"
    out, _ = output_of(capsys)
    assert "table {'a': 1}" in out
    assert os.path.join("runs", "small", "report.html") in out
    assert os.path.join("runs", "small", "metrics.json") in out


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        (BudgetNotMetError("fastest: 9.1 ms [x]"), 3, "Budget not met. fastest: 9.1 ms [x]"),
        (SpadeError("the disk [burns]"), 1, "Error: the disk [burns]"),
        (MissingExtraError("nilearn", "recipes"), 1, "pip install 'spade-keras[recipes]'"),
        (KeyboardInterrupt(), 130, "run the same command again"),
        (PermissionError("no entry"), 1, "Error: no entry"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_codes(recipe, pipeline, capsys, outcome, code, message):
    pipeline.outcome = outcome
    assert cli.main(["run", str(recipe)]) == code
    assert message in output_of(capsys)[1]


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["run", "small.toml", "search.trials=0", "data.coil=4"], ["2 mistakes", "`data.coils`"]),
        (["run", "small.toml", "search.trials"], ["1 mistake:", "section.key=value"]),
        (["run", "absent.toml"], ["does not exist", "mri_unrolled_quickstart"]),
        (["run"], ["Missing argument"]),
        (["rnu", "small.toml"], ["rnu"]),
        (["measure", "absent.keras"], ["absent.keras", "does not exist"]),
        (["prune", "small.toml", "-o", "slim.keras"], ["exactly one of --ratio"]),
        (
            ["prune", "small.toml", "--ratio", "0.5", "--target-macs", "0.5", "-o", "slim.keras"],
            ["Received: --ratio --target-macs"],
        ),
        (["prune", "small.toml", "--ratio", "0.5", "-o", "slim.h5"], ["must be a .keras file"]),
        (["prune", "small.toml", "--ratio", "0.5", "-o", "no/slim.keras"], ["existing folder"]),
        (
            ["prune", "small.toml", "--ratio", "50", "-o", "slim.keras"],
            ["must be in [0, 1). Received: 50.", "pass 0.5."],
        ),
        (["export", "small.toml", "-o", "out", "--format", "onnx"], ["must be saved_model"]),
        (["export", "small.toml", "-o", "."], ["must not exist yet"]),
        (["measure", "small.toml"], ["must be a .keras file"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_mistakes_exit_with_2_and_write_nothing(recipe, pipeline, capsys, arguments, messages):
    assert cli.main(arguments) == 2
    _, err = output_of(capsys)
    for message in messages:
        assert message in err
    assert not pipeline.recipes
    assert [path.name for path in recipe.parent.iterdir()] == ["small.toml"]


def test_validate_reports_every_mistake_of_every_recipe(recipe, capsys):
    folder = recipe.parent / "more" / "deep"
    folder.mkdir(parents=True)
    (folder / "faulty.toml").write_text(TOML.replace("epochs", "epoch"))
    (folder / "broken.toml").write_text("[run\n")
    assert cli.main(["validate", "small.toml", "more"]) == 2
    out, _ = output_of(capsys)
    assert "small.toml: valid" in out
    assert "4 mistakes:" in out and "faulty.toml" in out
    assert "is not valid TOML" in out and "line 1" in out
    assert cli.main(["validate", "small.toml"]) == 0


def test_validate_refuses_paths_without_recipes(recipe, capsys):
    (recipe.parent / "empty").mkdir()
    assert cli.main(["validate", "empty"]) == 2
    assert "no .toml file in empty" in output_of(capsys)[1]
    assert cli.main(["validate", "absent.toml"]) == 2
    assert "does not exist" in output_of(capsys)[0]


def test_measure_shows_time_size_and_device(model_file, capsys):
    assert cli.main(["measure", str(model_file), "--shape", "2,6,6,2", "--repeats", "5"]) == 0
    out, _ = output_of(capsys)
    for text in ("latency (median)", " ms", "parameters", "57", "keras", keras.__version__):
        assert text in out
    # 3x3 kernel, 2 -> 3 channels, at 4x4 places of 2 images.
    assert "1,728" in out


def test_measure_tells_what_the_machine_can_resolve(model_file, capsys):
    assert cli.main(["measure", str(model_file), "--self-check", "--repeats", "5"]) == 0
    out, _ = output_of(capsys)
    assert "against itself: ratio" in out
    assert "cannot be resolved with 5 pairs" in out


def test_measure_sweeps_batches_in_a_mode(model_file, capsys):
    eager = ["--mode", "eager", "--repeats", "5"]
    assert cli.main(["measure", str(model_file), "--batches", "1,3", *eager]) == 0
    out, _ = output_of(capsys)
    assert "samples per second" in out
    assert re.findall(r" (\d+) \d+\.\d{3} ", out) == ["1", "3"]
    assert cli.main(["measure", str(model_file), *eager]) == 0
    assert "mode" in output_of(capsys)[0]
    for wrong, message in (
        (["--mode", "turbo"], "`mode` must be one of"),
        (["--batches", "1,x"], "`--batches` must read 2,3,4"),
        (["--batches", "0"], "at least 1"),
        (["--batches", "1", "--self-check"], "not both"),
    ):
        assert cli.main(["measure", str(model_file), *wrong]) == 2
        assert message in output_of(capsys)[1]


def test_export_hands_over_model_and_inputs(model_file, tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("spade_keras.export.export_model", lambda *args: calls.append(args))
    np.savez(tmp_path / "inputs.npz", np.ones((3, 6, 6, 2), "float32"))
    out = tmp_path / "out"
    assert cli.main(["export", str(model_file), "-o", str(out)]) == 0
    given = ["--inputs", str(tmp_path / "inputs.npz")]
    assert cli.main(["export", str(model_file), "-o", str(out), *given]) == 0
    assert [call[1] for call in calls] == [out, out]
    assert [call[2].shape for call in calls] == [(1, 6, 6, 2), (3, 6, 6, 2)]
    assert calls[0][0].count_params() == 57


def test_inspect_names_the_groups(tmp_path, capsys):
    assert cli.main(["inspect", str(two_convolutions(tmp_path))]) == 0
    assert "first" in output_of(capsys)[0]


def test_prune_writes_a_smaller_model(tmp_path, capsys):
    path = two_convolutions(tmp_path)
    slim = tmp_path / "slim.keras"
    assert cli.main(["prune", str(path), "--ratio", "0.5", "-o", str(slim)]) == 0
    model = keras.saving.load_model(slim)
    assert model.get_layer("first").filters == 4
    assert model.get_layer("second").filters == 3


def test_networks_of_spade_keras_are_known_in_a_fresh_process(tmp_path):
    from spade_keras.networks import UnrolledPGD, priors
    from spade_keras.operators import CartesianMRI

    network = UnrolledPGD(CartesianMRI(), priors.dncnn([8]), iterations=2)
    network.save(tmp_path / "network.keras")
    code = "import sys; from spade_keras.cli import main; sys.exit(main(sys.argv[1:]))"
    shown = subprocess.run(
        [sys.executable, "-c", code, "inspect", str(tmp_path / "network.keras")],
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "prior/conv_0" in shown.stdout


def test_what_the_library_refuses_is_a_mistake(tmp_path, capsys):
    path = two_convolutions(tmp_path)
    slim = tmp_path / "slim.keras"
    arguments = ["prune", str(path), "--ratio", "0.5", "--importance", "l3", "-o", str(slim)]
    assert cli.main(arguments) == 2
    assert "group_l1" in output_of(capsys)[1]
    assert not slim.exists()


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "--storage"),
        (["--storage", "study.journal"], 1, "postgresql://"),
        (["--storage", "sqlite:///study.db"], 1, "postgresql://"),
        (["--storage", "postgresql://host/name", "--port", "0"], 2, "--port"),
    ],
)
def test_a_proxy_serves_a_database_alone(capsys, arguments, code, message):
    assert cli.main(["search", "proxy", "--help"]) == 0
    assert "grpc://HOST:PORT" in output_of(capsys)[0]
    assert cli.main(["search", "proxy", *arguments]) == code
    assert message in output_of(capsys)[1]


def two_convolutions(folder):
    image = keras.Input((8, 8, 2))
    hidden = keras.layers.Conv2D(8, 3, name="first")(image)
    model = keras.Model(image, keras.layers.Conv2D(3, 3, name="second")(hidden))
    model.save(folder / "two.keras")
    return folder / "two.keras"


class TestModelInputs:
    """Inputs made from shapes, from the model and from files."""

    @pytest.mark.parametrize("text", ["", "1,", "1,a", "1,0,3", "=1,2", "a=", "1.5,2"])
    def test_malformed_shapes_are_refused(self, text):
        with pytest.raises(ValueError, match="A shape must read"):
            parse_shape(text)

    def test_shapes_become_arrays_lists_and_dicts(self, model_file):
        model = keras.saving.load_model(model_file)
        assert example_inputs(model, ["2,5,5,2"]).shape == (2, 5, 5, 2)
        assert [a.shape for a in example_inputs(model, ["1,2", "1,3"])] == [(1, 2), (1, 3)]
        named = example_inputs(model, ["a=1,2", "b=1,3"])
        assert {name: array.shape for name, array in named.items()} == {"a": (1, 2), "b": (1, 3)}
        assert named["a"].dtype == "float32"
        with pytest.raises(ValueError, match="Either every shape has a name"):
            example_inputs(model, ["a=1,2", "1,3"])

    def test_unknown_sizes_must_be_given(self):
        image = keras.Input((None, None, 2))
        model = keras.Model(image, keras.layers.Conv2D(3, 3)(image))
        with pytest.raises(ValueError, match="--shape 1,256,256,2"):
            example_inputs(model)

    def test_files_hold_one_array_or_named_ones(self, tmp_path):
        np.savez(tmp_path / "one.npz", np.ones(3))
        np.savez(tmp_path / "named.npz", a=np.ones(3), b=np.ones(2))
        assert example_inputs(None, arrays_file=tmp_path / "one.npz").shape == (3,)
        assert set(example_inputs(None, arrays_file=tmp_path / "named.npz")) == {"a", "b"}
        (tmp_path / "text.npz").write_text("no archive")
        with pytest.raises(ValueError, match=r"text\.npz` cannot be read"):
            example_inputs(None, arrays_file=tmp_path / "text.npz")
        with pytest.raises(ValueError, match="either shapes or a file"):
            example_inputs(None, ["1,2"], tmp_path / "one.npz")
