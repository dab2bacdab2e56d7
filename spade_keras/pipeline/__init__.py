"""The whole run of a recipe, by its task.

* searching: data -> train -> search -> prune -> fine-tune -> evaluate -> export
* transfer_run: data -> source -> original -> basis, channel, double, scratch -> evaluate -> export

Every stage is a function of the job that fills one folder; the next stages read it from there. So
a run that was stopped goes on where it was, and a stage can be looked at, or replaced, by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spade_keras.registry import lazy_attributes

if TYPE_CHECKING:
    from spade_keras.pipeline.closing import evaluate, export, report
    from spade_keras.pipeline.learning import make_data, train, train_rivals
    from spade_keras.pipeline.running import PIPELINES, closing_table, run
    from spade_keras.pipeline.slimming import finetune, prune, search_widths

__all__ = [
    "PIPELINES",
    "closing_table",
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

__getattr__ = lazy_attributes(
    __name__,
    {
        "closing": "evaluate export report",
        "learning": "make_data train train_rivals",
        "running": "PIPELINES closing_table run",
        "slimming": "finetune prune search_widths",
    },
)
