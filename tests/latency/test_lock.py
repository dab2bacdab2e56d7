import os
import subprocess
import sys
import tempfile
import threading

import pytest

from spade_keras.latency import DeviceBusyError, device_lock, lock_path, measure

pytestmark = [pytest.mark.once, pytest.mark.alone]

HOLD = """
import filelock, sys
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_the_lock_lies_in_the_cache_folder(own_cache):
    with device_lock() as path:
        assert path == lock_path()
        assert own_cache in path.parents


def test_without_a_usable_cache_folder_the_lock_lies_with_temporary_files(own_cache, monkeypatch):
    (own_cache / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(own_cache))
    with device_lock() as path:
        assert path.parent.parent == own_cache
        assert path.exists()


def test_another_thread_waits_and_learns_who_holds_the_device():
    taken, done = threading.Event(), threading.Event()

    def hold():
        with device_lock():
            taken.set()
            done.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert taken.wait(10)
        message = rf"process {os.getpid()} .*Waited 0\.05 s"
        with pytest.raises(DeviceBusyError, match=message), device_lock(timeout_s=0.05):
            pytest.fail("two threads hold the device")
    finally:
        done.set()
        holder.join()
    with device_lock(timeout_s=0.05):
        pass


def test_a_thread_may_take_its_lock_again():
    with device_lock(timeout_s=0.05), device_lock(timeout_s=0.05):
        pass


def test_a_killed_process_leaves_no_lock_behind():
    path = lock_path()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "held\n"
        unknown = pytest.raises(DeviceBusyError, match="an unknown process")
        with unknown, device_lock(timeout_s=0.05):
            pytest.fail("two processes hold the device")
        other.kill()
        other.wait()
    with device_lock(timeout_s=1):
        pass


def test_measure_holds_the_lock_while_it_times():
    refused = []

    def try_to_take():
        try:
            with device_lock(timeout_s=0.01):
                pass
        except DeviceBusyError as error:
            refused.append(error)

    def model():
        if not refused:
            thread = threading.Thread(target=try_to_take)
            thread.start()
            thread.join()
        return ()

    measure(model, repeats=1, warmup=1)
    assert len(refused) == 1
