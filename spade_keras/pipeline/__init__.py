"""The whole run of a recipe: data -> train -> search -> prune -> fine-tune -> evaluate -> export.

Every stage is a function of the job that fills one folder; the next stages read it from there. So
a run that was stopped goes on where it was, and a stage can be looked at, or replaced, by itself.
"""

from spade_keras.pipeline.closing import evaluate, export, report
from spade_keras.pipeline.learning import make_data, train, train_rivals
from spade_keras.pipeline.running import run
from spade_keras.pipeline.slimming import finetune, prune, search_widths

__all__ = [
    "evaluate",
    "export",
    "finetune",
    "make_data",
    "prune",
    "report",
    "run",
    "search_widths",
    "train",
    "train_rivals",
]
