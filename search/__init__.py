"""Search for the best quality within a latency budget measured on the device in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_keras.errors import CandidateError
from spade_keras.registry import OBJECTIVES, PRUNERS, SAMPLERS, SEEDS, lazy_attributes

if TYPE_CHECKING:
    from spade_keras.search.budget import LatencyBudget
    from spade_keras.search.candidate import build, plan_for, realize, with_dtype
    from spade_keras.search.finalists import Finalist, accept, preselect
    from spade_keras.search.layer_table import LayerTable
    from spade_keras.search.objective import KeptImportance, Objective, ShortFineTune, UserFunction
    from spade_keras.search.options import SearchOptions
    from spade_keras.search.receipt import Receipt
    from spade_keras.search.result import SearchResult, Timing, TrialRecord
    from spade_keras.search.scores import (
        Accuracy,
        LogitAgreement,
        OutputAgreement,
        SelfSupervisedScore,
        TeacherAgreement,
        ValidationPSNR,
        strategy_objective,
    )
    from spade_keras.search.seeds import propose
    from spade_keras.search.space import (
        Configuration,
        SearchSpace,
        Variable,
        choose_space,
        rank_choices,
    )
    from spade_keras.search.storage import open_storage
    from spade_keras.search.study import Search, run
    from spade_keras.search.trial import Timer, interleaved_timer
    from spade_keras.search.workers import Worker, join

__all__ = [
    "OBJECTIVES",
    "PRUNERS",
    "SAMPLERS",
    "SEEDS",
    "Accuracy",
    "CandidateError",
    "Configuration",
    "Finalist",
    "KeptImportance",
    "LatencyBudget",
    "LayerTable",
    "LogitAgreement",
    "Objective",
    "OutputAgreement",
    "Receipt",
    "Search",
    "SearchOptions",
    "SearchResult",
    "SearchSpace",
    "SelfSupervisedScore",
    "ShortFineTune",
    "TeacherAgreement",
    "Timer",
    "Timing",
    "TrialRecord",
    "UserFunction",
    "ValidationPSNR",
    "Variable",
    "Worker",
    "accept",
    "build",
    "choose_space",
    "interleaved_timer",
    "join",
    "open_storage",
    "plan_for",
    "preselect",
    "propose",
    "rank_choices",
    "realize",
    "run",
    "strategy_objective",
    "with_dtype",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "budget": "LatencyBudget",
        "candidate": "build plan_for realize with_dtype",
        "finalists": "Finalist accept preselect",
        "layer_table": "LayerTable",
        "objective": "KeptImportance Objective ShortFineTune UserFunction",
        "options": "SearchOptions",
        "receipt": "Receipt",
        "result": "SearchResult Timing TrialRecord",
        "scores": "Accuracy LogitAgreement OutputAgreement "
        "SelfSupervisedScore TeacherAgreement ValidationPSNR strategy_objective",
        "seeds": "propose",
        "space": "Configuration SearchSpace Variable choose_space rank_choices",
        "storage": "open_storage",
        "study": "Search run",
        "trial": "Timer interleaved_timer",
        "workers": "Worker join",
    },
)
