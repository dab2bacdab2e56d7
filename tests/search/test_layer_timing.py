import itertools

import keras
import numpy as np
import pytest

from spade_keras import backend, latency
from spade_keras.errors import SpadeError
from spade_keras.pruning.graph.forward_pass import layer_calls
from spade_keras.search import layer_timing
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.layer_timing import LayerCall, LayerTimer
from spade_keras.search.space import Configuration


def call_of(layer, *shapes, dtype="float32"):
    image = [keras.KerasTensor(shape, dtype) for shape in shapes]
    layer(image[0] if len(image) == 1 else image)
    model = keras.Sequential([keras.Input(batch_shape=shapes[0], dtype=dtype), layer])
    (call,) = layer_calls(model, shapes[0])
    return LayerCall.of(call)


@pytest.mark.once
def test_layers_that_take_the_same_time_have_one_signature():
    shape = (1, 8, 8, 2)
    first = call_of(keras.layers.Conv2D(4, 3, padding="same", name="a"), shape)
    renamed = keras.layers.Conv2D(
        4, 3, padding="same", name="b", kernel_initializer="zeros", kernel_regularizer="l2"
    )
    assert call_of(renamed, shape).signature == first.signature
    assert "Conv2D 1x8x8x2" in first.signature
    others = [
        call_of(keras.layers.Conv2D(4, 3, padding="same", strides=2), shape),
        call_of(keras.layers.Conv2D(4, 3, padding="same", dtype="bfloat16"), shape),
        call_of(keras.layers.Conv2D(4, 3, padding="same", use_bias=False), shape),
        call_of(keras.layers.Conv2D(4, 3, padding="same"), (2, 8, 8, 2)),
        call_of(keras.layers.SeparableConv2D(4, 3, padding="same"), shape),
    ]
    assert len({first.signature, *(other.signature for other in others)}) == 6


class FakeClock:
    """Every call of a fake layer takes the next of the times given, and the last from then on."""

    def __init__(self, *milliseconds):
        self.now = 0.0
        self.times = itertools.chain(milliseconds, itertools.repeat(milliseconds[-1]))
        self.calls = 0

    def install(self, monkeypatch):
        def stopwatch(synchronize):
            return latency.windows.Stopwatch(lambda outputs: None, lambda: self.now)

        monkeypatch.setattr(layer_timing.latency, "Stopwatch", stopwatch)
        monkeypatch.setattr(backend, "inference_function", lambda *arguments: self.call)

    def call(self):
        self.calls += 1
        self.now += next(self.times) / 1e3


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def dense():
    return call_of(keras.layers.Dense(3), (1, 4))


@pytest.mark.once
def test_the_timer_takes_the_fastest_window_and_keeps_it(own_cache, dense, monkeypatch):
    clock = FakeClock(500.0, *[4.0] * 3, 5.0, 4.1, 9.0, 4.0, 4.0, 7.0, 6.0)
    clock.install(monkeypatch)
    done = []
    timer = LayerTimer(repeats=7, on_layer=lambda *counts: done.append(counts))
    assert timer([dense, dense]) == {dense.signature: pytest.approx(4.0)}
    assert clock.calls == 1 + 3 + 7
    assert done == [(1, 1)]
    clock = FakeClock(500.0, 4.2)
    clock.install(monkeypatch)
    done.clear()
    assert timer([dense]) == {dense.signature: pytest.approx(4.0)}  # from the disk
    assert done == []


@pytest.mark.once
@pytest.mark.parametrize(("now", "taken"), [(3.9, 4.0), (40.0, 4.0), (1.0, 1.0)])
def test_times_that_were_disturbed_are_forgotten(own_cache, monkeypatch, now, taken):
    """Nothing makes a layer faster than it is: if it is faster now, it was disturbed then."""
    layers = [call_of(keras.layers.Dense(units), (1, 4)) for units in (3, 4, 5, 6)]
    clock = FakeClock(4.0)
    clock.install(monkeypatch)
    LayerTimer()(layers)
    clock = FakeClock(now)
    clock.install(monkeypatch)
    assert LayerTimer()(layers) == {c.signature: pytest.approx(taken) for c in layers}
    clock = FakeClock(taken)
    clock.install(monkeypatch)
    assert LayerTimer()(layers) == {c.signature: pytest.approx(taken) for c in layers}


@pytest.mark.once
def test_disturbed_windows_are_timed_again_and_never_kept(own_cache, dense, monkeypatch):
    restless = FakeClock(*np.geomspace(400.0, 4.0, 200))
    restless.install(monkeypatch)
    LayerTimer(repeats=3)([dense])
    assert restless.calls == 1 + 3 + 3  # falling slowly, three windows agree
    hopeless = FakeClock(*[4.0 * 1.5**n for n in range(40)])
    hopeless.install(monkeypatch)
    cache = latency.LatencyCache(own_cache / "other")
    LayerTimer(cache, repeats=3)([dense])
    assert hopeless.calls == 1 + 6 + 3 * 3
    assert cache.get(dense.signature, latency.fingerprint()) is None


def test_layers_are_really_timed(own_cache):
    image = keras.Input((8, 8, 2), name="image")
    x = y = keras.layers.Conv2D(8, 3, padding="same", name="stem")(image)
    y = keras.layers.BatchNormalization(name="norm")(keras.ops.relu(y))
    x = keras.ops.mean(keras.layers.Add(name="sum")([x, y]), axis=(1, 2))
    model = keras.Model(image, keras.layers.Dense(2, name="last")(x))
    inputs = np.ones((1, 8, 8, 2), "float32")
    table = LayerTable.measure(model, inputs, {"stem": (4,)}, repeats=3)
    assert table.layers[0].path == "stem"
    assert len(table.layers) == 6
    assert all(layer.ms > 0 and set(layer.by_group) == {"stem"} for layer in table.layers)
    assert table.fingerprint == latency.fingerprint(inputs)
    assert table.predict_ms(Configuration({"stem": 4})) > 0


@pytest.mark.once
def test_a_layer_that_cannot_be_made_alone_is_named():
    call = call_of(keras.layers.Dense(3), (1, 4))
    broken = LayerCall("part/dense", call.kind, {"units": -1}, call.arguments, None, call.weights)
    with pytest.raises(
        SpadeError, match=r"(?s)'part/dense' \(Dense\) cannot be timed alone: .*units=-1"
    ):
        broken.model()
