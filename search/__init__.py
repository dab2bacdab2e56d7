"""Width search: the best quality within a latency measured on the device in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_keras.registry import PRUNERS, SAMPLERS, SEEDS, lazy_attributes

if TYPE_CHECKING:
    from spade_keras.errors import CandidateError
    from spade_keras.search.budget import LatencyBudget
    from spade_keras.search.candidate import build, plan_for, rank_choices, realize
    from spade_keras.search.layer_table import LayerTable
    from spade_keras.search.objectives import (
        OBJECTIVES,
        AsPruned,
        KeptImportance,
        Objective,
        ShortFineTune,
        UserFunction,
    )
    from spade_keras.search.precision import with_dtype
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
    from spade_keras.search.seeds import propose
    from spade_keras.search.space import Configuration, RankVariable, SearchSpace, WidthVariable
    from spade_keras.search.storage import open_storage
    from spade_keras.search.study import Search, run
    from spade_keras.search.timer import interleaved_timer
    from spade_keras.search.workers import Worker, join

__all__ = [
    "OBJECTIVES",
    "PRUNERS",
    "SAMPLERS",
    "SEEDS",
    "Accuracy",
    "AsPruned",
    "CandidateError",
    "Configuration",
    "KeptImportance",
    "LatencyBudget",
    "LayerTable",
    "LogitAgreement",
    "Objective",
    "Quality",
    "RankVariable",
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
    "Worker",
    "build",
    "interleaved_timer",
    "join",
    "open_storage",
    "plan_for",
    "propose",
    "rank_choices",
    "realize",
    "run",
    "strategy_quality",
    "with_dtype",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "budget": "LatencyBudget",
        "candidate": "build plan_for rank_choices realize",
        "evaluation": "CandidateError",
        "layer_table": "LayerTable",
        "objectives": "OBJECTIVES AsPruned KeptImportance Objective ShortFineTune UserFunction",
        "precision": "with_dtype",
        "quality": "Accuracy LogitAgreement Quality SelfSupervisedScore TeacherAgreement "
        "ValidationPSNR strategy_quality",
        "result": "SearchResult Timing TrialRecord",
        "seeds": "propose",
        "space": "Configuration RankVariable SearchSpace WidthVariable",
        "storage": "open_storage",
        "study": "Search run",
        "timer": "interleaved_timer",
        "workers": "Worker join",
    },
)
