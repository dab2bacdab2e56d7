"""The end of a search: contenders widened to the budget, and a quality that was not kept."""

import io
import re

import keras
import numpy as np
import pytest
from rich.console import Console

from spade_keras import pruning, search
from spade_keras.report import SearchFindings, search_overview
from spade_keras.report.findings import search_verdict
from spade_keras.report.search import search_sections
from spade_keras.search.finalists import accept, preselect
from spade_keras.search.receipt import read_receipt
from spade_keras.search.result import Timing
from tests.parameter_clock import ParameterClock

INPUTS = np.random.default_rng(0).standard_normal((40, 8)).astype("float32")


def make_model(live=64):
    """Two hidden layers of 64, of whose units only the first `live` do anything."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(64, "relu", name=name) for name in ("a", "b")]
    model = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(4, name="out")])
    for layer in layers:
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        layer.kernel.assign(kernel * (np.arange(64) < live))
    return model


class Ending:
    """Ends a search that found one trial, both hidden layers `width` wide."""

    def __init__(
        self, folder, budget="0.5", *, width=35, edges=range(1, 65), live=64, slower=1.0, **options
    ):
        self.clock = ParameterClock(slower)
        self.said, self.model = [], make_model(live)
        ratio = (width**2 + 14 * width + 4) / 4996  # of the parameters
        trial = search.TrialRecord(
            number=3,
            state="feasible",
            origin="uniform",
            configuration=search.Configuration({"a": width, "b": width}),
            timing=Timing(10 * ratio, ratio, ratio, ratio, 10 * ratio, ratio / 0.5 - 1),
            quality=1.0,
        )
        budget = search.LatencyBudget.parse(budget)
        space = search.SearchSpace.from_edges({"a": edges, "b": edges})
        self.result = search.SearchResult(budget, (trial,), "agreement", space)
        self.model.save(folder / "full.keras")
        self.rejected = []
        self.groups = preselect(
            self.model,
            self.result,
            count=1,
            timer=lambda pairs: self.clock.timer(self.model, INPUTS),
            pairs=5,
            rejected=self.rejected,
            say=self.said.append,
            **options,
        )
        self.tried, self.accepted = accept(
            self.groups,
            full=self.model,
            full_path=folder / "full.keras",
            slim_path=folder / "slim.keras",
            inputs=INPUTS,
            budget=budget,
            score=search.OutputAgreement(self.model, INPUTS),
            say=self.said.append,
            compare=self.clock.compare,
        )
        self.receipt = read_receipt(folder / "receipt.json")
        self.findings = SearchFindings(self.result, receipt=self.receipt)


@pytest.mark.parametrize(
    ("budget", "width"),
    # 0.472 + 0.01 of the full network's time; times are exact: 4.914 of 5 ms
    [("0.5", 42), ("5ms", 43), ("p99<=5ms", 43), ("throughput>=200/s", 43)],
)
def test_what_leaves_room_is_widened_until_it_uses_the_budget(tmp_path, budget, width):
    end = Ending(tmp_path, budget)
    assert end.accepted.configuration.widths == {"a": width, "b": width}
    assert end.receipt.configuration == end.accepted.configuration and end.receipt.trial == 3
    assert end.receipt.plan.widths == {"a": width, "b": width, "out": 4}
    assert 0.45 <= end.receipt.comparison.ratio.high <= 0.5 and end.receipt.holds
    slim = keras.saving.load_model(tmp_path / "slim.keras")
    assert [layer.units for layer in slim.layers] == [width, width, 4]
    agreement = search.OutputAgreement(end.model, INPUTS)(slim)
    assert end.accepted.quality == end.receipt.quality.value == pytest.approx(agreement, rel=1e-5)
    assert end.clock.timed <= 1 + 5
    assert any(line.startswith("trial 3 widened: ") for line in end.said)
    # The report speaks of what ships, which is no trial.
    assert end.findings.taken.widths == {"a": width, "b": width}
    assert end.findings.taken.latency_ratio == end.receipt.comparison.ratio.value
    assert "It is trial 3 widened" in search_verdict(end.findings).sentences[-1]


def test_what_was_widened_and_misses_in_fresh_processes_ships_as_it_was_found(tmp_path):
    end = Ending(tmp_path, slower=1.2)
    assert [f.configuration.widths["a"] for f in end.tried] == [42, 35]
    assert [f.accepted for f in end.tried] == [False, True]
    assert end.receipt.configuration == end.result.trials[0].configuration
    assert not end.findings.widened


def test_the_plan_that_ships_states_what_its_readers_lost(tmp_path):
    end = Ending(tmp_path, calibration=pruning.calibrate(make_model(64), INPUTS))
    errors = {error.name: error for error in end.receipt.plan.reader_errors}
    assert set(errors) == {"b/kernel", "out/kernel"}
    assert end.accepted.configuration.widths["a"] == 42
    assert all(0 <= error.after <= error.before for error in errors.values())
    assert any(error.before > 0.05 for error in errors.values())
    rows = search_sections(end.findings)["readers"]
    assert [row[0] for row in rows] == ["b/kernel", "out/kernel"]
    assert rows[0][2:4] == (f"{errors['b/kernel'].before:.2%}", f"{errors['b/kernel'].after:.2%}")
    assert search_sections(Ending(tmp_path).findings)["readers"] == []


@pytest.mark.parametrize("edges", [(35, 64), (35,)])
def test_what_cannot_be_widened_ships_as_it_is(tmp_path, edges):
    end = Ending(tmp_path, edges=edges)
    assert end.accepted.configuration.widths == {"a": 35, "b": 35}
    assert end.clock.timed == 1 + len(edges) - 1
    assert not any("widened" in line for line in end.said)


def test_noise_is_not_celebrated(tmp_path):
    end = Ending(tmp_path)
    assert end.receipt.quality.agreement < 20 == end.receipt.quality.least
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system="standard")
    console.print(search_overview(end.findings))
    first, rest = out.getvalue().split("Budget met")
    assert first.startswith("\x1b[1;31mQuality not kept: agreement with the full model")
    plain = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", first).split())
    assert "least acceptable 20" in plain
    assert "--finetune" in plain and "--data" in plain and "Quality" not in rest.split("trial")[0]
    assert end.receipt.as_dict()["verdict"].startswith("Quality not kept")
    assert end.said[-1] == end.receipt.warning == search_verdict(end.findings).warning


def test_a_good_slim_model_is(tmp_path):
    end = Ending(tmp_path, live=20)
    assert end.receipt.quality.agreement > 60
    assert end.receipt.warning is None and search_verdict(end.findings).warning is None
    assert end.receipt.as_dict()["verdict"].startswith("meets the budget")


def test_every_score_knows_the_least_it_accepts():
    model = make_model()
    outputs = keras.ops.convert_to_numpy(model(INPUTS))
    classes = outputs.argmax(-1)
    chance = np.bincount(classes).max() / len(classes)
    assert search.Accuracy(INPUTS, classes).least(model) == pytest.approx(
        chance + 0.9 * (1 - chance)
    )
    assert search.OutputAgreement(model, INPUTS).least(model) == 20
    images = INPUTS.reshape(40, 4, 2, 1)
    same = keras.Sequential([keras.Input((4, 2, 1)), keras.layers.Activation("linear")])
    teacher = search.TeacherAgreement(images, same)
    variance = ((images - images.mean()) ** 2).mean(axis=(1, 2, 3))
    expected = float(np.mean(-10 * np.log10(variance))) + 20
    assert teacher.least(same) == pytest.approx(expected, abs=0.01)
    assert teacher(same) == pytest.approx(120, abs=1e-3)
    truth = search.ValidationPSNR(images, images + 0.1)
    assert truth.least(same) == pytest.approx(truth(same) - 3)
    logits = search.LogitAgreement(INPUTS, model)
    p = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    chance = (p * np.log(p / p.mean(0))).sum(-1).mean()
    assert logits.least(model) == pytest.approx(-10 * np.log10(chance / 10), rel=1e-4)
