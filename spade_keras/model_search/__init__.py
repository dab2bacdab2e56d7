"""Searching any saved model: from a `.keras` file to a slim one with a latency receipt."""

from spade_keras.errors import JobMismatchError, UserCodeError
from spade_keras.model_search.finalists import Finalist, FinalRound
from spade_keras.model_search.folder import JOURNAL, RESULTS
from spade_keras.model_search.job import SearchJob
from spade_keras.model_search.quality import OutputAgreement
from spade_keras.model_search.search import join_search, search_model

__all__ = [
    "JOURNAL",
    "RESULTS",
    "FinalRound",
    "Finalist",
    "JobMismatchError",
    "OutputAgreement",
    "SearchJob",
    "UserCodeError",
    "join_search",
    "search_model",
]
