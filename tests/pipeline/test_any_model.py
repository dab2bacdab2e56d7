"""Searching any model: data, user functions, workers, the files left behind; in memory too."""

import json
import signal
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
from rich.console import Console

from spade_keras import data, optimize, search
from spade_keras.errors import (
    BudgetNotMetError,
    JobMismatchError,
    SpadeError,
    UserCodeError,
    UserFunctionError,
)
from spade_keras.networks import UnrolledPGD, priors
from spade_keras.operators import CartesianMRI
from spade_keras.pipeline import join_search, search_model
from spade_keras.pipeline.closing import front_panels, picture_of_any
from spade_keras.pipeline.search_folder import RESULTS, announce, read_announced
from spade_keras.search import OutputAgreement, SearchOptions
from spade_keras.search.finalists import PROCESSES
from spade_keras.search.receipt import read_receipt
from spade_keras.search.replay import replay
from spade_keras.search.user_code import import_module, load_function
from spade_keras.tasks import SearchJob
from spade_keras.tasks.model_inputs import load_data
from tests.parameter_clock import ParameterClock

TASK = """
import keras, numpy as np

def data():
    return np.load("data.npz")["x"]

def evaluate(model):
    return model.count_params()

def finetune(slim, full):
    slim.layers[-1].bias.assign(np.full(3, 7.0))

def broken(model):
    rows = {}
    return rows["accuracy"]

def not_a_number(model):
    return float("nan")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2), name="image"),
            layers.Conv2D(16, 3, name="first"),
            layers.Conv2D(8, 3, name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="last"),
        ]
    )
    model.save(folder / "model.keras")
    inputs = np.random.default_rng(0).standard_normal((5, 6, 6, 2)).astype("float32")
    np.savez(folder / "data.npz", x=inputs, y=np.zeros(5))
    (folder / "search_task.py").write_text(TASK)
    return folder


@pytest.fixture
def job(saved, monkeypatch):
    monkeypatch.chdir(saved)
    return make_job()


def make_job(budget=0.6, **options):
    return SearchJob.of("model.keras", "data.npz", make_options(budget, **options))


def make_options(budget=0.6, **options):
    quick = {"trials": 8, "width_multiple": 2, "staircase": False, "safety_margin": 0.0}
    return SearchOptions.of(budget, **{**quick, "finalists": 1, **options})


def changed(job, **fields):
    """The job with other fields of its own or of its options."""
    own = {name: value for name, value in fields.items() if name in SearchJob.model_fields}
    options = {name: value for name, value in fields.items() if name not in own}
    return job.model_copy(update={**own, "options": job.options.model_copy(update=options)})


@pytest.fixture
def clock(monkeypatch):
    clock = ParameterClock()
    monkeypatch.setattr(search, "interleaved_timer", clock.timer)
    monkeypatch.setattr("spade_keras.latency.compare_in_fresh_process", clock.compare)
    monkeypatch.setattr("spade_keras.report.write_search_report", write_no_figures)
    return clock


def write_no_figures(folder, findings, **options):
    """Stands in for the report, whose figures take seconds."""
    (folder / "report.html").write_text("")


@pytest.fixture
def console():
    return Console(record=True, quiet=False, file=open("/dev/null", "w"), width=200)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in RESULTS}


class TestSearch:
    def test_leaves_a_slim_model_with_a_receipt_that_speaks_of_it(
        self, job, clock, console, tmp_path
    ):
        found = search_model(job, tmp_path / "out", console)
        assert len(found.trials) == 8
        assert contents(tmp_path / "out").keys() == set(RESULTS) - {"report.json"}
        receipt = read_receipt(tmp_path / "out" / "receipt.json")
        slim = keras.saving.load_model(tmp_path / "out" / "slim.keras")
        full = keras.saving.load_model("model.keras")
        assert receipt.holds
        assert receipt.comparison.ratio.value == slim.count_params() / full.count_params()
        assert receipt.plan.widths["first"] == slim.get_layer("first").filters
        assert receipt.configuration == found.best.configuration
        kept = json.loads((tmp_path / "out" / "search.json").read_text())
        assert search.SearchResult.from_dict(kept["result"]).best == found.best
        assert [finalist["trial"] for finalist in kept["finalists"]] == [found.best.number]
        # Agreement alone, since no function scores: the best is that of the closest outputs.
        agreement = OutputAgreement(full, np.load("data.npz")["x"])
        assert found.best.quality == pytest.approx(agreement(slim), rel=1e-4)
        assert f"{found.quality_name} 120" in console.export_text()

    def test_goes_on_where_it_was_and_measures_nothing_twice(self, job, clock, console, tmp_path):
        first = search_model(job, tmp_path / "out", console)
        timed, before = clock.timed, contents(tmp_path / "out")
        more = changed(job, trials=10)
        again = search_model(more, tmp_path / "out", console)
        assert again.trials[:8] == first.trials
        assert len(again.trials) == 10
        assert clock.timed <= timed + 8  # two trials, the finalist again, and five wider ones
        assert before.keys() == contents(tmp_path / "out").keys()

    def test_refuses_a_folder_of_something_else(self, job, clock, console, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(JobMismatchError, match=r"new or empty folder.*notes\.txt"):
            search_model(job, tmp_path, console)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
        search_model(job, tmp_path / "out", console)
        before = contents(tmp_path / "out")
        for other, difference in (
            (make_job(budget=0.7), "budget was 0.6"),
            (changed(job, evaluate="search_task:evaluate"), "evaluate was None"),
            (changed(job, data_sha256="0"), "data_sha256"),
        ):
            with pytest.raises(JobMismatchError, match=difference):
                search_model(other, tmp_path / "out", console)
        assert contents(tmp_path / "out") == before

    def test_what_misses_the_budget_in_a_fresh_process_is_not_taken(
        self, job, clock, console, tmp_path
    ):
        search_model(job, tmp_path / "out", console)
        assert (tmp_path / "out" / "receipt.json").exists()
        clock.slowdown = 1000.0
        clock.compared.clear()
        with pytest.raises(BudgetNotMetError, match=r"in fresh processes: trial \d+ took"):
            search_model(job, tmp_path / "out", console)
        kept = json.loads((tmp_path / "out" / "search.json").read_text())
        found = search.SearchResult.from_dict(kept["result"])
        numbers = [trial.number for trial in found.contenders]
        # One after the other; a widened one, then as the search found it.
        assert list(dict.fromkeys(f["trial"] for f in kept["finalists"])) == numbers
        assert set(numbers) == {trial.number for trial in found.ranking}
        assert not any(finalist["accepted"] for finalist in kept["finalists"])
        # What an earlier end of the search left speaks of it no more.
        assert set(contents(tmp_path / "out")) == {"search.json", "report.html"}

    def test_finalists_are_fine_tuned_and_the_best_of_them_is_taken(
        self, job, clock, console, tmp_path
    ):
        functions = {"evaluate": "search_task:evaluate", "finetune": "search_task:finetune"}
        found = search_model(changed(job, finalists=2, **functions), tmp_path / "out", console)
        kept = json.loads((tmp_path / "out" / "search.json").read_text())["finalists"]
        assert [finalist["accepted"] for finalist in kept] == [True]
        slim = keras.saving.load_model(tmp_path / "out" / "slim.keras")
        np.testing.assert_array_equal(slim.layers[-1].bias, 7.0)
        assert slim.count_params() == found.best.quality == kept[0]["quality"]
        assert len(clock.compared) == PROCESSES  # the better one met the budget as it ships
        assert clock.compared[0]["imports"] == ("spade_keras.networks",)

    def test_an_earlier_search_is_a_warm_start(self, job, clock, console, tmp_path):
        earlier = search_model(job, tmp_path / "earlier", console)
        job = changed(job, seeds=())
        found = search_model(
            changed(job, warm_start=str(tmp_path / "earlier")), tmp_path / "out", console
        )
        warm = [t.configuration for t in found.trials if t.origin == "warm start"]
        assert warm == [t.configuration for t in earlier.ranking[: len(warm)]]
        assert warm
        with pytest.raises(ValueError, match="`warm_start` must be the folder of a finished"):
            search_model(
                changed(job, warm_start=str(tmp_path / "absent")), tmp_path / "other", console
            )
        assert not (tmp_path / "other").exists()

    def test_the_front_is_searched_when_asked_for(self, job, clock, console, tmp_path):
        found = search_model(changed(job, pareto=True), tmp_path / "out", console)
        over = [trial for trial in found.trials if trial.state == "infeasible"]
        assert over and all(trial.quality is not None for trial in over)

    def test_a_killed_result_is_cleared_away(self, job, clock, console, tmp_path):
        search_model(job, tmp_path / "out", console)
        (tmp_path / "out" / ".attempt-results").mkdir()
        (tmp_path / "out" / ".attempt-results" / "slim.keras").touch()
        search_model(job, tmp_path / "out", console)
        assert not list((tmp_path / "out").glob(".attempt-*"))


def test_depth_ranks_and_precision_are_searched_and_replayed_from_the_receipt(
    clock, console, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    network = UnrolledPGD(CartesianMRI(), priors.dncnn(filters=[8, 8]), iterations=3)
    network.save("network.keras")
    images = np.random.default_rng(0).uniform(size=(2, 8, 8)).astype("float32")
    np.savez("slices.npz", **data.simulate_multicoil(images, coils=2, acs_lines=2).inputs)
    joint = {"iterations": (1, 2), "dtypes": ("bfloat16",), "ranks": True, "width_multiple": 4}
    options = make_options(0.9, trials=20, **joint)
    job = SearchJob.of("network.keras", "slices.npz", options, evaluate="joint_task:evaluate")
    (tmp_path / "joint_task.py").write_text(
        "def evaluate(network):\n"
        "    reduced = network.prior.layers[1].compute_dtype == 'bfloat16'\n"
        "    layers = len(network.prior.layers)  # pairs count twice\n"
        "    return 10.0 * (3 - network.iterations) + 15.0 * layers + reduced\n"
    )
    found = search_model(job, "out", console)
    assert found.space.iterations == (1, 2, 3)
    panels = front_panels(network, found, picture_of_any(network, dict(np.load("slices.npz"))))
    assert [panel.trial.quality for panel in panels] == [trial.quality for trial in found.front]
    assert all(panel.image.shape == panel.error.shape == (8, 8) for panel in panels)
    assert max(panel.error.max() for panel in panels) > 0
    assert found.space.dtypes == ("float32", "bfloat16")
    receipt = read_receipt("out/receipt.json")
    slim = keras.saving.load_model("out/slim.keras", compile=False)
    assert slim.iterations == receipt.configuration.iterations < 3
    pairs = len(slim.prior.layers) - len(network.prior.layers)
    assert 0 < pairs == len(receipt.configuration.ranks)
    assert receipt.fingerprint["inputs"][0]["shape"][0] == 1
    made = []

    def compare(full, slim, inputs, **options):
        made.append(keras.saving.load_model(slim, compile=False))
        assert {name: array.shape for name, array in inputs.items()} == {
            entry["name"]: tuple(entry["shape"]) for entry in receipt.fingerprint["inputs"]
        }
        return clock.compare(full, slim, inputs, **options)

    assert replay(receipt, "network.keras", compare=compare).holds
    assert made[0].iterations == slim.iterations
    for rebuilt, shipped in zip(made[0].weights, slim.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (rebuilt, shipped)))
    dtypes = [[layer.compute_dtype for layer in m.prior.layers] for m in (made[0], slim)]
    assert dtypes[0] == dtypes[1]
    assert ("bfloat16" in dtypes[0]) == (receipt.configuration.dtype == "bfloat16")


@pytest.mark.once
def test_a_front_of_answers_that_are_no_images_has_no_pictures(saved):
    model = keras.saving.load_model(saved / "model.keras")
    found = search.SearchResult(search.LatencyBudget(0.5), (), "agreement")
    draw = picture_of_any(model, np.load(saved / "data.npz")["x"])
    assert front_panels(model, found, draw) == [] and draw(model) is None


@pytest.mark.once
class TestWorkers:
    def test_a_worker_needs_the_study_alone(self, job, clock, console, tmp_path):
        storage = str(tmp_path / "study.journal")
        search_model(changed(job, storage=storage), tmp_path / "out", console, name="mine")
        opened = search.open_storage(storage)
        announced = read_announced(opened, "mine")
        more = changed(announced, trials=11)
        announce(opened, "mine", more)
        found = join_search(storage, "mine", console)
        assert len(found.trials) == 11
        assert found.space.as_dict() == announced.space

    def test_a_worker_refuses_other_files_and_unknown_studies(
        self, job, clock, console, tmp_path, saved
    ):
        storage = str(tmp_path / "study.journal")
        search_model(changed(job, storage=storage), tmp_path / "out", console)
        with pytest.raises(SpadeError, match="`--study` must name a study"):
            join_search(storage, "absent", console)
        with pytest.raises(JobMismatchError, match="`--model` must be the model"):
            join_search(storage, "search", console, model=tmp_path / "out" / "slim.keras")
        np.savez(tmp_path / "other.npz", x=np.zeros((2, 6, 6, 2)))
        with pytest.raises(JobMismatchError, match="`--data` must be the file"):
            join_search(storage, "search", console, data=str(tmp_path / "other.npz"))
        moved = tmp_path / "moved.keras"
        moved.write_bytes((saved / "model.keras").read_bytes())
        assert len(join_search(storage, "search", console, model=moved).trials) == 8

    def test_a_worker_on_another_device_is_refused_unless_told_to_mix(
        self, job, clock, console, tmp_path, monkeypatch
    ):
        storage = str(tmp_path / "study.journal")
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        search_model(changed(job, storage=storage), tmp_path / "out", console)
        monkeypatch.setenv("OMP_NUM_THREADS", "17")
        with pytest.raises(SpadeError, match=r"OMP_NUM_THREADS was .+, is 17.*--mix-devices"):
            join_search(storage, "search", console)
        assert len(join_search(storage, "search", console, mix_devices=True).trials) == 8

    def test_another_study_is_not_taken_over(self, job, clock, console, tmp_path):
        storage = str(tmp_path / "study.journal")
        search_model(changed(job, storage=storage), tmp_path / "out", console)
        with pytest.raises(JobMismatchError, match=r"The study 'search'.*budget was 0.6"):
            search_model(make_job(0.7, storage=storage), tmp_path / "more", console)


@pytest.mark.once
class TestUserFunctions:
    def test_errors_are_told_before_anything_is_timed(self, job, clock, console, tmp_path):
        def search_with(**options):
            search_model(changed(job, **options), tmp_path / "out", console)

        with pytest.raises(UserCodeError, match="KeyError: 'accuracy'") as broken:
            search_with(evaluate="search_task:broken")
        assert 'return rows["accuracy"]' in str(broken.value)
        assert "search_task.py" in str(broken.value)
        assert len(str(broken.value).splitlines()) < 8
        with pytest.raises(UserFunctionError, match="one finite real number"):
            search_with(evaluate="search_task:not_a_number")
        assert clock.timed == 0

    def test_modules_and_functions_that_are_missing_are_named(self, saved, tmp_path):
        with pytest.raises(UserFunctionError, match="no module 'absent_task'"):
            load_function("absent_task:evaluate", argument="--evaluate", folder=saved)
        with pytest.raises(UserFunctionError, match=r"no 'evalute'.*'evaluate'"):
            load_function("search_task:evalute", argument="--evaluate", folder=saved)
        with pytest.raises(UserFunctionError, match="must read module:function"):
            load_function("search_task", argument="--evaluate", folder=saved)
        with pytest.raises(UserFunctionError, match="no module 'absent_layers'"):
            import_module("absent_layers", folder=saved)
        (tmp_path / "needs_more.py").write_text("import absent_dependency\n")
        with pytest.raises(UserCodeError, match="No module named 'absent_dependency'"):
            import_module("needs_more", folder=tmp_path)
        (tmp_path / "raises.py").write_text("1 / 0\n")
        with pytest.raises(UserCodeError, match="ZeroDivisionError") as raised:
            load_function("raises:evaluate", argument="--evaluate", folder=tmp_path)
        assert "raises.py" in str(raised.value) and "importlib" not in str(raised.value)


@pytest.mark.once
class TestData:
    @pytest.fixture(scope="class")
    def model(self, saved):
        return keras.saving.load_model(saved / "model.keras")

    @pytest.fixture(scope="class")
    def two_inputs(self):
        a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
        return keras.Model([a, b], keras.layers.Concatenate()([a, b]))

    def write(self, folder, **arrays):
        np.savez(folder / "given.npz", **arrays)
        return "given.npz"

    def test_the_only_input_may_have_any_name(self, model, tmp_path):
        images = np.zeros((4, 6, 6, 2))
        for names in ({"x": images, "y": np.arange(4)}, {"image": images}, {"photos": images}):
            inputs, targets = load_data(self.write(tmp_path, **names), model, folder=tmp_path)
            assert keras.tree.flatten(inputs)[0].shape == images.shape
            assert (targets is not None) == ("y" in names)
        with pytest.raises(ValueError, match=r"only input as `x` or '.*'.*p, q"):
            load_data(self.write(tmp_path, p=images, q=images), model, folder=tmp_path)

    def test_several_inputs_go_by_name(self, two_inputs, tmp_path):
        a, b = np.zeros((4, 3)), np.ones((4, 2))
        inputs, _ = load_data(self.write(tmp_path, b=b, a=a), two_inputs, folder=tmp_path)
        assert [array.shape for array in inputs] == [(4, 3), (4, 2)]
        with pytest.raises(ValueError, match="missing: b"):
            load_data(self.write(tmp_path, a=a), two_inputs, folder=tmp_path)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"x": np.zeros((0, 6, 6, 2))}, "at least one"),
            ({"x": np.zeros((4, 6, 6, 2)), "y": np.zeros(3)}, r"equally many.*\[3, 4\]"),
            ({"x": np.full((4, 6, 6, 2), np.nan)}, "288 NaN or infinite"),
            ({"x": np.array([["a"]] * 4)}, "must give numbers"),
        ],
    )
    def test_unusable_arrays_are_refused(self, model, tmp_path, arrays, message):
        with pytest.raises(ValueError, match=message):
            load_data(self.write(tmp_path, **arrays), model, folder=tmp_path)

    def test_functions_give_data_too(self, model, saved, monkeypatch):
        monkeypatch.chdir(saved)
        inputs, targets = load_data("search_task:data", model, folder=saved)
        assert inputs.shape == (5, 6, 6, 2) and targets is None

    def test_arrays_that_do_not_fit_the_model_are_refused(self, job, clock, console, tmp_path):
        np.savez(tmp_path / "wrong.npz", x=np.zeros((2, 6, 6, 5)))
        wrong = SearchJob.of("model.keras", str(tmp_path / "wrong.npz"), job.options)
        with pytest.raises(ValueError, match=r"must fit the model.*\(1, 6, 6, 5\)"):
            search_model(wrong, tmp_path / "out", console)


@pytest.mark.once
@pytest.mark.alone
class TestInterruption:
    def test_once_ends_after_the_trial_and_the_search_goes_on_later(
        self, job, clock, console, tmp_path, monkeypatch
    ):
        seen = []

        def evaluate(model):
            if len(seen) == 3:
                signal.raise_signal(signal.SIGINT)
                # The next one is left to the system, which ends the process at once.
                seen.append(signal.getsignal(signal.SIGINT))
            seen.append(model.count_params())
            return float(seen[-1])

        monkeypatch.setitem(sys.modules, "ctrl_c_task", type(sys)("ctrl_c_task"))
        sys.modules["ctrl_c_task"].evaluate = evaluate
        job = changed(job, evaluate="ctrl_c_task:evaluate", trials=6)
        with pytest.raises(KeyboardInterrupt):
            search_model(job, tmp_path / "out", console)
        assert seen[3] is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert not contents(tmp_path / "out")
        found = search_model(job, tmp_path / "out", console)
        counts = found.counts()
        assert counts["total"] == 6 and counts["failed"] == 0

    def test_twice_ends_at_once(self):
        code = """
        import time
        from spade_keras.pipeline.progress import Interruption
        with Interruption() as asked:
            print("ready", flush=True)
            while not asked.requested:
                time.sleep(0.01)
            print("asked", flush=True)
            time.sleep(60)
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert process.returncode == -signal.SIGINT
        assert "Ctrl-C again stops at once" in said


@pytest.mark.once
class TestOptimize:
    @pytest.fixture
    def model(self, saved):
        return keras.saving.load_model(saved / "model.keras")

    @pytest.fixture
    def inputs(self, saved):
        return np.load(saved / "data.npz")["x"]

    quick = {"trials": 6, "width_multiple": 2, "staircase": False, "verbose": False}  # noqa: RUF012

    def test_a_model_in_memory_goes_through_the_whole_loop(self, model, inputs, clock, tmp_path):
        tuned = []
        found = optimize(
            model,
            budget="0.6",
            data=inputs,
            evaluate=lambda candidate: candidate.count_params(),
            finetune=lambda slim, full: tuned.append((slim, full)),
            **self.quick,
        )
        assert found.receipt.holds and found.receipt.plan == found.plan
        assert found.model.count_params() <= 0.6 * model.count_params()
        assert found.model.get_layer("first").filters == found.plan.widths["first"]
        assert 1 <= len(tuned) <= 3 and all(full is model for _, full in tuned)
        rebuilt = found.build()
        for ours, theirs in zip(rebuilt.weights, found.model.weights, strict=True):
            np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (ours, theirs)))
        assert found.report(tmp_path / "page.html").exists()

    def test_a_folder_keeps_it_and_lets_it_go_on(self, model, inputs, clock, tmp_path):
        folder = tmp_path / "found"
        first = optimize(model, 0.6, data=inputs, folder=folder, **self.quick)
        assert {"slim.keras", "receipt.json", "search.json"} <= set(contents(folder))
        more = {**self.quick, "trials": 8}
        again = optimize(model, 0.6, data=inputs, folder=folder, **more)
        assert again.result.trials[:6] == first.result.trials
        with pytest.raises(JobMismatchError, match="data_sha256"):
            optimize(model, 0.6, data=inputs[:2], folder=folder, **more)

    def test_the_best_configuration_is_built_with_everything_it_chose(self, clock, inputs):
        keras.utils.set_random_seed(0)
        layers = [keras.Input((6, 6, 2)), keras.layers.Conv2D(8, 3), keras.layers.Conv2D(8, 3)]
        model = keras.Sequential([*layers, keras.layers.Conv2D(2, 1)])
        budget = search.LatencyBudget(0.9, dtype="bfloat16", safety_margin=0.0)
        found = optimize(model, budget, data=inputs, ranks=True, **self.quick)
        built = found.build()
        assert built.count_params() == found.model.count_params()
        assert built.layers[0].compute_dtype == "bfloat16"
        assert [x.shape for x in built.weights] == [x.shape for x in found.model.weights]
        assert found.result.build(model).count_params() > 0

    def test_a_short_fine_tuning_needs_a_function(self, model, inputs, clock):
        with pytest.raises(ValueError, match="only with `finetune`"):
            optimize(model, 0.6, data=inputs, objective="short_finetune", **self.quick)

    @pytest.mark.parametrize("objective", ["kept_importance", "short_finetune", None])
    def test_what_is_maximized(self, model, inputs, clock, objective):
        found = optimize(
            model,
            0.6,
            data=inputs,
            objective=objective or search.UserFunction(lambda candidate: candidate.count_params()),
            finetune=(lambda slim, full: None) if objective == "short_finetune" else None,
            **{**self.quick, "trials": 3, "seeds": ("uniform",)},
        )
        expected = {
            "kept_importance": "share of importance kept",
            "short_finetune": "agreement with the full model (signal to error, dB) after fine",
            None: "TestOptimize",
        }[objective]
        assert found.result.quality_name.startswith(expected)
