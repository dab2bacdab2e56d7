"""What the layers' times say about a finished search."""

from __future__ import annotations

from collections.abc import Iterable

from spade_keras.search.calibration import PredictionError
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.result import TrialRecord
from spade_keras.search.space import Configuration, SearchSpace

_FEWEST = 6


def bottleneck(table: LayerTable, space: SearchSpace) -> str | None:
    """Names the group whose layers take most of the full network's time.

    Args:
        table: Times of its layers.
        space: The groups that may change.

    Returns:
        Part of a sentence; None if no group may change.
    """
    times = {v.group: table.group_ms(v.group) for v in space.variables}
    if not times:
        return None
    slowest = max(times, key=lambda group: times[group])
    share = times[slowest] / table.predict_ms(space.full)
    return f"the group {slowest}, whose layers take {share:.0%} of the full network's layer time"


def prediction_error(table: LayerTable, trials: Iterable[TrialRecord]) -> PredictionError | None:
    """Measures how well layer times predict the time of whole networks.

    Every second configuration that was timed calibrates the table, the others are predicted.

    Args:
        table: Times of the layers.
        trials: Trials of the search.

    Returns:
        The error on those others; None with fewer than six configurations.
    """
    measured = {
        trial.configuration.key(): (trial.configuration, trial.timing.latency_ms)
        for trial in trials
        if trial.timing is not None and _is_timed(trial.configuration, table)
    }
    if len(measured) < _FEWEST:
        return None
    in_order = sorted(measured.values(), key=lambda pair: pair[1])
    return table.calibrated(in_order[::2]).error(in_order[1::2])


def _is_timed(configuration: Configuration, table: LayerTable) -> bool:
    """Whether the configuration's layers are those of the table: no pairs, no other dtype."""
    return configuration.dtype in (None, table.dtype) and not configuration.ranks
