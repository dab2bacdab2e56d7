"""The arithmetic behind the benchmark of the search; the benchmark itself takes hours."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.once

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module("search_value")
    for name in ("search_value", "compensation"):
        sys.modules.pop(name)


def test_paired_takes_out_what_both_arms_share(benchmark):
    generator = np.random.default_rng(0)
    hard = 3 * generator.standard_normal((1, 16))  # some samples are harder than others
    worse = 30 + hard + 0.01 * generator.standard_normal((3, 16))
    found = benchmark.paired(worse + 1.0, worse, worse + 0.25)
    assert found["gain"] == pytest.approx({"value": 0.25, "low": 0.25, "high": 0.25})
    assert found["recovered"] == pytest.approx({"value": 0.25, "low": 0.25, "high": 0.25})


def test_paired_knows_that_samples_of_a_seed_share_a_network(benchmark):
    # One seed of three gained, on all its samples: 16 samples do not make that certain.
    difference = np.repeat([[0.9], [0.0], [0.0]], 16, axis=1)
    found = benchmark.paired(np.ones((3, 16)), np.zeros((3, 16)), difference)["gain"]
    assert found == pytest.approx({"value": 0.3, "low": 0.0, "high": 0.9})


def test_paired_covers_as_often_as_it_says(benchmark):
    generator = np.random.default_rng(1)
    gains = 0.5 + 0.1 * generator.standard_normal((40, 12, 16))
    zero = np.zeros((12, 16))
    found = [benchmark.paired(zero, zero, gain)["gain"] for gain in gains]
    assert sum(each["low"] <= 0.5 <= each["high"] for each in found) >= 34


def test_nothing_is_recovered_where_uniform_may_have_lost_nothing(benchmark):
    full = np.full((2, 4), 34.0)
    assert benchmark.paired(full, full + 0.2, full + 0.5)["recovered"] is None


def test_rank_correlation(benchmark):
    tuned = [31.0, 31.5, 32.0, 33.0, 33.1, 33.2]
    rows = [
        {arm: {"as_pruned": before, "tuned": y} for arm, before in (("good", y**3), ("bad", n))}
        for n, y in zip([3, 1, 5, 2, 6, 4], tuned, strict=True)
    ]
    found = benchmark.rank_correlation(rows, "good")
    assert found == pytest.approx({"value": 1.0, "low": 1.0, "high": 1.0})
    shuffled = benchmark.rank_correlation(rows, "bad")
    assert shuffled["low"] < 0 < shuffled["high"]
    assert benchmark.rank_correlation(rows[:3], "good") is None


@pytest.mark.parametrize("wanted", [0.1, 0.37, 0.85])
def test_uniform_widths_are_brought_to_the_time_of_the_others(benchmark, wanted):
    def ratio_of(share):  # a staircase, as the times of a device are
        return (1.1 - np.floor(400 * share) / 400) / (1.1 - wanted)

    share = benchmark.match_time(ratio_of)
    assert ratio_of(share) == pytest.approx(1, abs=benchmark.EQUAL)


def test_a_cliff_is_approached_from_its_nearer_side(benchmark):
    share = benchmark.match_time(lambda share: 1.05 if share < 0.4 else 0.8)
    assert share < 0.4


def _row(scores, accepted, holds):
    return {
        "accepted": accepted,
        "holds": holds,
        "full": [100.0, 100.0],
        "uniform": {"scores": [0.0, 0.0]},
        "searched": {"scores": scores},
        "uniform_over_searched": {"value": 1.04 if holds else 1.0},
    }


def test_summary(benchmark):
    budget = {
        "net, budget 0.5, seed 0": _row([100.0, 100.0], True, True),
        "net, budget 0.5, seed 1": _row([100.0, 0.0], True, False),
        "net, budget 0.5, seed 2": {"failure": "nothing met it"},
    }
    numbers = [{"as_pruned": n, "tuned": n} for n in range(4)]
    turned = [{"as_pruned": -n, "tuned": n} for n in range(4)]
    tried = {
        f"net, correlation, number {n}": {"compensated": numbers[n], "l1": turned[n]}
        for n in range(4)
    }
    found = benchmark.summarize({**budget, **tried})
    arms = found["net, budget 0.5"]
    assert (arms["full"], arms["uniform"], arms["searched"]) == (100, 0, 75)
    assert arms["recovered"]["value"] == pytest.approx(0.75)
    assert arms["equal_time"] == [False, True]
    assert (arms["accepted"], arms["accepted_and_hold"]) == ("2 of 3", "1 of 2")
    correlation = found["net, correlation"]
    assert correlation["compensated"]["value"] == pytest.approx(1)
    assert correlation["l1"]["value"] == pytest.approx(-1)


def test_a_finished_piece_is_kept_at_once_and_not_made_again(benchmark, monkeypatch, tmp_path):
    made = []

    def compare_arms(lab, seed, budget, trials):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append((lab, budget, trials))
        return _row([100.0, 0.0], True, True)

    monkeypatch.setattr(benchmark, "RESULTS", tmp_path / "found.json")
    monkeypatch.setattr(benchmark, "make_lab", lambda *names: names)
    monkeypatch.setattr(benchmark, "compare_arms", compare_arms)
    words = "search_value.py --networks classifier --seeds 1 --configurations 0 --trials 5"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(KeyboardInterrupt):
        benchmark.main()
    kept = json.loads(benchmark.RESULTS.read_text())
    assert list(kept["pieces"]) == [f"classifier, budget {x}, seed 0" for x in (0.7, 0.5)]
    assert kept["fingerprint"]["backend"]
    made.pop()
    benchmark.main()
    assert made == [(("classifier", 0), budget, 5) for budget in (0.7, 0.3)]
    assert len(json.loads(benchmark.RESULTS.read_text())["pieces"]) == 3


def test_calls_begin_anew_where_the_inputs_end(benchmark):
    inputs = {"validation": np.arange(5)}
    options = benchmark.search.SearchOptions.of(0.5, batch_size=2)
    lab = benchmark.Lab(None, None, options, inputs, None, None, None)
    assert [lab.call(n).tolist() for n in range(4)] == [[0, 1], [2, 3], [4, 4], [1, 2]]
