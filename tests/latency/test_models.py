import json

import keras
import numpy as np
import pytest

from spade_keras import backend
from spade_keras.latency import compare, fingerprint, measure, sweep_batches


def network(filters, depth=1):
    image = x = keras.Input((16, 16, 2), name="image")
    for _ in range(depth):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
    return keras.Model({"image": image}, keras.layers.Conv2D(2, 3, padding="same")(x))


@pytest.fixture
def inputs():
    return {"image": np.random.default_rng(0).normal(size=(1, 16, 16, 2)).astype("float32")}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_measure_a_model(inputs):
    latency = measure(network(4), inputs, repeats=5)
    assert len(latency.samples) == 5
    assert 0 < latency.q1_ms <= latency.median_ms <= latency.q3_ms <= latency.p99_ms
    if backend.modes()[0] != "eager":  # else the first call compiles nothing
        assert latency.compile_ms > latency.median_ms
    assert latency.fingerprint == fingerprint(inputs)
    assert latency.peak_memory_bytes > 10**6


def test_compare_two_models(inputs):
    ratio = compare(network(2), network(256, depth=4), inputs, pairs=5).ratio
    assert ratio.value > 1.5  # 450 million multiply-accumulates against 20 thousand
    assert ratio.pairs == 5


def test_fingerprint_says_on_what_a_time_depends(inputs):
    found = fingerprint(inputs)
    assert json.loads(json.dumps(found)) == found
    assert found["backend"] == keras.backend.backend()
    assert found["mode"] == backend.modes()[0]
    assert found["dtype"] == "float32"
    assert found["inputs"] == [{"name": "image", "shape": [1, 16, 16, 2], "dtype": "float32"}]
    assert found["versions"]["keras"] == keras.__version__
    assert found["versions"][keras.backend.backend()][0].isdigit()
    assert found["device"]["kind"] in ("cpu", "gpu")
    assert found["device"]["cores"] >= 1


def test_fingerprint_tells_what_differs_from_what_does_not(inputs, monkeypatch):
    wider = {"image": np.zeros((1, 16, 20, 2), "float32")}
    assert fingerprint(wider) != fingerprint(inputs)
    in_double = {"image": inputs["image"].astype("float64")}
    assert fingerprint(in_double) == fingerprint(inputs)  # it is run in floatx
    assert fingerprint(inputs, mode=backend.modes()[1]) != fingerprint(inputs)
    before = fingerprint(inputs)
    monkeypatch.setenv("OMP_NUM_THREADS", "1234")
    assert fingerprint(inputs) != before


def test_an_unknown_mode_is_refused(inputs):
    with pytest.raises(ValueError, match=r"`mode` must be one of.*mode=fastest"):
        measure(network(2), inputs, mode="fastest")


def test_a_sweep_runs_the_batches_asked_for(inputs):
    pair = {"image": np.concatenate([inputs["image"], 2 * inputs["image"]])}
    one, five = sweep_batches(network(2), pair, (1, 5), repeats=3)
    shapes = [entry.latency.fingerprint["inputs"][0]["shape"] for entry in (one, five)]
    assert shapes == [[1, 16, 16, 2], [5, 16, 16, 2]]
    assert five.samples_per_s == pytest.approx(5000 / five.latency.median_ms)
    with pytest.raises(ValueError, match=r"`batches` must be .*batches=\(0,\)"):
        sweep_batches(network(2), pair, (0,))
