"""The search: constraint first, quality second; what it may see; what a kill may not lose."""

import time

import keras
import numpy as np
import optuna
import pytest

from spade_keras import data, latency, search
from spade_keras.errors import BudgetNotMetError, SpadeError
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.pruning import count_parameters, find_groups
from spade_keras.search.objective import Objective
from spade_keras.search.storage import open_storage


def make_network(seed=0):
    keras.utils.set_random_seed(seed)
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[8, 8]), iterations=2)
    last = network.prior.get_layer("residual").kernel
    last.assign(np.random.default_rng(seed).normal(scale=0.1, size=last.shape))
    return network


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def slices():
    images = np.random.default_rng(0).uniform(size=(2, 8, 8)).astype("float32")
    return data.simulate_multicoil(images, coils=2, acs_lines=2)


def comparison(ratio, spread=0.01):
    def summary(milliseconds):
        circumstances = {"first_ms": 1.0, "calls_per_window": 1, "stable": True}
        return latency.summarize(
            [milliseconds] * 3, **circumstances, peak_memory_bytes=None, fingerprint={}
        )

    interval = latency.Ratio(ratio, ratio - spread, ratio + spread, 0.95, 3)
    return latency.Comparison(summary(10.0), summary(10 * ratio), interval)


def parameter_timer(network):
    """A device whose time is proportional to the parameters: the same on every machine."""
    full = count_parameters(network)
    return lambda candidate: comparison(count_parameters(candidate) / full)


class Parameters(Objective):
    """More parameters, better quality; remembers what it was asked."""

    name = "parameters"

    def __init__(self):
        self.asked = []

    def __call__(self, network, report=None):
        self.asked.append(count_parameters(network))
        return float(self.asked[-1])


def run(network, budget=0.6, trials=12, **options):
    options = {
        "objective": Parameters(),
        "timer": parameter_timer(network),
        "space": search.SearchSpace.from_groups(find_groups(network), multiple=2, minimum=2),
        "seeds": (),
        **options,
    }
    return search.run(
        network, budget=search.LatencyBudget(budget), data=None, trials=trials, **options
    )


def test_best_is_the_best_of_those_within_the_budget(network):
    quality = Parameters()
    result = run(network, objective=quality)
    full = count_parameters(network)
    assert result.counts()["total"] == 12 == len(result.trials)
    assert result.counts()["feasible"] + result.counts()["infeasible"] == 12
    assert result.counts()["infeasible"] > 0
    for trial in result.trials:
        assert (trial.state == "feasible") == (trial.timing.ratio_high <= 0.6)
        assert (trial.quality is None) == (trial.state == "infeasible")
    assert result.best.quality == max(t.quality for t in result.trials if t.quality)
    assert result.best.quality == pytest.approx(result.best.latency_ratio * full)
    # Never asked for the quality of what the device rejected.
    assert max(quality.asked) / full <= 0.59 + 1e-9


def test_an_interval_that_reaches_over_the_budget_is_rejected(network):
    full = count_parameters(network)
    result = run(network, timer=lambda c: comparison(count_parameters(c) / full, spread=0.2))
    for trial in result.trials:
        assert (trial.state == "feasible") == (trial.latency_ratio + 0.2 <= 0.6)


def test_a_pair_of_widths_is_timed_and_judged_once(network):
    timed = []
    timer = parameter_timer(network)
    quality = Parameters()

    def counting(candidate):
        timed.append(tuple(w.shape for w in candidate.weights))
        return timer(candidate)

    result = run(network, trials=30, timer=counting, objective=quality)
    distinct = {tuple(t.widths.values()) for t in result.trials}
    assert len(timed) == len(set(timed)) == len(distinct) < 30
    assert len(quality.asked) == len(set(map(tuple, (t.widths.values() for t in result.ranking))))


def test_contenders_are_the_ranking_with_the_best_of_every_origin_first(network):
    result = run(network, trials=30)
    ranking, contenders = result.ranking, result.contenders
    origins = {trial.origin for trial in ranking}
    assert len(origins) > 1
    assert contenders[0] is result.best
    assert sorted(t.number for t in contenders) == sorted(t.number for t in ranking)
    first, rest = contenders[: len(origins)], contenders[len(origins) :]
    assert {trial.origin for trial in first} == origins
    for trial in first:
        assert trial.quality == max(t.quality for t in ranking if t.origin == trial.origin)
    for part in (first, rest):
        assert [t.quality for t in part] == sorted((t.quality for t in part), reverse=True)


def test_ranking_is_by_quality_without_repetitions(network):
    ranking = run(network, trials=30).ranking
    assert [t.quality for t in ranking] == sorted((t.quality for t in ranking), reverse=True)
    assert len({tuple(t.widths.items()) for t in ranking}) == len(ranking)


def test_no_width_meets_the_budget(network):
    result = run(network, budget=0.01)
    assert result.counts() == {
        "total": 12,
        "feasible": 0,
        "infeasible": 12,
        "stopped": 0,
        "failed": 0,
    }
    assert result.fastest.latency_ratio == min(t.latency_ratio for t in result.trials)
    assert set(result.fastest.widths.values()) == {2}
    with pytest.raises(BudgetNotMetError, match=f"{result.fastest.latency_ratio:.3f} times"):
        _ = result.best


def test_seeded(network):
    first, again, other = (run(network, seed=seed, trials=14) for seed in (1, 1, 2))
    assert first == again
    assert [t.widths for t in first.trials] != [t.widths for t in other.trials]


def test_result_round_trips(network):
    result = run(network)
    assert search.SearchResult.from_dict(result.as_dict()) == result


@pytest.mark.alone
def test_real_clock(network, slices):
    result = search.run(
        network,
        budget=search.LatencyBudget(0.99),
        data=(slices.inputs, slices.targets),
        trials=2,
        space=search.SearchSpace.from_groups(find_groups(network), multiple=4, minimum=4),
    )
    assert all(
        t.timing.latency_ms > 0 and t.timing.ratio_low <= t.timing.ratio_high for t in result.trials
    )
    assert result.quality_name == search.ValidationPSNR.name


@pytest.mark.parametrize("strategy", ["school", "self_supervised", "supervised"])
def test_quality_prefers_what_its_strategy_is_after(network, slices, strategy):
    other = make_network(seed=4)
    quality = search.strategy_objective(
        strategy, slices.inputs, targets=slices.targets, teacher=network
    )
    if strategy == "school":
        assert quality(network) > 100 > quality(other)
    elif strategy == "supervised":
        predictions = keras.ops.convert_to_numpy(network(slices.inputs, training=False))
        ideal = search.ValidationPSNR(slices.inputs, predictions)
        assert ideal(network) > 100 > quality(network)
    else:
        loss = 10 ** (-quality(network) / 10)
        tuner = search.scores.SelfSupervised(network)
        prediction = network(slices.inputs, training=False)
        expected = tuner.strategy_loss(slices.inputs, None, prediction, training=False)
        assert loss == pytest.approx(float(keras.ops.convert_to_numpy(expected)), rel=1e-4)


def test_only_the_supervised_quality_sees_the_truth(network, slices):
    poison = np.full_like(slices.targets, np.nan)
    scores = {}
    for strategy in ("school", "self_supervised", "supervised"):
        for truth in (slices.targets, poison):
            quality = search.strategy_objective(
                strategy, slices.inputs, targets=truth, teacher=make_network(seed=4)
            )
            scores.setdefault(strategy, []).append(quality(network))
    assert scores["school"][0] == scores["school"][1]
    assert scores["self_supervised"][0] == scores["self_supervised"][1]
    assert np.isnan(scores["supervised"][1])


def test_wrong_options(network, slices):
    with pytest.raises(ValueError, match=r"`sampler` must be one of .*tpe.*sampler='cma'"):
        run(network, sampler="cma")
    with pytest.raises(ValueError, match="strategy='school', targets missing, teacher missing"):
        search.strategy_objective("school", slices.inputs)


def test_goes_on_with_the_trials_there_are(network, tmp_path):
    journal = tmp_path / "study.journal"
    first = run(network, trials=5, storage=journal)
    fresh = []
    whole = run(network, trials=9, storage=journal, on_trial=fresh.append)
    assert whole.trials[:5] == first.trials
    assert len(whole.trials) == 9
    assert [t.number for t in fresh] == [5, 6, 7, 8]
    assert run(network, trials=9, storage=journal) == whole


def test_another_space_is_refused(network, tmp_path):
    run(network, trials=2, storage=tmp_path / "study.journal")
    groups = find_groups(network)
    with pytest.raises(SpadeError, match="searches other widths"):
        run(
            network,
            storage=tmp_path / "study.journal",
            space=search.SearchSpace.from_groups(groups, multiple=4, minimum=4),
        )


def test_half_a_line_at_the_end_is_cut_off(network, tmp_path):
    journal = tmp_path / "study.journal"
    first = run(network, trials=4, storage=journal)
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "worker_id"')
    assert run(network, trials=6, storage=journal).trials[:4] == first.trials


def test_nan_quality_fails_its_trial_and_the_search_goes_on(network):
    class Sometimes(Parameters):
        def __call__(self, candidate, report=None):
            value = super().__call__(candidate)
            return float("nan") if len(self.asked) == 1 else value

    result = run(network, objective=Sometimes())
    assert result.counts()["failed"] == 1
    assert result.counts()["feasible"] + result.counts()["infeasible"] == 12
    assert np.isfinite(result.best.quality)


def test_an_orphan_is_tried_again(network, tmp_path):
    journal = tmp_path / "study.journal"
    run(network, trials=1, storage=journal)
    study = optuna.load_study(study_name="widths", storage=open_storage(journal))
    orphan = study.ask()  # taken, never finished: what a kill leaves
    widths = {name: orphan.suggest_int(name, 0, 3) for name in study.user_attrs["space"]["edges"]}
    result = run(network, trials=20, storage=journal)
    states = [t.state for t in result.trials if t.number == orphan.number]
    assert states == ["failed"]
    again = [t for t in study.get_trials() if t.number > orphan.number]
    assert orphan.params in [t.system_attrs.get("fixed_params") for t in again]
    edges = study.user_attrs["space"]["edges"]
    wanted = {name: edges[name][index] for name, index in widths.items()}
    assert wanted in [t.widths for t in result.trials if t.state != "failed"]
    assert len([t for t in result.trials if t.state != "failed"]) == 20


def trace_of(result):
    """What a search did, for comparisons."""
    return [(t.state, t.configuration.key(), t.quality) for t in result.trials]


def test_pareto_mode_judges_all_and_returns_the_front(network):
    quality = Parameters()
    result = run(network, budget=0.3, trials=20, pareto=True, objective=quality)
    assert all(t.quality is not None for t in result.trials)
    assert {t.state for t in result.trials} == {"feasible", "infeasible"}
    for trial in result.trials:
        assert (trial.state == "feasible") == (trial.timing.ratio_high <= 0.3)
    front = result.front
    ratios, qualities = ([getattr(t, n) for t in front] for n in ("latency_ratio", "quality"))
    assert ratios == sorted(ratios)
    assert qualities == sorted(qualities)
    assert len(front) > 3
    for trial in result.trials:  # nobody beats the front
        assert any(
            f.latency_ratio <= trial.latency_ratio and f.quality >= trial.quality for f in front
        )
    assert result.best.latency_ratio <= 0.3


def test_pareto_mode_and_pruners_exclude_each_other(network):
    with pytest.raises(ValueError, match="pruner='median'"):
        run(network, pareto=True, pruner="median")
    with pytest.raises(ValueError, match="pruner='hyper'"):
        run(network, pruner="hyper")


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random"])
def test_every_sampler_finds_something(network, sampler):
    if sampler == "gp":
        pytest.importorskip("torch")
    result = run(network, trials=14, sampler=sampler)
    assert result.counts()["total"] == 14
    assert result.best.timing.excess <= 0
    assert sampler in {t.origin for t in result.trials}


def test_stops_by_time_and_by_stagnation(network):
    result = run(network, trials=100, timeout_minutes=1e-9)
    assert (result.ended_by, result.trials) == ("timeout", ())

    class Constant(Parameters):
        def __call__(self, candidate, report=None):
            return 1.0

    result = run(network, trials=100, stagnation=4, objective=Constant())
    assert result.ended_by == "stagnation"
    first = next(i for i, t in enumerate(result.trials) if t.state == "feasible")
    assert len(result.trials) == first + 1 + 4
    assert run(network, trials=5).ended_by == "trials"


def test_warm_start_tries_the_best_of_an_earlier_search(network):
    earlier = run(network, trials=30, seed=7)
    result = run(network, trials=20, warm_start=earlier)
    best = [t for t in result.trials if t.origin == "warm start"]
    assert [t.configuration for t in best] == [t.configuration for t in earlier.ranking[:10]]
    assert result.best.quality >= earlier.best.quality


def test_a_study_of_something_else_is_refused(network, tmp_path):
    journal = tmp_path / "study.journal"
    run(network, trials=2, storage=journal)
    with pytest.raises(SpadeError, match="other weights"):
        run(make_network(seed=5), trials=3, storage=journal)
    with pytest.raises(SpadeError, match="another budget"):
        run(network, budget=0.5, trials=3, storage=journal)
    with pytest.raises(SpadeError, match="another number of objectives"):
        run(network, trials=3, storage=journal, pareto=True)

    class Other(Parameters):
        name = "something else"

    with pytest.raises(SpadeError, match="It maximizes something else"):
        run(network, trials=3, storage=journal, objective=Other())
    assert len(run(network, trials=3, storage=journal).trials) == 3


def test_times_of_another_device_are_not_mixed_unless_told_to(network, tmp_path, monkeypatch):
    journal = tmp_path / "study.journal"
    run(network, trials=2, storage=journal)
    here = latency.fingerprint()
    elsewhere = {**here, "device": {**here["device"], "name": "Another CPU"}}
    monkeypatch.setattr(latency, "fingerprint", lambda *_, **__: elsewhere)
    with pytest.raises(SpadeError, match=r"device.name was .*, is Another CPU"):
        run(network, trials=3, storage=journal)
    assert len(run(network, trials=3, storage=journal, mix_devices=True).trials) == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory."),
        (RuntimeError("RESOURCE_EXHAUSTED: 8 GiB"), "out of memory: RESOURCE_EXHAUSTED: 8 GiB"),
        (KeyError("label"), "KeyError: 'label'"),
    ],
)
def test_one_candidate_that_fails_says_why_and_the_search_goes_on(network, error, reason):
    class Raising(Parameters):
        def __call__(self, candidate, report=None):
            value = super().__call__(candidate)
            if len(self.asked) == 2:
                raise error
            return value

    result = run(network, objective=Raising())
    assert [t.reason for t in result.trials if t.state == "failed"] == [reason]
    assert result.counts()["feasible"] + result.counts()["infeasible"] == 12


def test_a_search_whose_candidates_all_fail_ends_with_the_reason(network, tmp_path):
    def broken(candidate):
        raise RuntimeError("no such column")

    for seeds in ((), ("uniform",)):
        with pytest.raises(SpadeError, match=r"3 of 3 candidates failed.*no such column"):
            run(network, timer=broken, storage=tmp_path / "study.journal", seeds=seeds)
    assert len(run(network, trials=4, storage=tmp_path / "study.journal").ranking) > 0


def test_an_interrupted_trial_is_tried_again(network, tmp_path):
    journal = tmp_path / "study.journal"

    class Interrupting(Parameters):
        def __call__(self, candidate, report=None):
            if len(self.asked) == 1:
                raise KeyboardInterrupt
            return super().__call__(candidate)

    with pytest.raises(KeyboardInterrupt):
        run(network, storage=journal, objective=Interrupting())
    again = run(network, storage=journal)
    assert trace_of(again)[-1][0] != "failed"
    lost = [t for t in again.trials if t.state == "failed"]
    assert len(lost) == 1
    repeated = [t for t in again.trials if t.configuration == lost[0].configuration]
    assert [t.state for t in repeated][:2] == ["failed", "feasible"]
    assert len(again.trials) == 13


@pytest.mark.alone
def test_where_the_time_goes_and_how_little_the_search_itself_takes(network, tmp_path):
    result = run(network, trials=25, storage=tmp_path / "study.journal")
    overheads = []
    for trial in result.trials:
        assert set(trial.seconds) == {"build", "compile", "measure", "evaluate", "overhead"}
        overheads.append(trial.seconds["overhead"])
    assert np.median(overheads) < 0.05
    known = [t for t in result.trials if t.seconds["measure"] == 0]
    assert all(t.seconds["build"] == t.seconds["compile"] == 0 for t in known)


def test_compiling_is_kept_apart_from_measuring(network):
    took = []

    def slow(candidate):
        start = time.perf_counter()
        time.sleep(0.02)
        made = comparison(0.5)
        compiled = latency.summarize(
            [5.0] * 3,
            first_ms=20.0,
            calls_per_window=1,
            stable=True,
            peak_memory_bytes=None,
            fingerprint={},
        )
        took.append(time.perf_counter() - start)
        return latency.Comparison(made.a, compiled, made.ratio)

    [trial] = run(network, timer=slow, trials=1).trials
    assert trial.seconds["compile"] == pytest.approx(0.015)
    # What was not compiling: less than the whole call took, however long the machine made it.
    assert min(took) - 0.016 <= trial.seconds["measure"] < max(took)
