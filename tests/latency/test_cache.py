import contextlib
import sqlite3
import subprocess
import sys

import pytest

from spade_keras.latency import LatencyCache, cache, user_cache_folder

pytestmark = pytest.mark.once

HERE = {"device": {"name": "fake"}, "backend": "fake", "versions": {"keras": "3"}, "inputs": []}

# Imports the one file: Keras takes seconds, and nothing here needs it.
PUT = """
import importlib.util, sys
folder, source, name = sys.argv[1:]
spec = importlib.util.spec_from_file_location("cache", source)
cache = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cache)
for number in range(30):
    cache.LatencyCache(folder).put({f"{name}{number}": float(number)}, {"backend": "fake"})
"""


def test_times_are_kept_from_one_cache_to_the_next(tmp_path):
    LatencyCache(tmp_path).put({"conv": 1.5, "dense": 0.25}, HERE)
    reopened = LatencyCache(tmp_path)
    assert (reopened.get("conv", HERE), reopened.get("dense", HERE)) == (1.5, 0.25)
    assert reopened.get("other", HERE) is None


def test_a_time_holds_under_its_own_circumstances_alone(tmp_path):
    times = LatencyCache(tmp_path)
    times.put({"conv": 1.5}, HERE)
    for key, other in (("device", {"name": "x"}), ("versions", {"keras": "4"}), ("mode", "xla")):
        assert times.get("conv", {**HERE, key: other}) is None
    # The shapes are part of the name.
    assert times.get("conv", {**HERE, "inputs": [{"shape": [1, 2]}]}) == 1.5


def test_caches_see_what_others_put_and_keep_it(tmp_path):
    ours, theirs = LatencyCache(tmp_path), LatencyCache(tmp_path)
    ours.put({"a": 1.0}, HERE)
    assert theirs.get("a", HERE) == 1.0
    theirs.put({"b": 2.0}, HERE)
    ours.put({"c": 3.0, "a": 4.0}, HERE)
    assert [theirs.get(name, HERE) for name in "abc"] == [4.0, 2.0, 3.0]


def test_no_time_is_lost_among_processes(tmp_path):
    command = [sys.executable, "-c", PUT, str(tmp_path), cache.__file__]
    running = [subprocess.Popen([*command, name]) for name in "abc"]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    times = LatencyCache(tmp_path)
    for name in "abc":
        for number in range(30):
            assert times.get(f"{name}{number}", {"backend": "fake"}) == number


def replace_time(path, value):
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE times SET ms = ?", (value,))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_text("[]"),
        lambda path: replace_time(path, "fast"),
        lambda path: replace_time(path, -1.0),
        lambda path: replace_time(path, float("inf")),
    ],
)
def test_a_damaged_file_is_set_aside_with_a_warning(tmp_path, damage):
    LatencyCache(tmp_path).put({"conv": 1.5}, HERE)
    times = LatencyCache(tmp_path)
    damage(times.path)
    damaged = times.path.read_bytes()
    with pytest.warns(UserWarning, match=r"could not be read.*kept as .*\.damaged"):
        assert times.get("conv", HERE) is None
    assert times.path.with_suffix(".damaged").read_bytes() == damaged
    times.put({"conv": 2.0}, HERE)
    assert times.get("conv", HERE) == LatencyCache(tmp_path).get("conv", HERE) == 2.0


def test_times_go_into_a_fresh_file_where_the_old_one_is_damaged(tmp_path):
    times = LatencyCache(tmp_path)
    times.path.write_text("no database, but long enough to look at " * 9)
    with pytest.warns(UserWarning, match="could not be read"):
        times.put({"conv": 2.0}, HERE)
    assert times.get("conv", HERE) == 2.0


def test_a_folder_that_cannot_be_written_costs_a_warning_alone(tmp_path):
    (tmp_path / "file").touch()
    times = LatencyCache(tmp_path / "file" / "folder")
    with pytest.warns(UserWarning, match="could not be kept in .*Make the folder writable"):
        times.put({"conv": 1.0}, HERE)


def test_what_is_no_time_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"finite and at least 0.*'conv': nan"):
        LatencyCache(tmp_path).put({"conv": float("nan"), "dense": 1.0}, HERE)
    assert not list(tmp_path.iterdir())


def test_the_default_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert (
        LatencyCache().folder
        == user_cache_folder("latencies")
        == tmp_path / ("spade-keras/latencies")
    )
