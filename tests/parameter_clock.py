"""A device whose time is proportional to the parameters: the same on every machine."""

import keras

from spade_keras import latency
from spade_keras.pruning import count_parameters


def comparison(ratio, inputs=None, *, spread=0.01, full_ms=10.0):
    """What timing two models in turn gives, with an interval of `ratio` +- `spread`."""
    circumstances = latency.fingerprint(inputs)

    def times(milliseconds):
        return latency.summarize(
            [milliseconds] * 3,
            first_ms=milliseconds,
            calls_per_window=1,
            stable=True,
            peak_memory_bytes=None,
            fingerprint=circumstances,
        )

    interval = latency.Ratio(ratio, ratio - spread, ratio + spread, 0.95, 3)
    return latency.Comparison(times(full_ms), times(full_ms * ratio), interval)


class ParameterClock:
    """Stands in for `interleaved_timer` and for `compare_in_fresh_process`; remembers its calls."""

    def __init__(self, slowdown=1.0):
        self.slowdown = slowdown
        self.timed = 0
        self.compared = []

    def timer(self, network, inputs, **options):
        """Has the signature of `interleaved_timer`."""
        full = count_parameters(network)

        def time(candidate):
            self.timed += 1
            return comparison(count_parameters(candidate) / full)

        return time

    def compare(self, a, b, inputs, **options):
        """Has the signature of `compare_in_fresh_process`; slower there by `slowdown`."""
        full, slim = (keras.saving.load_model(path, compile=False) for path in (a, b))
        self.compared.append(options)
        ratio = count_parameters(slim) / count_parameters(full)
        return comparison(ratio * self.slowdown, inputs)
