"""Width search: the best quality within a latency measured on the device in use."""

from spade_keras.search.budget import LatencyBudget
from spade_keras.search.quality import (
    Quality,
    SelfSupervisedScore,
    TeacherAgreement,
    ValidationPSNR,
    strategy_quality,
)
from spade_keras.search.result import SearchResult, Timing, TrialRecord
from spade_keras.search.space import Configuration, SearchSpace, WidthVariable
from spade_keras.search.study import PRUNERS, SAMPLERS, Search, interleaved_timer, run

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "Configuration",
    "LatencyBudget",
    "Quality",
    "Search",
    "SearchResult",
    "SearchSpace",
    "SelfSupervisedScore",
    "TeacherAgreement",
    "Timing",
    "TrialRecord",
    "ValidationPSNR",
    "WidthVariable",
    "interleaved_timer",
    "run",
    "strategy_quality",
]
