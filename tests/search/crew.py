"""Workers for test_workers.py: imports once, then forks one process per line of its input."""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import keras

from spade_keras import latency, search
from spade_keras.pruning import count_parameters, find_groups
from spade_keras.search.objective import Objective
from spade_keras.search.storage import open_storage


def make_network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(8, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(2)])


def fake_timer(network):
    """Time is proportional to the parameters; the device is held as it is for a real timing."""
    full = count_parameters(network)

    def summary(milliseconds):
        return latency.summarize(
            [milliseconds] * 3,
            first_ms=1.0,
            calls_per_window=1,
            stable=True,
            peak_memory_bytes=None,
            fingerprint={},
        )

    def time_candidate(candidate):
        ratio = count_parameters(candidate) / full
        with latency.device_lock():
            return latency.Comparison(
                summary(10.0), summary(10 * ratio), latency.Ratio(ratio, ratio, ratio, 0.95, 3)
            )

    return time_candidate


class Parameters(Objective):
    name = "parameters"

    def __init__(self, hangs_at):
        self.hangs_at = hangs_at

    def __call__(self, network, report=None):
        if self.hangs_at:
            with latency.device_lock():
                Path(self.hangs_at).touch()
                time.sleep(600)
        time.sleep(0.01)
        return float(count_parameters(network))


def work(job):
    network = make_network()
    search.run(
        network,
        budget=search.LatencyBudget(0.8),
        data=None,
        trials=job["trials"],
        storage=open_storage(job["storage"], heartbeat_s=1, grace_s=2),
        name=job["name"],
        seeds=("uniform",),  # the others judge a quality outside of any trial
        objective=Parameters(job["hangs_at"]),
        timer=fake_timer(network),
        space=search.SearchSpace.from_groups(find_groups(network), multiple=1, minimum=1),
    )


if __name__ == "__main__":
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            os._exit(code)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
