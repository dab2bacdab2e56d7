"""The script at toy size; what it reaches is the benchmark's matter."""

import functools
import sys

import pytest

from spade_keras import pruning, transfer
from spade_keras.recipes import basis_scaling_transfer as recipe

TINY = recipe.Settings(train=8, validation=8, epochs=1, allowed_loss=1.0)


@pytest.fixture
def small(monkeypatch):
    pytest.importorskip("sklearn")
    for kind in transfer.FILTERS:
        monkeypatch.setitem(transfer.FILTERS, kind, (8, 16))
    source = transfer.make_network("vgg", (16, 16, 1))
    monkeypatch.setattr(recipe, "make_source", lambda settings, tasks: source)
    fast = functools.partial(
        transfer.prune_components, phases=[transfer.PruningPhase(0.4, 0, 1e-3)]
    )
    monkeypatch.setattr(transfer, "prune_components", fast)


@pytest.mark.once
def test_every_arm_is_a_stock_network_of_the_size_asked_for(small):
    tasks, models = recipe.run(TINY)
    assert list(models) == ["original", "basis", "channel", "double", "from scratch"]
    sizes = {name: pruning.count_parameters(model) for name, model in models.items()}
    assert sizes["basis"] < sizes["original"]
    assert sizes["channel"] <= sizes["basis"] <= sizes["from scratch"] < 1.3 * sizes["basis"]
    for model in models.values():
        assert {type(layer).__module__.split(".")[0] for layer in model.layers} == {"keras"}
        assert 0 <= transfer.accuracy(model, tasks["test"]) <= 1


@pytest.mark.once
def test_the_command_prints_a_row_per_arm(monkeypatch, capsys):
    made = []

    def run(settings):
        made.append(settings)
        samples = dict.fromkeys(("train", "test"), ([0] * 9, [0] * 9))
        return samples, {"original": 1, "basis": 2, "from scratch": 3}

    def row(model, original, tasks, pairs):
        ratio = {"value": 0.5, "low": 0.4, "high": 0.6}
        return {
            "accuracy": 0.9,
            "parameters": 100 // model,
            "macs": 10,
            "ms": 1,
            "time_ratio": ratio,
        }

    monkeypatch.setattr(recipe, "run", run)
    monkeypatch.setattr(recipe, "make_row", row)
    monkeypatch.setattr(sys, "argv", ["script", "--weights", "imagenet", "--train", "20"])
    assert recipe.main() == 0
    assert (made[0].weights, made[0].train, made[0].learning_rate) == ("imagenet", 20, 1e-4)
    shown = capsys.readouterr().out
    assert [line.split()[0] for line in shown.splitlines() if "90.0%" in line] == [
        "original",
        "basis",
        "from",
    ]
    assert "33.0%" in shown  # parameters left of the last
