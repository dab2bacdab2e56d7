"""Stage folders: complete or absent, skipped when unchanged, whatever moment a process dies at."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from spade_keras.errors import SpadeError
from spade_keras.files import write_bytes_atomic, write_json_atomic
from spade_keras.pipeline.run_folder import RECORD, Stages

pytestmark = pytest.mark.once

# Three chained stages; each writes three files of one number and logs that it was made. The first
# argument is the run folder, the second the log, the third the system call to die at (0: none).
RUN = """
import os, signal, sys, time
from pathlib import Path

folder, log, fatal, pause = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
calls = 0

def dying(function):
    def call(*args, **kwargs):
        global calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

for name in ("rename", "replace", "fsync", "mkdir", "rmdir", "unlink"):
    setattr(os, name, dying(getattr(os, name)))

from spade_keras.files import write_json_atomic
from spade_keras.pipeline.run_folder import Stages

def make(number):
    def fill(at):
        for part in "abc":
            with open(at / part, "w") as file:
                for _ in range(20):
                    file.write(str(number))
                    file.flush()
                    time.sleep(pause)
        with open(log, "a") as file:
            print(number, file=file)
    return fill

with Stages(folder) as stages:
    stages.run("one", {"n": 1}, make(1))
    stages.run("two", {"n": 2}, make(2), after=["one"])
    stages.run("three", {"n": 3}, make(3), after=["two"])
    write_json_atomic(folder / "metrics.json", {"numbers": [1, 2, 3]})
"""
NUMBERS = {"one": "1", "two": "2", "three": "3"}


def start(folder, log, fatal=0, pause=0.0):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(folder), str(log), str(fatal), str(pause)]
    )


def assert_whole_or_absent(folder):
    """Every stage that can be seen is complete; so is the file written beside them."""
    for name, number in NUMBERS.items():
        stage = folder / name
        if stage.exists():
            assert json.loads((stage / RECORD).read_text())["name"] == name
            for part in "abc":
                assert (stage / part).read_text() == number * 20
    metrics = folder / "metrics.json"
    if metrics.exists():
        assert json.loads(metrics.read_text()) == {"numbers": [1, 2, 3]}


def assert_finished(folder):
    assert_whole_or_absent(folder)
    visible = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert visible == {*NUMBERS, "metrics.json"}
    hidden = {path.name for path in folder.iterdir()} - visible
    assert hidden <= {".lock"}


@pytest.mark.alone
def test_death_at_every_system_call(tmp_path):
    log = tmp_path / "log"
    fatal = 0
    while True:
        fatal += 1
        folder = tmp_path / f"run{fatal}"
        died = start(folder, log, fatal).wait() == -signal.SIGKILL
        if folder.exists():
            assert_whole_or_absent(folder)
        if not died:
            break
        assert start(folder, log).wait() == 0
        assert_finished(folder)
    assert fatal > 15


@pytest.mark.alone
def test_death_at_random_moments_never_loses_a_finished_stage(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "run"
    moments = random.Random(3)
    finished: set[str] = set()
    kills = 0
    for _ in range(40):
        process = start(folder, log, pause=0.002)
        try:
            code = process.wait(timeout=moments.uniform(0.1, 0.35))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            if folder.exists():
                assert_whole_or_absent(folder)
                seen = {name for name in NUMBERS if (folder / name / RECORD).exists()}
                assert finished <= seen
                finished = seen
        else:
            assert code == 0
            break
    assert_finished(folder)
    assert kills >= 2
    # A stage is made again only if it died between its last line and its rename.
    made = log.read_text().split()
    assert set(made) == {"1", "2", "3"}
    assert len(made) <= 3 + kills


class Counter:
    """A `make` that counts its calls and writes one file."""

    def __init__(self, text="x"):
        self.calls = 0
        self.text = text

    def __call__(self, folder: Path):
        self.calls += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text(self.text)


def test_a_finished_stage_is_skipped_while_its_inputs_are_the_same(tmp_path):
    make = Counter()
    stages = Stages(tmp_path / "runs" / "a")
    first = stages.run("train", {"epochs": 3, "data": {"path": Path("x")}}, make)
    again = Stages(tmp_path / "runs" / "a").run(
        "train", {"data": {"path": Path("x")}, "epochs": 3}, make
    )
    assert first == again == tmp_path / "runs" / "a" / "train"
    assert make.calls == 1
    stages.run("train", {"epochs": 4, "data": {"path": Path("x")}}, make)
    assert make.calls == 2
    assert stages.is_done("train", {"epochs": 4, "data": {"path": Path("x")}})
    assert not stages.is_done("train", {"epochs": 3, "data": {"path": Path("x")}})


@pytest.mark.parametrize(
    ("before", "now"),
    [(1, 2), (1, "1"), (True, 1), ([1, 2], [2, 1]), (0.1, 0.1 + 1e-16), (None, 0)],
)
def test_different_inputs_are_told_apart(tmp_path, before, now):
    stages, make = Stages(tmp_path), Counter()
    stages.run("a", {"value": before}, make)
    assert stages.is_done("a", {"value": now}) == (before == now and type(before) is type(now))


def test_numpy_and_tuples_may_be_inputs(tmp_path):
    stages, make = Stages(tmp_path), Counter()
    stages.run("a", {"x": np.arange(3), "y": np.float32(0.5), "z": (1, 2)}, make)
    assert stages.is_done("a", {"x": [0, 1, 2], "y": 0.5, "z": [1, 2]})
    with pytest.raises(TypeError, match="`object` cannot be written as JSON"):
        stages.run("b", {"x": object()}, make)
    assert make.calls == 1


def test_what_was_made_from_a_stage_goes_with_it(tmp_path):
    stages = Stages(tmp_path)
    makes = {name: Counter() for name in ("data", "train", "search", "other")}

    def run(seed):
        stages.run("data", {"seed": seed}, makes["data"])
        stages.run("train", {}, makes["train"], after=["data"])
        stages.run("search", {}, makes["search"], after=["train"])
        stages.run("other", {}, makes["other"])

    run(0)
    run(0)
    assert [make.calls for make in makes.values()] == [1, 1, 1, 1]

    def fail(folder):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        stages.run("data", {"seed": 1}, fail)
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == ["other"]
    run(1)
    assert [make.calls for make in makes.values()] == [2, 2, 2, 1]


def test_a_stage_made_anew_from_the_same_inputs_makes_its_successors_anew(tmp_path):
    stages, first, second = Stages(tmp_path), Counter(), Counter()
    for _ in range(2):
        stages.run("first", {}, first)
        stages.run("second", {}, second, after=["first"])
        (tmp_path / "first" / "deep" / "file").unlink()
    assert (first.calls, second.calls) == (2, 2)


def test_a_stage_that_reads_other_stages_is_made_anew(tmp_path):
    stages, make = Stages(tmp_path), Counter()
    for name in ("data", "train"):
        stages.run(name, {}, Counter())
    for after in (["data"], ["data"], ["data", "train"], ["train"]):
        stages.run("search", {}, make, after=after)
    assert make.calls == 3


def test_a_damaged_stage_is_made_again(tmp_path):
    stages, make = Stages(tmp_path), Counter("four")
    at = stages.run("a", {}, make)
    (at / "deep" / "file").write_text("fo")
    stages.run("a", {}, make)
    assert (at / "deep" / "file").read_text() == "four"
    (at / RECORD).write_text("{")
    stages.run("a", {}, make)
    assert make.calls == 3


def test_a_failing_stage_leaves_nothing(tmp_path):
    stages = Stages(tmp_path)

    def fail(folder):
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run("a", {}, fail)
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}
    stages.run("a", {}, Counter())


def test_a_partial_attempt_is_continued_under_the_same_inputs_only(tmp_path):
    seen = []

    def attempt(folder, fail):
        seen.append(sorted(path.name for path in folder.iterdir()))
        (folder / f"trial{len(seen)}").touch()
        if fail:
            raise RuntimeError("interrupted")

    def run(seed, fail):
        with Stages(tmp_path) as fresh:
            fresh.run("search", {"seed": seed}, lambda at: attempt(at, fail), keep_partial=True)

    for seed, fail in ((0, True), (0, True), (1, True), (1, False)):
        if fail:
            with pytest.raises(RuntimeError):
                run(seed, fail)
        else:
            run(seed, fail)
        assert (tmp_path / "search").exists() is not fail
    assert seen == [[], ["trial1"], [], ["trial3"]]
    found = sorted(path.name for path in (tmp_path / "search").iterdir())
    assert found == [RECORD, "trial3", "trial4"]
    assert not list(tmp_path.glob(".partial-*"))


def test_results_go_as_soon_as_a_stage_is_made_anew(tmp_path):
    stages, report = Stages(tmp_path, results=["report.html", "absent"]), tmp_path / "report.html"
    stages.run("a", {"seed": 0}, Counter())
    report.write_text("Budget met")
    stages.run("a", {"seed": 0}, Counter())
    assert report.exists()

    def fail(folder):
        assert not report.exists()
        raise RuntimeError("budget not met")

    with pytest.raises(RuntimeError, match="budget"):
        stages.run("a", {"seed": 1}, fail)
    assert not report.exists()


def test_seconds_are_recorded_in_the_order_of_finishing(tmp_path):
    stages = Stages(tmp_path)
    stages.run("z", {}, lambda folder: time.sleep(0.05))
    stages.run("a", {}, Counter())
    seconds = stages.seconds()
    assert list(seconds) == ["z", "a"]
    assert 0.05 <= seconds["z"] < 2
    stages.run("z", {}, Counter())
    assert stages.seconds() == seconds


def test_a_stage_after_one_that_is_not_finished_is_refused(tmp_path):
    with pytest.raises(SpadeError, match=r"`after` must name finished stages.*'train'"):
        Stages(tmp_path).run("search", {}, Counter(), after=["train"])


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(SpadeError, match="`name` must be"):
        Stages(tmp_path).run(name, {}, Counter())


@pytest.mark.alone
def test_one_process_per_folder(tmp_path):
    code = (
        "import sys; from spade_keras.pipeline.run_folder import Stages;"
        "stages = Stages(sys.argv[1]);"
        "stages.__enter__(); print('locked', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "locked\n"
    make = Counter()
    with pytest.raises(SpadeError, match=r"Another process .*`run\.name`.*folder="):
        Stages(tmp_path).run("a", {}, make)
    assert make.calls == 0
    other.kill()
    other.wait()
    other.stdin.close()
    other.stdout.close()
    Stages(tmp_path).run("a", {}, make)
    assert make.calls == 1


def test_the_lock_is_held_for_the_whole_block(tmp_path):
    with Stages(tmp_path) as stages:
        stages.run("a", {}, Counter())
        with pytest.raises(SpadeError, match="Another process"):
            Stages(tmp_path).run("b", {}, Counter())
    Stages(tmp_path).run("b", {}, Counter())


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "metrics.json"
    write_json_atomic(path, {"a": np.float32(0.5), "b": np.arange(2), "c": Path("x")})
    assert json.loads(path.read_text()) == {"a": 0.5, "b": [0, 1], "c": "x"}
    with pytest.raises(TypeError):
        write_json_atomic(path, {"a": object()})
    with pytest.raises(TypeError):
        write_bytes_atomic(path, "no bytes")
    assert json.loads(path.read_text())["a"] == 0.5
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]
    assert path.stat().st_mode & 0o777 == 0o644
