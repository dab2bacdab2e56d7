"""Width search: the best quality within a latency measured on the device in use."""

from spade_keras.search.budget import LatencyBudget
from spade_keras.search.quality import (
    Quality,
    SelfSupervisedScore,
    TeacherAgreement,
    ValidationPSNR,
    strategy_quality,
)
from spade_keras.search.result import SearchResult, TrialRecord
from spade_keras.search.space import WidthSpace, WidthVariable
from spade_keras.search.study import SAMPLERS, WidthSearch, interleaved_timer, run

__all__ = [
    "SAMPLERS",
    "LatencyBudget",
    "Quality",
    "SearchResult",
    "SelfSupervisedScore",
    "TeacherAgreement",
    "TrialRecord",
    "ValidationPSNR",
    "WidthSearch",
    "WidthSpace",
    "WidthVariable",
    "interleaved_timer",
    "run",
    "strategy_quality",
]
