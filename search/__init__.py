"""Width search: the best quality within a latency measured on the device in use."""

from spade_keras.search.budget import LatencyBudget
from spade_keras.search.objectives import (
    OBJECTIVES,
    AsPruned,
    KeptImportance,
    Objective,
    ShortFineTune,
    UserFunction,
)
from spade_keras.search.quality import (
    Accuracy,
    LogitAgreement,
    Quality,
    SelfSupervisedScore,
    TeacherAgreement,
    ValidationPSNR,
    strategy_quality,
)
from spade_keras.search.result import SearchResult, Timing, TrialRecord
from spade_keras.search.seeds import SEEDS
from spade_keras.search.space import Configuration, SearchSpace, WidthVariable
from spade_keras.search.study import PRUNERS, SAMPLERS, Search, interleaved_timer, run

__all__ = [
    "OBJECTIVES",
    "PRUNERS",
    "SAMPLERS",
    "SEEDS",
    "Accuracy",
    "AsPruned",
    "Configuration",
    "KeptImportance",
    "LatencyBudget",
    "LogitAgreement",
    "Objective",
    "Quality",
    "Search",
    "SearchResult",
    "SearchSpace",
    "SelfSupervisedScore",
    "ShortFineTune",
    "TeacherAgreement",
    "Timing",
    "TrialRecord",
    "UserFunction",
    "ValidationPSNR",
    "WidthVariable",
    "interleaved_timer",
    "run",
    "strategy_quality",
]
