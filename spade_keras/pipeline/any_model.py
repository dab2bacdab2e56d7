"""The search of any saved model: from a `.keras` file to a slim one with a receipt."""

from __future__ import annotations

import contextlib
from pathlib import Path

import keras
import numpy as np
from rich.console import Console

from spade_keras import search
from spade_keras.errors import JobMismatchError, MissingExtraError, SpadeError
from spade_keras.files import write_json_atomic
from spade_keras.pipeline.front_panels import front_panels, picture_of_any
from spade_keras.pipeline.interruption import Interruption
from spade_keras.pipeline.progress import ProgressBar, describe_trial
from spade_keras.pipeline.search_folder import (
    JOURNAL,
    announce,
    claimed,
    kept_table,
    mark,
    read_announced,
    results,
)
from spade_keras.search.finalists import Compare, Finalist, accept, not_met, preselect
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.objective import kept_shares
from spade_keras.search.receipt import read_receipt
from spade_keras.search.result import SearchResult
from spade_keras.search.space import SearchSpace
from spade_keras.search.storage import open_storage
from spade_keras.search.trial import Timer
from spade_keras.tasks.any_model import AnyModel, SearchJob


def search_model(
    job: SearchJob,
    folder: str | Path,
    console: Console,
    *,
    name: str = "search",
    task: AnyModel | None = None,
    warm_start: SearchResult | str | Path | None = None,
    timer: Timer | None = None,
    compare: Compare | None = None,
) -> SearchResult:
    """Searches a saved model and writes the slim one with its receipt.

    An interrupted search continues when it is run again.

    Args:
        job: What to do.
        folder: Gets `RESULTS`; new, empty, or that of the same search.
        console: Where progress is shown.
        name: The study.
        task: The model and data of the job; None: they are loaded.
        warm_start: An earlier search or its folder; None: that of the options.
        timer: Times a candidate; by default interleaved with the full model.
        compare: Times two files; by default in fresh processes.

    Returns:
        The search; the slim model and its receipt are in `folder`.

    Raises:
        BudgetNotMetError: If no candidate met the budget in fresh processes; `search.json` and
            the report are written first.
        JobMismatchError: If the folder or the study belongs to another search.
        UserCodeError: If a user's function raises.
        KeyboardInterrupt: If Ctrl-C was pressed.
    """
    folder = Path(folder)
    warm_start = warm_start or job.options.warm_start
    if warm_start is not None and not isinstance(warm_start, SearchResult):
        warm_start = SearchResult.read(warm_start)
    with claimed(folder, job):
        task = _begin(job, console, task)
        place = job.options.storage or folder / JOURNAL
        opened = open_storage(place)
        known = read_announced(opened, name)
        table = None
        if known is not None:
            job.check_same(known, f"The study {name!r}")
            job = job.model_copy(update={"space": known.space})
        if job.space is None:
            space, table = _choose_space(task, console)
            job = job.model_copy(update={"space": space.as_dict()})
        table = kept_table(folder, table)
        announce(opened, name, job)
        mark(folder, job)
        result = _search(job, task, console, place, name, table, timer, warm_start)
        rejected: list[Finalist] = []
        with results(folder) as fresh:
            tried, accepted = _accept(job, task, console, result, fresh, rejected, timer, compare)
            _report(fresh, result, task, table, console, [*rejected, *tried], accepted)
    if accepted is None:
        raise not_met(result, rejected, tried)
    return result


def join_search(
    storage: str,
    name: str,
    console: Console,
    *,
    model: str | Path | None = None,
    data: str | None = None,
    mix_devices: bool = False,
    timer: Timer | None = None,
) -> SearchResult:
    """Works on a search that another process began, until it has all its trials.

    Args:
        storage: A journal file or a database's URL.
        name: The study.
        console: Where progress is shown.
        model: Where the model is here; None: where it was there.
        data: Where the data are here; None: where they were there.
        mix_devices: Whether to continue a study timed on another device.
        timer: See `search_model`.

    Returns:
        The search as it stands.

    Raises:
        SpadeError: If there is no such study, or it was begun for other files or, unless
            `mix_devices`, on another device.
        KeyboardInterrupt: If Ctrl-C was pressed.
    """
    job = read_announced(open_storage(storage), name)
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
    return _search(job, _begin(job, console), console, storage, name, timer=timer)


def _begin(job: SearchJob, console: Console, task: AnyModel | None = None) -> AnyModel:
    task = task or AnyModel.load(job)
    # A function that raises, or returns no number, is found out before anything is timed.
    value = task.score(task.full)
    console.print(f"  full model: {task.score.name} {value:.4g}", highlight=False)
    return task


def _choose_space(task: AnyModel, console: Console) -> tuple[SearchSpace, LayerTable | None]:
    with contextlib.ExitStack() as stack:
        bars: list[ProgressBar] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(ProgressBar(console, "layer", total)))
            bars[0].advance_to(done)

        return search.choose_space(task.full, task.sample, task.options, show)


def _search(
    job: SearchJob,
    task: AnyModel,
    console: Console,
    storage: str | Path,
    name: str,
    table: LayerTable | None = None,
    timer: Timer | None = None,
    warm_start: SearchResult | None = None,
) -> SearchResult:
    """Tries candidates until the study has its trials, or Ctrl-C is pressed."""
    options = job.options
    with Interruption() as interruption, ProgressBar(console, "trial", options.trials) as bar:

        def after(trial: search.TrialRecord) -> None:
            bar.advance(describe_trial(trial))
            interruption.check()

        return search.run(
            task.network,
            data=task.inputs,
            options=options,
            objective=task.objective,
            storage=storage,
            warm_start=warm_start,
            timer=timer or task.timer(options.pairs),
            space=SearchSpace.from_dict(job.space or {}),
            table=table,
            importance=job.importance,
            seed=job.seed,
            name=name,
            on_trial=after,
        )


def _accept(
    job: SearchJob,
    task: AnyModel,
    console: Console,
    result: SearchResult,
    folder: Path,
    rejected: list[Finalist],
    timer: Timer | None,
    compare: Compare | None,
) -> tuple[list[Finalist], Finalist | None]:
    def say(line: str) -> None:
        console.print(f"  {line}", highlight=False, soft_wrap=True)

    passing = preselect(
        task.full,
        result,
        timer=lambda pairs: timer or task.timer(pairs),
        pairs=job.options.pairs,
        rejected=rejected,
        say=say,
    )
    return accept(
        passing,
        count=job.options.finalists,
        full=task.full,
        full_path=Path(job.path),
        slim_path=folder / "slim.keras",
        inputs=task.inputs,
        budget=task.budget,
        score=task.score,
        finetune=task.finetune,
        imports=("spade_keras.networks", *job.imports),
        say=say,
        compare=compare,
    )


def _report(
    folder: Path,
    result: SearchResult,
    task: AnyModel,
    table: LayerTable | None,
    console: Console,
    finalists: list[Finalist],
    accepted: Finalist | None,
) -> None:
    from spade_keras.report import write_search_report

    content = result.as_dict()
    shown = [finalist.as_dict() for finalist in finalists]
    write_json_atomic(folder / "search.json", {"result": content, "finalists": shown})
    kept = kept_shares(task.full) if result.space.variables else {}
    receipt = None if accepted is None else read_receipt(folder / "receipt.json").as_dict()
    try:
        write_search_report(
            folder,
            content,
            None if table is None else table.as_dict(),
            receipt,
            front_panels(task.network, result, picture_of_any(task.full, task.inputs)),
            importances={group: np.diff(k.shares).tolist() for group, k in kept.items()},
            chosen=None if accepted is None else accepted.trial,
            finalists=shown,
            title="Search",
        )
    except MissingExtraError as error:
        console.print(f"  report.html is left out: {error}", highlight=False, soft_wrap=True)
