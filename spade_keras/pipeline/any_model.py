"""The search of any saved model: from a `.keras` file to a slim one with a receipt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from spade_keras import search
from spade_keras.errors import JobMismatchError, MissingExtraError, SpadeError
from spade_keras.files import write_json_atomic
from spade_keras.pipeline.closing import front_panels, picture_of_any
from spade_keras.pipeline.progress import ProgressBar, trials_shown
from spade_keras.pipeline.search_folder import (
    JOURNAL,
    announce,
    claimed,
    kept_table,
    mark,
    read_announced,
    results,
)
from spade_keras.report import Remeasured, SearchFindings
from spade_keras.search.finalists import Finalist, accept, not_met, preselect
from spade_keras.search.objective import kept_shares
from spade_keras.search.receipt import read_receipt
from spade_keras.tasks.any_model import AnyModel, SearchJob


def search_model(
    job: SearchJob,
    folder: str | Path,
    console: Console,
    *,
    name: str = "search",
    task: AnyModel | None = None,
    warm_start: search.SearchResult | str | Path | None = None,
) -> search.SearchResult:
    """Searches a saved model and writes the slim one with its receipt.

    An interrupted search continues when it is run again.

    Args:
        job: The search to run.
        folder: Gets `RESULTS`; new, empty, or that of the same search.
        console: Where progress is shown.
        name: The study.
        task: The model and data of the job; None: they are loaded.
        warm_start: An earlier search or its folder; None: that of the options.

    Raises:
        BudgetNotMetError: If no candidate met the budget in fresh processes; `search.json` and
            the report are written first.
        JobMismatchError: If the folder or the study belongs to another search.
    """
    folder = Path(folder)
    warm_start = warm_start or job.options.warm_start
    if warm_start is not None and not isinstance(warm_start, search.SearchResult):
        warm_start = search.SearchResult.read(warm_start)
    with claimed(folder, job):
        this = _ModelSearch(job, console, task)
        place = job.options.storage or folder / JOURNAL
        opened = search.open_storage(place)
        known = read_announced(opened, name)
        if known is not None:
            job.check_same(known, f"The study {name!r}")
        table = this.choose_space(None if known is None else known.space)
        table = kept_table(folder, table)
        announce(opened, name, this.job)
        mark(folder, this.job)
        result = this.run(place, name, table, warm_start)
        with results(folder) as fresh:
            tried, accepted = this.accept(result, fresh)
            this.report(result, table, tried, accepted, fresh)
    if accepted is None:
        raise not_met(result, this.rejected, tried)
    return result


def join_search(
    storage: str,
    name: str,
    console: Console,
    *,
    model: str | Path | None = None,
    data: str | None = None,
    mix_devices: bool = False,
) -> search.SearchResult:
    """Works on a search that another process began, until it has all its trials.

    Args:
        storage: A journal file or a database's URL.
        name: The study.
        console: Where progress is shown.
        model: Path of the model on this machine; None: the recorded one.
        data: The data on this machine; None: the recorded ones.
        mix_devices: Whether to continue a study timed on another device.

    Raises:
        SpadeError: If there is no such study, or it was begun for other files or, unless
            `mix_devices`, on another device.
    """
    job = read_announced(search.open_storage(storage), name)
    if job is None:
        raise SpadeError(
            "`--study` must name a study that `spade-keras search` began in this storage. "
            f"Received: --study={name}. Begin it with: spade-keras search MODEL --data DATA "
            f"--budget BUDGET --storage STORAGE --study {name} -o FOLDER"
        )
    if job.backend != keras.backend.backend():
        raise JobMismatchError(
            f"The study {name!r} was begun under KERAS_BACKEND={job.backend}. Set the environment "
            f"variable so. Received: KERAS_BACKEND={keras.backend.backend()}"
        )
    options = job.options.model_copy(update={"mix_devices": mix_devices})
    job = job.elsewhere(model, data).model_copy(update={"options": options})
    return _ModelSearch(job, console).run(storage, name)


class _ModelSearch:
    """One search of a loaded model, from its space to its report."""

    def __init__(self, job: SearchJob, console: Console, task: AnyModel | None = None) -> None:
        self.job = job
        self.console = console
        self.task = task = task or AnyModel.load(job)
        self.rejected: list[Finalist] = []
        # A function that raises, or returns no number, is found out before anything is timed.
        self.say(f"full model: {task.score.name} {task.score(task.full):.4g}")

    def say(self, line: str) -> None:
        self.console.print(f"  {line}", highlight=False, soft_wrap=True)

    def choose_space(self, known: dict[str, Any] | None) -> search.LayerTable | None:
        """Adds what may be chosen to the job: what is known already, or what is measured here."""
        table = None
        if known is None:
            task = self.task
            with ProgressBar(self.console, "layer") as bar:
                space, table = search.choose_space(
                    task.full, task.sample, self.job.options, on_layer=bar.advance_to
                )
            known = space.as_dict()
        self.job = self.job.model_copy(update={"space": known})
        return table

    def run(
        self,
        storage: str | Path,
        name: str,
        table: search.LayerTable | None = None,
        warm_start: search.SearchResult | None = None,
    ) -> search.SearchResult:
        """Tries candidates until the study has its trials, or Ctrl-C is pressed."""
        job, task = self.job, self.task
        with trials_shown(self.console, job.options.trials) as show:
            return search.run(
                task.network,
                data=task.inputs,
                options=job.options,
                objective=task.objective,
                storage=storage,
                warm_start=warm_start,
                timer=task.timer(job.options.pairs),
                space=search.SearchSpace.from_dict(job.space or {}),
                table=table,
                importance=job.importance,
                calibration=task.calibration,
                seed=job.seed,
                name=name,
                on_trial=show,
            )

    def accept(
        self, result: search.SearchResult, folder: Path
    ) -> tuple[list[Finalist], Finalist | None]:
        """Accepts one of the contenders, whose files go into the folder."""
        task = self.task
        passing = preselect(
            task.full,
            result,
            count=self.job.options.finalists,
            timer=task.timer,
            pairs=self.job.options.pairs,
            rejected=self.rejected,
            say=self.say,
            calibration=task.calibration,
        )
        return accept(
            passing,
            full=task.full,
            full_path=Path(self.job.path),
            slim_path=folder / "slim.keras",
            inputs=task.inputs,
            budget=task.budget,
            score=task.score,
            finetune=task.finetune,
            imports=("spade_keras.networks", *self.job.imports),
            say=self.say,
        )

    def report(
        self,
        result: search.SearchResult,
        table: search.LayerTable | None,
        tried: list[Finalist],
        accepted: Finalist | None,
        folder: Path,
    ) -> None:
        """Writes `search.json` and the report."""
        from spade_keras.report import write_search_report  # replaced in tests

        task = self.task
        finalists = [finalist.as_dict() for finalist in (*self.rejected, *tried)]
        kept = {"result": result.as_dict(), "finalists": finalists}
        write_json_atomic(folder / "search.json", kept)
        picture = picture_of_any(task.full, task.inputs)
        shares = kept_shares(task.full) if result.space.variables else {}
        found = SearchFindings(
            result=result,
            table=table,
            receipt=None if accepted is None else read_receipt(folder / "receipt.json"),
            front_panels=front_panels(task.network, result, picture, task.calibration),
            importances={group: np.diff(k.shares).tolist() for group, k in shares.items()},
            chosen=None if accepted is None else accepted.trial,
            finalists=[Remeasured.from_dict(finalist) for finalist in finalists],
        )
        try:
            write_search_report(folder, found, title="Search")
        except MissingExtraError as error:
            self.say(f"report.html is left out: {error}")
