"""Many workers on one study: no trial lost, none twice, none too many, whoever is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from spade_keras import latency
from spade_keras.errors import StorageError
from spade_keras.search import workers
from spade_keras.search.storage import open_storage
from spade_keras.search.workers import join

pytestmark = [
    pytest.mark.alone,
    pytest.mark.once,
    pytest.mark.filterwarnings("ignore:Heartbeat of storage"),  # a test asks as a kill leaves it
]

TRIALS = 10


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture(params=["memory", "journal", "postgresql", "proxy"])
def storage(request, tmp_path):
    return open_storage(
        {
            "memory": lambda: None,
            "journal": lambda: tmp_path / "study.journal",
            "postgresql": lambda: request.getfixturevalue("postgresql"),
            "proxy": lambda: request.getfixturevalue("proxy"),
        }[request.param](),
        heartbeat_s=1,
        grace_s=2,
    )


@pytest.fixture
def study(storage, request):
    return optuna.create_study(
        storage=storage, study_name=request.node.name, directions=["maximize"]
    )


def states(study):
    return [trial.state.name for trial in study.get_trials()]


def draw(trial):
    return trial.suggest_float("x", 0, 1)


def run(study, worker, trials, objective=draw, **options):
    while (trial := worker.claim(study, trials, poll_s=0.01)) is not None:
        worker.work(study, trial, objective, **options)


def recover(worker, study):
    """Numbers of the trials that a claim ends, without taking one."""
    running = {t.number for t in study.get_trials() if t.state == TrialState.RUNNING}
    assert worker.claim(study, 0, stop=iter([False, True]).__next__, poll_s=0) is None
    return [t.number for t in study.get_trials() if t.number in running and t.state.is_finished()]


def test_workers_together_end_with_the_trials_asked_for(study, storage):
    """Threads with a worker each: between a look and a start there is always another one."""

    def go():
        own = optuna.load_study(study_name=study.study_name, storage=storage)
        with join(storage) as worker:
            run(own, worker, 9)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states(study) == ["COMPLETE"] * 9


def test_seeds_are_enqueued_once(study, storage):
    calls = []

    def enqueue():
        calls.append(1)
        time.sleep(0.05)
        study.enqueue_trial({"x": 0.5}, skip_if_exists=True)

    def go():
        own = optuna.load_study(study_name=study.study_name, storage=storage)
        with join(storage) as worker:
            worker.seed_once(own, enqueue)
            assert len(own.get_trials()) == 1  # whoever did it, it is done

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(calls), states(study)) == (1, ["WAITING"])


def test_seeding_that_was_broken_off_is_done_again(study, storage):
    def broken():
        study.enqueue_trial({"x": 0.25}, skip_if_exists=True)
        raise KeyboardInterrupt

    def whole():
        for x in (0.25, 0.5):
            study.enqueue_trial({"x": x}, skip_if_exists=True)

    with join(storage) as worker:
        with pytest.raises(KeyboardInterrupt):
            worker.seed_once(study, broken)
        worker.seed_once(study, whole)
    fixed = [trial.system_attrs["fixed_params"] for trial in study.get_trials()]
    assert fixed == [{"x": 0.25}, {"x": 0.5}]


def test_every_end_of_a_trial(study, storage):
    def nan(trial):
        draw(trial)
        return float("nan")

    def rejected(trial):
        trial.set_constraint("latency", 1.0)
        raise optuna.TrialPruned

    def breaks(trial):
        draw(trial)
        raise ZeroDivisionError("the user's own")

    with join(storage) as worker:
        ends = [
            worker.work(study, worker.claim(study, 9), objective, catch=(ZeroDivisionError,))
            for objective in (draw, nan, rejected, breaks)
        ]
        with pytest.raises(ZeroDivisionError, match="the user's own"):
            worker.work(study, worker.claim(study, 9), breaks)
        assert recover(worker, study) == []
    assert [t.state.name for t in ends] == ["COMPLETE", "FAIL", "PRUNED", "FAIL"]
    assert ends[1].user_attrs["reason"] == "The value must be finite. Received: nan"
    assert ends[3].user_attrs["reason"] == "ZeroDivisionError: the user's own"
    assert {t.user_attrs["worker"] for t in ends} == {worker.name}
    # Failures with a reason are not tried again.
    assert not any("retry_of" in trial.user_attrs for trial in study.get_trials())
    assert states(study) == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL"]


def test_an_interrupted_trial_is_tried_again_however_often(study, storage):
    def interrupted(trial):
        draw(trial)
        raise KeyboardInterrupt

    study.enqueue_trial({"x": 0.5}, user_attrs={"origin": "seed"})
    with join(storage) as worker:
        for _ in range(workers.MAX_RETRIES + 2):
            with pytest.raises(KeyboardInterrupt):
                worker.work(study, worker.claim(study, 1), interrupted)
        run(study, worker, 1)
    last = study.get_trials()[-1]
    assert (last.state.name, last.value, last.user_attrs["origin"]) == ("COMPLETE", 0.5, "seed")
    assert last.user_attrs["retry_of"] == workers.MAX_RETRIES + 1


def test_a_trial_that_nobody_owns_is_tried_again_and_lives_without_its_constraint(study, storage):
    """A kill between asking and naming leaves a trial without a worker and without a heartbeat."""
    study.enqueue_trial({"x": 0.5}, user_attrs={"origin": "seed"})
    orphan = study.ask()
    orphan.suggest_float("x", 0, 1)
    orphan.set_constraint("latency", 1.0)
    with join(storage) as worker:
        assert recover(worker, study) == [0]
        assert recover(worker, study) == []
        assert states(study) == ["FAIL", "WAITING"]
        retried = worker.claim(study, 1)
        done = worker.work(
            study, retried, lambda trial: (trial.set_constraint("latency", -1), draw(trial))[1]
        )
    assert (done.number, done.value, done.constraints) == (1, 0.5, {"latency": -1.0})
    assert done.user_attrs == {"origin": "seed", "retry_of": 0, "retries": 1, "worker": worker.name}


def test_a_trial_that_kills_every_worker_is_given_up(study, storage):
    study.enqueue_trial({"x": 0.5})
    with join(storage) as worker:
        for _ in range(workers.MAX_RETRIES + 1):
            draw(study.ask())
            recover(worker, study)
        assert states(study) == ["FAIL"] * (workers.MAX_RETRIES + 1)


def test_a_recovery_that_was_killed_is_finished_by_the_next(study, storage):
    draw(study.ask())
    study.tell(0, state=TrialState.FAIL)  # ended, and then killed before it was enqueued again
    with join(storage) as worker:
        recover(worker, study)
        recover(worker, study)
    assert states(study) == ["FAIL", "WAITING"]
    assert study.get_trials()[1].user_attrs == {"retry_of": 0, "retries": 1}


def test_the_living_are_not_disturbed(study, storage):
    with join(storage) as one, join(storage) as other:
        trial = one.claim(study, 1)
        draw(trial)
        assert recover(other, study) == []
        assert other.claim(study, 1, stop=iter([False, False, True]).__next__, poll_s=0.01) is None
        assert one.work(study, trial, draw).state == TrialState.COMPLETE
        assert other.claim(study, 1) is None


def test_who_was_given_up_for_dead_changes_nothing(study, storage):
    """A suspended worker wakes up after its trial was ended and enqueued again."""
    with join(storage) as worker:
        trial = worker.claim(study, 1)
        draw(trial)
        study.tell(trial.number, state=TrialState.FAIL)
        assert worker.work(study, trial, lambda trial: 1.0).state == TrialState.FAIL
        assert worker.work(study, trial, lambda t: t.set_user_attr("a", 1)).state == TrialState.FAIL
        assert recover(worker, study) == []
        assert states(study) == ["FAIL", "WAITING"]


def test_heartbeats_tell_the_living_from_the_dead(postgresql):
    """The clock is turned instead of waiting: every sign of life becomes an hour old."""
    storage = open_storage(postgresql, heartbeat_s=1, grace_s=60)
    study = optuna.create_study(storage=storage, study_name="heartbeats")
    hour_later = "UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'"

    def turn_clock():
        with storage.engine.begin() as connection:
            return connection.execute(sqlalchemy.text(hour_later)).rowcount

    def long(trial):
        draw(trial)
        assert turn_clock() > 0
        time.sleep(1.3)
        assert recover(other, study) == []
        return 1.0

    with join(storage) as one, join(storage) as other:
        assert one.work(study, one.claim(study, 9), long).state == TrialState.COMPLETE
        dead = one.claim(study, 9)
        draw(dead)
        assert recover(other, study) == []
        turn_clock()
        assert recover(other, study) == [dead.number]
        assert one.work(study, dead, lambda trial: 1.0).state == TrialState.FAIL
    assert study.get_trials()[-1].user_attrs["retry_of"] == dead.number


def test_heartbeats_through_a_proxy(proxy):
    storage = open_storage(proxy, heartbeat_s=0.1, grace_s=0.5)
    study = optuna.create_study(storage=storage, study_name="heartbeats through a proxy")

    def long(trial):
        draw(trial)
        for _ in range(5):
            time.sleep(0.2)
            assert recover(other, study) == []
        return 1.0

    with join(storage) as one, join(storage) as other:
        assert one.work(study, one.claim(study, 9), long).state == TrialState.COMPLETE
        dead = one.claim(study, 9)
        draw(dead)
        assert recover(other, study) == []
        time.sleep(0.6)
        assert recover(other, study) == [dead.number]
        assert one.work(study, dead, lambda trial: 1.0).state == TrialState.FAIL
    assert study.get_trials()[-1].user_attrs["retry_of"] == dead.number


def test_a_guard_whose_holder_was_killed_is_broken_after_the_grace_period(proxy):
    storage = open_storage(proxy, heartbeat_s=0.1, grace_s=0.5)
    with join(storage) as one, join(storage) as other:
        storage.create_new_study(one_direction := [optuna.study.StudyDirection.MINIMIZE], "@lock a")
        started = time.monotonic()
        with other.guard("a"):
            assert time.monotonic() - started > 0.5
            with pytest.raises(optuna.exceptions.DuplicatedStudyError):
                storage.create_new_study(one_direction, "@lock a")
        order = []

        def second():
            with one.guard("a"):
                order.append("second")

        with other.guard("a"):  # held for longer than the grace period, but alive
            thread = threading.Thread(target=second)
            thread.start()
            time.sleep(1)
            order.append("first")
        thread.join()
    assert order == ["first", "second"]


def test_workers_of_one_study_connect_alike(postgresql, proxy):
    direct, proxied = open_storage(postgresql), open_storage(proxy)
    study = optuna.create_study(storage=direct, study_name="alike")
    with join(direct) as worker:
        worker.seed_once(study, lambda: None)
    study = optuna.load_study(storage=proxied, study_name="alike")
    with join(proxied) as worker, pytest.raises(StorageError, match=r"'alike' connect .* directly"):
        worker.seed_once(study, lambda: None)


def test_transactions_of_a_trial(postgresql):
    """Optuna's own storage makes 26 for the same trial."""
    storage = open_storage(postgresql)
    study = optuna.create_study(storage=storage, study_name="transactions")
    begun = []
    sqlalchemy.event.listen(storage.engine, "begin", begun.append)

    def objective(trial):
        for key in ("origin", "configuration"):
            x = [trial.suggest_int(f"x{i}", 0, 9) for i in range(4)]
            trial.set_user_attr(key, x)
        stored = optuna.load_study(study_name="transactions", storage=open_storage(postgresql))
        assert stored.get_trials()[-1].params == trial.params  # before the costly part of a trial
        trial.set_user_attr("timing", {})
        trial.set_constraint("latency", -1)
        trial.report(0.5, 1)
        assert not trial.should_prune()
        trial.set_user_attr("seconds", {})
        return sum(x)

    with join(storage) as worker:
        for _ in range(3):
            begun.clear()
            done = worker.work(study, worker.claim(study, 9), objective)
    assert len(begun) <= 11
    assert done.user_attrs.keys() == {"worker", "origin", "configuration", "timing", "seconds"}
    assert (done.constraints, done.intermediate_values) == ({"latency": -1}, {1: 0.5})
    fresh = optuna.load_study(study_name="transactions", storage=open_storage(postgresql))
    assert fresh.get_trials()[-1] == done


@pytest.fixture(scope="module", autouse=True)
def crew(tmp_path_factory):
    """Starts workers that run `search.run` in processes of their own.

    For every test: its imports take seconds, in which the other tests run.
    """
    cache = tmp_path_factory.mktemp("cache")
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "KERAS_BACKEND": "tensorflow"}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("crew.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )

    def start(**job):
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield start, cache
    process.kill()
    process.wait()


def wait_until(condition, what, timeout_s=60):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def is_running(pid):
    return Path(f"/proc/{pid}/stat").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["journal", "postgresql", "proxy"])
def test_kill_one_of_three_in_the_middle_of_a_trial(kind, crew, request, tmp_path, monkeypatch):
    start, cache = crew
    url = str(tmp_path / "s.journal") if kind == "journal" else request.getfixturevalue(kind)
    marker = tmp_path / "inside"
    job = {"storage": url, "name": f"crew {kind}", "trials": TRIALS}
    victim = start(**job, hangs_at=str(marker))
    wait_until(marker.exists, "the victim is inside a quality")
    others = [start(**job, hangs_at=None) for _ in range(2)]
    study = optuna.load_study(study_name=job["name"], storage=open_storage(url))
    try:
        # The others are at their timing, for which the victim holds the device.
        wait_until(lambda: Counter(states(study))["RUNNING"] == 3, "three trials at once")
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        with pytest.raises(latency.DeviceBusyError, match=str(victim)), latency.device_lock(0.01):
            pass
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, others)), "the others come to an end")
    finally:
        for pid in filter(is_running, [victim, *others]):
            os.kill(pid, signal.SIGKILL)
    with latency.device_lock(timeout_s=1):
        pass
    trials = study.get_trials()
    ended = Counter(trial.state.name for trial in trials)
    assert ended["COMPLETE"] + ended["PRUNED"] == TRIALS
    assert (ended["FAIL"], len(trials)) == (1, TRIALS + 1)
    lost = next(trial for trial in trials if trial.state == TrialState.FAIL)
    again = [trial for trial in trials if trial.user_attrs.get("retry_of") == lost.number]
    assert f"-{victim}-" in lost.user_attrs["worker"]
    assert [trial.params for trial in again] == [lost.params]
    assert again[0].state == TrialState.COMPLETE
    assert {t.user_attrs["worker"].split("-")[-2] for t in trials} == set(
        map(str, [victim, *others])
    )
    assert list(tmp_path.glob("*.worker")) == []
