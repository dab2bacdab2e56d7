"""The arithmetic behind the benchmark of the search; the benchmark itself takes an hour."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spade_keras.latency import Ratio

pytestmark = pytest.mark.once

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def statistics(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import search_value_statistics

    yield search_value_statistics
    sys.modules.pop("search_value_statistics")


@pytest.fixture
def lab(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import search_value_lab

    yield search_value_lab
    sys.modules.pop("search_value_lab")


def test_paired_interval_takes_out_what_both_arms_share(statistics):
    generator = np.random.default_rng(0)
    hard = 3 * generator.standard_normal((1, 16))  # some slices are harder than others
    worse = 30 + hard + 0.01 * generator.standard_normal((3, 16))
    found = statistics.paired_interval(worse + 0.25, worse)
    assert found["mean_db"] == pytest.approx(0.25)
    assert found["low_db"] == pytest.approx(0.25) == found["high_db"]


def test_paired_interval_knows_that_slices_of_a_seed_share_a_network(statistics):
    # One seed of three gained, on all its slices: 16 slices do not make that certain.
    difference = np.repeat([[0.9], [0.0], [0.0]], 16, axis=1)
    found = statistics.paired_interval(difference, np.zeros((3, 16)))
    assert found["mean_db"] == pytest.approx(0.3)
    assert found["low_db"] == 0.0
    assert found["high_db"] == pytest.approx(0.9)


def test_paired_interval_covers_as_often_as_it_says(statistics):
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(40):
        difference = 0.5 + 0.1 * generator.standard_normal((12, 16))
        found = statistics.paired_interval(difference, np.zeros((12, 16)), seed=trial)
        covered += found["low_db"] <= 0.5 <= found["high_db"]
    assert covered >= 34


def test_paired_interval_refuses_scores_without_seeds(statistics):
    with pytest.raises(ValueError, match=r"\(seeds, slices\)"):
        statistics.paired_interval(np.ones(16), np.zeros(16))


def test_rank_correlation(statistics):
    outcome = [31.0, 31.5, 32.0, 33.0, 33.1, 33.2]
    found = statistics.rank_correlation([np.exp(x) for x in outcome], outcome)
    assert found["rho"] == pytest.approx(1.0)
    assert found["low"] == pytest.approx(1.0)
    shuffled = statistics.rank_correlation([3, 1, 5, 2, 6, 4], outcome)
    assert shuffled["low"] < 0 < shuffled["high"]


def test_recovered(statistics):
    assert statistics.recovered(34.0, 33.0, 33.5) == pytest.approx(0.5)
    assert statistics.recovered(34.0, 33.0, 32.5) == pytest.approx(-0.5)
    assert statistics.recovered(34.0, 34.2, 34.5) is None  # nothing was lost


def test_on_curve(statistics):
    ratios, scores = [0.8, 0.2, 0.4], [34.0, 31.0, 33.0]
    assert statistics.on_curve(ratios, scores, 0.3) == pytest.approx(32.0)
    assert statistics.on_curve(ratios, scores, 0.1) is None


def test_scaled_keeps_proportions_and_moves_one_channel_at_a_time(lab):
    full = lab.Shape(5, {"a": 48, "b": 48, "c": 24})
    curve = lab.scaled([1.0, 0.5, 1.0], full, minimum=4)
    assert curve(0.0).widths == {"a": 4, "b": 4, "c": 4}
    assert curve(1.0).widths == full.widths
    half = curve(0.5).widths  # `a` and `c` are full where `b` is half
    assert half == {"a": 48, "b": 24, "c": 24}
    previous = curve(0.0)
    for position in np.linspace(0, 1, 2001):
        shape = curve(float(position))
        steps = [shape.widths[g] - previous.widths[g] for g in full.widths]
        assert min(steps) >= 0
        assert sum(steps) <= 2
        previous = shape


class _Clock:
    """A lab whose shapes take the time of a staircase with a cliff, as a CPU's do."""

    def __init__(self, lab):
        self.settings = lab.Settings()
        self.asked = []

    def decide(self, shape, aim):
        self.asked.append(shape.key)
        width = sum(shape.widths.values()) / len(shape.widths)
        return 0.1 + 0.9 * (width / 48) ** 2 + (0.15 if 32 < width < 48 else 0.0)


@pytest.mark.parametrize("budget", [0.3, 0.5, 0.7])
def test_arms_grow_to_the_budget_and_not_beyond(lab, monkeypatch, budget):
    clock = _Clock(lab)
    arm = object.__new__(lab.Lab)
    arm.settings = clock.settings
    monkeypatch.setattr(lab.Lab, "_decide", lambda self, shape, aim: clock.decide(shape, aim))
    monkeypatch.setattr(lab.Lab, "ratio", lambda *_, **__: {"value": 0.0})
    full = lab.Shape(5, {"a": 48, "b": 48, "c": 48, "d": 48})
    curve = lab.scaled([1.0] * 4, full, minimum=4)
    shape = arm.to_budget(curve, budget)
    reached = clock.decide(shape, 0)
    assert 0.96 * budget <= reached <= 0.985 * budget
    assert len(clock.asked) <= 12


class _Timer:
    """A timer on a machine that is disturbed the first times."""

    def __init__(self, ratios):
        self.ratios = iter(ratios)

    def __call__(self, candidate):
        low, value, high = next(self.ratios)
        ratio = Ratio(value, low, high, 0.95, 48)
        return SimpleNamespace(ratio=ratio)


def _arm(lab, tmp_path, ratios):
    arm = object.__new__(lab.Lab)
    arm.settings = lab.Settings()
    arm.ratios = lab.Ratios(tmp_path / "ratios.json")
    arm._timers = {48: _Timer(ratios)}
    arm.build = lambda shape: None
    return arm


def test_a_disturbed_measurement_is_made_again(lab, tmp_path):
    disturbed, calm = (0.3, 0.42, 0.6), (0.497, 0.5, 0.503)
    arm = _arm(lab, tmp_path, [disturbed, calm])
    shape = lab.Shape(5, {"a": 24})
    assert arm.ratio(shape, final=True)["value"] == 0.5
    assert arm.ratio(shape)["value"] == 0.5  # not measured again


def test_where_it_never_calms_down_the_narrowest_interval_counts(lab, tmp_path):
    arm = _arm(
        lab, tmp_path, [(0.3, 0.4, 0.6), (0.45, 0.5, 0.52), (0.2, 0.4, 0.6), (0.3, 0.7, 0.9)]
    )
    assert arm.ratio(lab.Shape(5, {"a": 24}), final=True)["value"] == 0.5


def test_a_budget_out_of_reach_is_an_error(lab, monkeypatch):
    arm = object.__new__(lab.Lab)
    arm.settings = lab.Settings()
    monkeypatch.setattr(lab.Lab, "_decide", lambda self, shape, aim: 0.9)
    curve = lab.scaled([1.0], lab.Shape(1, {"a": 48}), minimum=4)
    with pytest.raises(RuntimeError, match="misses the budget"):
        arm.to_budget(curve, 0.5)
