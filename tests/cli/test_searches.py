"""The commands that search and replay receipts: exit codes, messages, what they leave."""

import json
import sys

import keras
import numpy as np
import pytest

from spade_keras import cli
from spade_keras.pruning import count_parameters
from tests.parameter_clock import ParameterClock

pytestmark = pytest.mark.once

QUICK = ["--no-staircase", "--width-multiple", "2", "--trials", "5"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 2))
    hidden = keras.layers.Conv2D(12, 3, name="first")(image)
    keras.Model(image, keras.layers.Conv2D(3, 3, name="second")(hidden)).save(
        folder / "model.keras"
    )
    np.savez(folder / "data.npz", np.random.default_rng(0).standard_normal((3, 6, 6, 2)))
    (folder / "cli_task.py").write_text(
        "def evaluate(model):\n    return model.count_params()\n"
        "def failing(model):\n    raise OSError('no such table')\n"
    )
    return folder


@pytest.fixture
def clock(monkeypatch, folder):
    monkeypatch.chdir(folder)
    clock = ParameterClock()
    monkeypatch.setattr("spade_keras.search.interleaved_timer", clock.timer)
    monkeypatch.setattr("spade_keras.latency.compare_in_fresh_process", clock.compare)
    return clock


def output_of(capsys):
    """Standard output and error with the line breaks and boxes of the terminal taken out."""
    captured = capsys.readouterr()
    return [" ".join(text.replace("│", " ").split()) for text in (captured.out, captured.err)]


@pytest.fixture
def no_figures(monkeypatch):
    def write(folder, findings, **options):
        (folder / "report.html").write_text("")

    monkeypatch.setattr("spade_keras.report.write_search_report", write)


def search_arguments(out, *more, budget="0.5"):
    asked = ["--data", "data.npz", "--budget", budget, "-o", str(out)]
    return ["search", "model.keras", *asked, *QUICK, *more]


def test_search_then_replay(clock, tmp_path, capsys):
    out = tmp_path / "found"
    assert cli.main(search_arguments(out, "--evaluate", "cli_task:evaluate")) == 0
    shown, _ = output_of(capsys)
    assert "Budget met" in shown and "full model: evaluate 555" in shown
    assert str(out / "receipt.json") in shown
    assert (
        "<svg" in (out / "report.html").read_text()
        or "data:image" in (out / "report.html").read_text()
    )
    slim = keras.saving.load_model(out / "slim.keras")
    assert count_parameters(slim) <= 0.5 * 555
    kept = json.loads((out / "receipt.json").read_text())
    assert kept["ratio"]["value"] == count_parameters(slim) / 555

    assert cli.main(["replay", str(out / "receipt.json")]) == 0
    assert "Holds on the receipt's device" in output_of(capsys)[0]
    clock.slowdown = 5.0
    assert cli.main(["replay", str(out / "receipt.json"), "--full", "model.keras"]) == 3
    assert "Does not hold" in output_of(capsys)[0]
    assert cli.main(["replay", str(out / "receipt.json"), "--slim", "model.keras"]) == 2
    assert "`slim` must be the file" in output_of(capsys)[1]
    (out / "receipt.json").write_text(json.dumps({**kept, "date": "1999-01-01"}))
    assert cli.main(["replay", str(out / "receipt.json")]) == 2
    assert "damaged or edited" in output_of(capsys)[1]


def test_a_worker_helps_by_storage_and_name(clock, no_figures, tmp_path, capsys):
    out, storage = tmp_path / "found", str(tmp_path / "study.journal")
    assert cli.main(search_arguments(out, "--storage", storage, "--study", "mine")) == 0
    capsys.readouterr()
    assert cli.main(["search", "worker", "--storage", storage, "--study", "mine"]) == 0
    assert "The study 'mine' has 5 trials" in output_of(capsys)[0]
    assert cli.main(["search", "worker", "--storage", storage, "--study", "other"]) == 1
    assert "`--study` must name a study" in output_of(capsys)[1]
    other = ["--model", str(out / "slim.keras")]
    assert cli.main(["search", "worker", "--storage", storage, "--study", "mine", *other]) == 2
    assert "`--model` must be the model" in output_of(capsys)[1]


def test_a_budget_out_of_reach_ends_with_3_and_the_fastest(clock, no_figures, tmp_path, capsys):
    assert cli.main(search_arguments(tmp_path / "found", budget="0.01")) == 3
    _, err = output_of(capsys)
    assert "No configuration met the latency budget (0.01 of" in err
    # first 2 wide: 3x3x2x2 + 2 and 3x3x2x3 + 3 of 555 parameters
    assert f"The fastest took {95 / 555:.3f} times" in err
    assert not (tmp_path / "found" / "receipt.json").exists()
    assert (tmp_path / "found" / "report.html").exists()


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(clock, tmp_path, capsys, monkeypatch):
    module = type(sys)("interrupting_task")

    def evaluate(model):
        raise KeyboardInterrupt

    module.evaluate = evaluate
    monkeypatch.setitem(sys.modules, "interrupting_task", module)
    more = ["--evaluate", "interrupting_task:evaluate"]
    assert cli.main(search_arguments(tmp_path / "found", *more)) == 130
    assert "the study is intact. To continue, give the same command again" in output_of(capsys)[1]


@pytest.mark.parametrize(
    ("changed", "messages"),
    [
        (["--budget", "fast"], ["must read 0.5"]),
        (["--budget", "50"], ["above 0 and below 1", "write '50ms'"]),
        (["--data", "absent.npz"], ["must be an .npz file that exists, or module:function"]),
        (["--data", "absent_task:data"], ["no module 'absent_task'"]),
        (["--evaluate", "cli_task"], ["must read module:function"]),
        (["--evaluate", "cli_task:evalute"], ["Did you mean 'evaluate'"]),
        (["--sampler", "best"], ["`sampler` must be one of", "tpe"]),
        (["--seeds", "uniform,lucky"], ["`seeds` must be among", "lucky"]),
        (["--warm-start", "absent"], ["must be the folder of a finished"]),
        (["--iterations", "2,x"], ["must read 2,3,4"]),
        (["--iterations", "2"], ["it does not iterate"]),
        (["--width-multiple", "99"], ["No channel group may change"]),
        (["-o", "."], ["must be a new or empty folder", "model.keras"]),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_mistakes_end_with_2_and_leave_no_claim(clock, tmp_path, capsys, changed, messages):
    out = tmp_path / "found"
    assert cli.main([*search_arguments(out), *changed]) == 2
    _, err = output_of(capsys)
    for message in messages:
        assert message in err
    assert not (out / "job.json").exists()
    assert clock.timed == 0


def test_code_that_raises_is_shown_in_few_lines(clock, tmp_path, capsys):
    assert cli.main(search_arguments(tmp_path / "found", "--evaluate", "cli_task:failing")) == 1
    _, err = output_of(capsys)
    assert "`--evaluate`: cli_task:failing raised OSError: no such table" in err
    assert "cli_task.py" in err and "raise OSError('no such table')" in err


def test_shapes_are_for_timing_alone(clock, capsys):
    assert cli.main(["inspect", "model.keras", "--shape", "1,6,6,2"]) == 2
    assert "are for `--latency`" in output_of(capsys)[1]


def test_inspect_hands_over_the_inputs_and_the_step(clock, monkeypatch, capsys):
    def latency_by_group(model, inputs, *, multiple):
        return f"{len(model.layers)} layers, inputs {inputs.shape}, multiple {multiple}"

    monkeypatch.setattr("spade_keras.search.layer_table.latency_by_group", latency_by_group)
    arguments = ["inspect", "model.keras", "--latency", "--shape", "2,6,6,2", "--multiple", "4"]
    assert cli.main(arguments) == 0
    assert output_of(capsys)[0] == "3 layers, inputs (2, 6, 6, 2), multiple 4"
