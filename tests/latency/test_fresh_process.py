import importlib
import subprocess

import keras
import numpy as np
import pytest

from spade_keras import latency
from spade_keras.latency import (
    DeviceBusyError,
    FreshProcessError,
    compare_in_fresh_process,
    fill_batch,
    fresh_process,
)

CUSTOM = """
import keras

@keras.saving.register_keras_serializable(package="fresh")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def save(path, filters, layer=None):
    image = x = keras.Input((16, 16, 2), name="image")
    x = keras.layers.Conv2D(filters, 3, padding="same")(x)
    x = x if layer is None else layer(x)
    keras.Model({"image": image}, keras.layers.Conv2D(2, 3, padding="same")(x)).save(path)
    return path


def test_two_files_are_compared_by_another_process(tmp_path, monkeypatch):
    # A class that the new process knows only because it imports its module first.
    (tmp_path / "own_layers.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(tmp_path)
    twice = importlib.import_module("own_layers").Twice()
    small = save(tmp_path / "small.keras", 2, twice)
    large = save(tmp_path / "large.keras", 4096, twice)
    inputs = {"image": np.ones((2, 16, 16, 2), "float32")}
    result = compare_in_fresh_process(
        small, large, inputs, pairs=3, batch_size=3, single_calls=True, imports=["own_layers"]
    )
    assert result.ratio.value > 1.5
    assert (result.ratio.pairs, len(result.b.samples), result.b.calls_per_window) == (3, 3, 1)
    # The same circumstances as here, with the batch asked for.
    assert result.a.fingerprint == latency.fingerprint(fill_batch(inputs, 3))


@pytest.fixture
def in_this_process(monkeypatch):
    """Does the job without a new process: starting one takes seconds."""

    def run(command, **_):
        fresh_process.answer(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.once
def test_what_fails_there_is_told_here(tmp_path, in_this_process):
    model = save(tmp_path / "model.keras", 2)
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(b"no model")
    inputs = {"image": np.ones((1, 16, 16, 2), "float32")}
    with pytest.raises(FreshProcessError, match=r"damaged.keras.* failed: ValueError: .*damaged"):
        compare_in_fresh_process(model, damaged, inputs, pairs=2)
    with pytest.raises(FreshProcessError, match=r"ModuleNotFoundError: .*'not_there'"):
        compare_in_fresh_process(model, model, inputs, imports=["not_there"])


@pytest.mark.once
def test_a_busy_device_stays_a_busy_device(tmp_path, in_this_process, monkeypatch):
    def busy(*arguments, **options):
        raise DeviceBusyError("process 7 is timing")

    monkeypatch.setattr(fresh_process, "compare", busy)
    model = save(tmp_path / "model.keras", 2)
    with pytest.raises(DeviceBusyError, match="process 7 is timing"):
        compare_in_fresh_process(model, model, np.ones((1, 16, 16, 2)))


@pytest.mark.once
def test_mistakes_are_found_before_a_process_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(ValueError, match=r"`a` must be a saved `.keras` model.*missing.keras"):
        compare_in_fresh_process(tmp_path / "missing.keras", tmp_path, {})
    model = save(tmp_path / "model.keras", 2)
    with pytest.raises(ValueError, match=r"`batch_size` must be at least 1.*batch_size=0"):
        compare_in_fresh_process(model, model, np.ones((1, 16, 16, 2)), batch_size=0)


@pytest.mark.once
def test_inputs_keep_their_structure(tmp_path, in_this_process, monkeypatch):
    inputs = {"x": np.arange(6.0).reshape(2, 3), "rest": [np.ones(2, "int32"), np.zeros((1, 2))]}

    def look(a, b, loaded, **options):
        keras.tree.map_structure(np.testing.assert_array_equal, inputs, loaded)
        raise DeviceBusyError("looked at")

    monkeypatch.setattr(fresh_process, "compare", look)
    model = save(tmp_path / "model.keras", 2)
    with pytest.raises(DeviceBusyError, match="looked at"):
        compare_in_fresh_process(model, model, inputs)
