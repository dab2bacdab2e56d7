"""Fakes of an asynchronous device that compiles on the first call prove what is timed."""

import ast
import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from spade_keras.latency import Stopwatch, compare, measure, self_check, windows

DISPATCH_S = 1e-5


class FakeDevice:
    """Calls return at once; the work is done later, one call after the other."""

    def __init__(self, slowdown_per_s=0.0):
        self.now = 0.0
        self.free_at = 0.0
        self.slowdown_per_s = slowdown_per_s
        self.log = []

    def clock(self):
        return self.now

    def synchronize(self, done_at):
        self.now = max(self.now, done_at)

    def stopwatch(self):
        return Stopwatch(self.synchronize, self.clock)

    def model(self, *milliseconds, compile_s=0.0, name=""):
        """A function whose n-th call takes the n-th time; the last one holds from then on."""
        calls = 0

        def call():
            nonlocal calls
            self.log.append(name)
            if calls == 0:
                self.now += compile_s
            self.now += DISPATCH_S
            work = milliseconds[min(calls, len(milliseconds) - 1)] / 1e3
            calls += 1
            self.free_at = max(self.now, self.free_at)
            self.free_at += work * (1 + self.slowdown_per_s * self.now)
            return self.free_at

        return call


@pytest.fixture
def device():
    return FakeDevice()


def test_measure_waits_for_the_output(device):
    latency = measure(device.model(40.0), stopwatch=device.stopwatch(), lock=False, repeats=7)
    # Dispatch alone would read 0.01 ms.
    assert latency.samples == pytest.approx([40.01] * 7)
    assert latency.median_ms == pytest.approx(40.01)
    assert latency.stable


def test_measure_leaves_compilation_out_and_reports_it(device):
    model = device.model(40.0, compile_s=5.0)
    latency = measure(model, stopwatch=device.stopwatch(), lock=False, repeats=7)
    assert max(latency.samples) == pytest.approx(40.01)
    assert latency.compile_ms == pytest.approx(5000.0)


def test_measure_leaves_the_warming_calls_out(device):
    model = device.model(90.0, 80.0, 70.0, 60.0, 50.0, 40.0)
    latency = measure(model, stopwatch=device.stopwatch(), lock=False, repeats=7)
    assert max(latency.samples) == pytest.approx(40.01)


def test_warming_up_is_bounded_and_says_when_it_did_not_settle(device):
    restless = device.model(*[10.0, 20.0] * 50)
    latency = measure(restless, stopwatch=device.stopwatch(), lock=False, repeats=4, warmup=6)
    assert not latency.stable
    assert len(device.log) == 1 + 6 + 4


def test_short_calls_share_a_window_and_are_reported_per_call(device):
    latency = measure(device.model(0.04), stopwatch=device.stopwatch(), lock=False, repeats=5)
    assert latency.calls_per_window == 50  # 2 ms of them
    # Dispatch overlaps with the work, so a window of n calls takes n x 0.04 ms and one dispatch.
    assert latency.median_ms == pytest.approx(0.04, rel=0.02)


def test_long_calls_have_windows_of_their_own(device):
    latency = measure(device.model(1.5), stopwatch=device.stopwatch(), lock=False, repeats=5)
    assert latency.calls_per_window == 1


def test_single_calls_show_the_tail_that_windows_of_several_hide(device):
    hiccup = [0.04] * 9 + [0.8]
    times = [0.04, *hiccup * 600]  # every tenth call takes twenty times as long
    options = {"stopwatch": device.stopwatch(), "lock": False, "repeats": 100}
    latency = measure(device.model(*times), single_calls=True, **options)
    assert latency.calls_per_window == 1
    assert latency.median_ms == pytest.approx(0.05)  # dispatch included: nothing overlaps
    assert latency.p99_ms == pytest.approx(0.81)
    averaged = measure(device.model(*times), **options)
    assert averaged.p99_ms < 0.2


def test_comparisons_take_single_calls_too(device):
    models = device.model(0.04), device.model(0.02)
    options = {"stopwatch": device.stopwatch(), "lock": False, "single_calls": True}
    result = compare(*models, pairs=4, **options)
    assert (result.a.calls_per_window, result.b.calls_per_window) == (1, 1)
    assert result.ratio.value == pytest.approx(0.03 / 0.05)


def test_functions_without_inputs_can_be_described(device):
    described = {"image": np.zeros((3, 8), "float32")}
    options = {"stopwatch": device.stopwatch(), "lock": False, "described": described}
    entry = [{"name": "image", "shape": [3, 8], "dtype": "float32"}]
    assert measure(device.model(1.0), **options).fingerprint["inputs"] == entry
    result = compare(device.model(1.0), device.model(1.0), None, **options)
    assert result.a.fingerprint["inputs"] == result.b.fingerprint["inputs"] == entry
    with pytest.raises(ValueError, match="both `inputs` and `described`"):
        measure(device.model(1.0), described, **options)


def test_the_ratio_is_the_time_of_b_over_the_time_of_a(device):
    a, b = device.model(10.0), device.model(20.0, compile_s=3.0)
    result = compare(a, b, stopwatch=device.stopwatch(), lock=False, pairs=6)
    assert result.ratio.value == pytest.approx(20.01 / 10.01)
    assert result.ratio.low == pytest.approx(result.ratio.high)
    assert result.a.median_ms == pytest.approx(10.01)
    assert result.b.median_ms == pytest.approx(20.01)
    assert result.b.compile_ms == pytest.approx(3000.0)


def test_pairs_alternate_their_order(device):
    a, b = device.model(10.0, name="a"), device.model(10.0, name="b")
    compare(a, b, stopwatch=device.stopwatch(), lock=False, pairs=6)
    assert "".join(device.log[-12:]) == "abbaabbaabba"


def test_a_machine_that_slows_down_does_not_favor_the_first_model():
    device = FakeDevice(slowdown_per_s=1.0)
    a, b = device.model(10.0), device.model(10.0)
    ratio = compare(a, b, stopwatch=device.stopwatch(), lock=False, pairs=20).ratio
    # In the order A-B-A-B every B would be later than its A, by 0.7 % to 1 %.
    assert ratio.value == pytest.approx(1.0, abs=1e-3)
    assert ratio.low <= 1.0 <= ratio.high


def test_self_check_states_the_noise(device):
    quiet = self_check(device.model(10.0), stopwatch=device.stopwatch(), lock=False, pairs=5)
    assert quiet.resolvable == pytest.approx(0.0, abs=1e-9)
    noisy_model = FakeDevice()
    times = [10.0 + (7 * n % 11) / 10 for n in range(200)]
    noisy = self_check(
        noisy_model.model(*times), stopwatch=noisy_model.stopwatch(), lock=False, pairs=30
    )
    ratio = noisy.comparison.ratio
    assert noisy.resolvable == max(1 - ratio.low, ratio.high - 1)
    assert 0.005 < noisy.resolvable < 0.1
    assert "cannot be resolved with 30 pairs" in str(noisy)


def test_garbage_is_not_collected_inside_windows(device):
    seen = []

    def model():
        seen.append(gc.isenabled())
        return device.now

    assert gc.isenabled()
    windows.time_interleaved(device.stopwatch(), [model], [1], rounds=3)
    assert seen == [False] * 3
    assert gc.isenabled()


def test_the_shared_file_needs_the_standard_library_alone():
    tree = ast.parse(Path(windows.__file__).read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
        )
    }
    assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"repeats": 0}, "`repeats` must be at least 1"), ({"warmup": 0}, "`warmup`.*warmup=0")],
)
def test_measure_refuses_counts_below_one(device, arguments, message):
    with pytest.raises(ValueError, match=message):
        measure(device.model(1.0), stopwatch=device.stopwatch(), lock=False, **arguments)


def test_compare_refuses_a_single_pair(device):
    with pytest.raises(ValueError, match=r"`pairs` must be at least 2.*pairs=1"):
        compare(device.model(1.0), device.model(1.0), pairs=1, lock=False)
