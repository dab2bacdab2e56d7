"""Groups valued by what a cut of each does to the outputs."""

import keras
import numpy as np
import pytest
from keras import layers

from spade_keras import latency, pruning, search
from spade_keras.pruning.importance import find_importance
from spade_keras.search.candidate import CandidateBuilder
from spade_keras.search.knapsack import output_values
from spade_keras.search.scores import OutputAgreement, OutputError

GAIN = 0.03


def space_of(edges, groups="ab"):
    return search.SearchSpace.from_edges(dict.fromkeys(groups, edges))


@pytest.fixture(scope="module")
def model():
    """Two branches with equal layers, of which one counts a thousandth of the other's energy."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8,))
    loud, quiet = (layers.Dense(32, activation="relu", name=name)(x) for name in ("loud", "quiet"))
    quiet = layers.Rescaling(GAIN)(layers.Dense(6, name="quiet_last")(quiet))
    model = keras.Model(x, layers.Add()([layers.Dense(6, name="loud_last")(loud), quiet]))
    for last in ("", "_last"):  # and equal weights
        model.get_layer(f"quiet{last}").set_weights(model.get_layer(f"loud{last}").get_weights())
    return model


@pytest.fixture(scope="module")
def inputs():
    return np.random.default_rng(0).normal(size=(256, 8)).astype("float32")


def by_parameters(model):
    """A device whose time is proportional to the parameters: the same on every machine."""
    full = pruning.count_parameters(model)

    def compare(candidate):
        share = pruning.count_parameters(candidate) / full
        once = {"first_ms": 1.0, "calls_per_window": 1, "stable": True}
        once |= {"peak_memory_bytes": None, "fingerprint": {}}
        times = [latency.summarize([10.0 * x] * 3, **once) for x in (1, share)]
        return latency.Comparison(*times, latency.Ratio(share, share, share, 0.95, 3))

    return compare


def run(model, inputs, **options):
    return search.run(
        model,
        data=inputs,
        budget=search.LatencyBudget(0.57, safety_margin=0.0),
        timer=by_parameters(model),
        space=search.SearchSpace.from_groups(pruning.find_groups(model), multiple=2, minimum=4),
        objective=OutputAgreement(model, inputs[:64]),
        **{"seeds": ("uniform", "knapsack"), "compensate": True, "trials": 3, **options},
    )


def test_the_group_that_the_outputs_hear_is_spared(model, inputs):
    trials = {trial.origin: trial for trial in run(model, inputs, importance="obs").trials}
    weighted, uniform = trials["knapsack (by MACs)"], trials["uniform"]
    assert weighted.widths["loud"] > 28 > 12 > weighted.widths["quiet"]
    assert weighted.quality > uniform.quality + 10  # dB, at the same time:
    assert weighted.latency_ratio == pytest.approx(uniform.latency_ratio)

    # By itself either layer loses the same, so importance alone halves both.
    measured = pruning.calibrate(model, inputs)
    criterion = find_importance("obs", measured)
    space, timer = space_of(range(4, 33, 2), ("loud", "quiet")), by_parameters(model)
    builder = CandidateBuilder(model, importance=criterion, calibration=measured)
    ((_, kept), _) = search.propose(
        ["knapsack"],
        model,
        space,
        excess=lambda c: timer(builder(c)).ratio.value / 0.57 - 1,
        importance=criterion,
    )
    assert abs(kept.widths["loud"] - kept.widths["quiet"]) <= 4
    assert weighted.quality > OutputAgreement(model, inputs[:64])(builder(kept)) + 10


def test_curves_are_measured_once_and_alike_for_every_worker(model, inputs, monkeypatch, tmp_path):
    calls, judge = [], OutputError.__call__

    def counted(self, candidate):
        calls.append(len(self.inputs))
        return judge(self, candidate)

    monkeypatch.setattr(OutputError, "__call__", counted)
    first = run(model, inputs, storage=tmp_path / "study.journal")
    assert calls == [8] * 10  # two groups at five widths, on eight samples
    joined = run(model, inputs, storage=tmp_path / "study.journal", trials=4)
    assert len(calls) == 10
    again = run(model, inputs)
    assert len(calls) == 20
    seeds = [[(t.origin, t.widths) for t in r.trials[:3]] for r in (first, joined, again)]
    assert seeds[0] == seeds[1] == seeds[2]
    run(model, inputs, compensate=False)
    run(model, inputs, seeds=("uniform",))
    assert len(calls) == 20


@pytest.mark.parametrize(("groups", "widths"), [(2, 5), (13, 3), (40, 1), (60, 1)])
def test_forty_cuts_are_made_but_one_of_each_group_at_least(groups, widths):
    names = [f"g{i}" for i in range(groups)]
    asked = []

    def fidelity(configuration):
        cut = {n: w for n, w in configuration.widths.items() if w < 64}
        assert len(cut) == 1
        asked.append(cut)
        return -((1 - next(iter(cut.values())) / 64) ** 3)

    values = output_values(space_of(range(4, 65, 4), names), fidelity)
    assert len(asked) == groups * widths
    errors = -np.array(values["g0"])
    truth = (1 - np.arange(4, 65, 4) / 64) ** 3
    # A power is a line in log e over log r, so nothing is lost between the cuts.
    if widths > 1:
        assert errors == pytest.approx(truth)
    else:
        assert errors == pytest.approx(truth[7] * ((64 - np.arange(4, 65, 4)) / 32) ** 2)


def test_errors_never_fall_with_the_channels_removed_and_end_at_the_outputs_energy():
    found = {8: 30.0, 16: 0.02, 24: 0.05, 32: 0.0}
    values = output_values(space_of((8, 16, 24, 32, 40), "a"), lambda c: -found[c.widths["a"]])
    assert values["a"] == pytest.approx([-1.0, -0.05, -0.05, -1e-12, 0.0])
    lost = output_values(space_of((8, 16), "a"), lambda c: float("nan"))
    assert lost["a"] == pytest.approx([-1.0, 0.0])
    assert output_values(space_of((8,), "a"), None) == {"a": [0.0]}


def test_output_errors_are_relative_to_the_energy_of_each_output():
    x = keras.Input((1,))
    dense = [layers.Dense(1, use_bias=False) for _ in range(3)]
    full = keras.Model(x, [layer(x) for layer in dense])
    other = keras.models.clone_model(full)
    full.set_weights([np.array([[weight]]) for weight in (100.0, 0.01, 0.0)])
    other.set_weights([np.array([[weight]]) for weight in (90.0, 0.008, 0.0)])
    error = OutputError(full, np.array([[1.0], [2.0]]))
    assert error(full) == 0
    assert error(other) == pytest.approx(-(0.1**2 + 0.2**2) / 3, rel=1e-4)
