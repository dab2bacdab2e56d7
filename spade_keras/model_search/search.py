"""The search of a saved model, and of a worker that joins one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from rich.console import Console

from spade_keras import latency, pruning, search
from spade_keras.errors import BudgetNotMetError, JobMismatchError, MissingExtraError, SpadeError
from spade_keras.files import load_model, write_json_atomic
from spade_keras.model_search.data import load_data
from spade_keras.model_search.finalists import Finalist, FinalRound
from spade_keras.model_search.folder import JOURNAL, claimed, kept_table, mark, results
from spade_keras.model_search.front_panels import front_panels
from spade_keras.model_search.interruption import Interruption
from spade_keras.model_search.job import SearchJob, announce, read_announced
from spade_keras.model_search.quality import OutputAgreement
from spade_keras.model_search.user_functions import import_function, import_module
from spade_keras.pipeline.progress import ProgressBar
from spade_keras.search.acceptance import Compare
from spade_keras.search.evaluation import Timer
from spade_keras.search.kept_importance import kept_shares
from spade_keras.search.layer_insights import measured_space
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.receipt import in_budget_dtype, read_receipt
from spade_keras.search.storage import open_storage


class ModelSearch:
    """A search of one saved model, with everything that was loaded for it.

    Args:
        job: What to do.
        console: Where progress is shown.
        mix_devices: Whether a study timed on another device may go on.
        timer: Times a candidate; by default in turn with the full model.
    """

    def __init__(
        self,
        job: SearchJob,
        console: Console,
        *,
        mix_devices: bool = False,
        timer: Timer | None = None,
    ) -> None:
        for module in job.imports:
            import_module(module, "--import", job.folder)
        evaluate = import_function(job.evaluate, "--evaluate", job.folder) if job.evaluate else None
        self.network = load_model(job.path)
        self.inputs, _ = load_data(job.data, self.network, folder=job.folder)
        self.full = in_budget_dtype(self.network, job.budget)
        self.sample = latency.fill_batch(self.inputs, job.budget.batch_size)
        _check_fits(self.full, self.sample, job)
        self.objective: search.Objective = (
            search.UserFunction(evaluate)
            if evaluate
            else search.AsPruned(OutputAgreement(self.network, self.inputs))
        )
        # A function that raises, or returns no number, is found out before anything is timed.
        console.print(
            f"  full model: {self.objective.name} {self.objective(self.full):.4g}", highlight=False
        )
        self.job = job
        self.table: LayerTable | None = None
        self.console = console
        self._mix_devices = mix_devices
        self._timer = timer

    def choose_space(self) -> None:
        """Adds what may be chosen to the job, unless it says so already; may time layers."""
        job = self.job
        if job.space is not None:
            return
        options = {"multiple": job.multiple, "minimum": job.multiple, **_joint(self.full, job)}
        if job.staircase:
            with contextlib.ExitStack() as stack:
                shown = _Counter(stack, self.console)
                space, self.table = measured_space(
                    self.full, self.sample, on_layer=shown, **options
                )
        else:
            space = search.SearchSpace.from_groups(pruning.find_groups(self.full), **options)
        self.job = dataclasses.replace(job, space=space)

    def run(
        self,
        storage: str | Path,
        name: str,
        warm_start: search.SearchResult | None = None,
    ) -> search.SearchResult:
        """Tries candidates until the study has as many as the job asks for.

        Args:
            storage: A journal file or a database's URL.
            name: The study.
            warm_start: An earlier search, whose best configurations are tried first.

        Raises:
            KeyboardInterrupt: If Ctrl-C was pressed, after the trial under way.
        """
        job = self.job
        with Interruption() as interruption, ProgressBar(self.console, "trial", job.trials) as bar:

            def after(trial: search.TrialRecord) -> None:
                bar.advance(describe_trial(trial))
                interruption.check()

            return search.run(
                self.network,
                budget=job.budget,
                data=self.inputs,
                trials=job.trials,
                timeout_s=None if job.timeout_minutes is None else 60 * job.timeout_minutes,
                stagnation=job.stagnation,
                storage=storage,
                on_trial=after,
                objective=self.objective,
                space=job.space,
                table=self.table,
                pairs=job.pairs,
                sampler=job.sampler,
                pareto=job.pareto,
                seed=job.seed,
                seeds=job.seeds,
                warm_start=warm_start,
                name=name,
                mix_devices=self._mix_devices,
                **({} if self._timer is None else {"timer": self._timer}),
            )


def search_model(  # noqa: PLR0913 - one argument per command-line option
    job: SearchJob,
    folder: str | Path,
    console: Console,
    *,
    storage: str | None = None,
    name: str = "search",
    finalists: int = 1,
    finetune: str | None = None,
    warm_start: str | Path | None = None,
    mix_devices: bool = False,
    timer: Timer | None = None,
    compare: Compare | None = None,
) -> search.SearchResult:
    """Searches a saved model and writes the slim one with its receipt.

    A search that was killed at any moment goes on when it is run again.

    Args:
        job: What to do.
        folder: Gets `folder.RESULTS`; new, empty, or that of the same search.
        console: Where progress is shown.
        storage: A journal file or a database's URL; by default a journal in `folder`.
        name: The study.
        finalists: Candidates to measure again and fine-tune, of which the best is taken.
        finetune: "module:function", called with the slim and the full model.
        warm_start: The folder of an earlier search, whose best configurations are tried first.
        mix_devices: See `ModelSearch`.
        timer: See `ModelSearch`.
        compare: Times two files; by default in fresh processes.

    Returns:
        The search; the slim model and its receipt are in `folder`.

    Raises:
        BudgetNotMetError: If no candidate met the budget in fresh processes; `search.json` and
            the report are there all the same.
        JobMismatchError: If the folder or the study belongs to another search.
        UserCodeError: If a function of the user's raises.
        KeyboardInterrupt: If Ctrl-C was pressed.
    """
    folder = Path(folder)
    earlier = None if warm_start is None else read_search(warm_start)
    tuner = import_function(finetune, "--finetune", job.folder) if finetune else None
    with claimed(folder, job):
        task = ModelSearch(job, console, mix_devices=mix_devices, timer=timer)
        place = storage or folder / JOURNAL
        opened = open_storage(place)
        known = read_announced(opened, name)
        if known is not None:
            job.check_same(known, f"The study {name!r}")
            task.job = dataclasses.replace(job, space=known.space)
        task.choose_space()
        task.table = kept_table(folder, task.table)
        announce(opened, name, task.job)
        mark(folder, task.job)
        found = task.run(place, name, earlier)
        last = FinalRound(
            full=task.full,
            path=Path(job.path),
            sample=task.sample,
            budget=job.budget,
            quality=task.objective,
            console=console,
            finetune=tuner,
            imports=("spade_keras.networks", *job.imports),
            compare=compare,
        )
        with results(folder) as fresh:
            tried, best = last.hold(found, fresh, finalists)
            _report(fresh, found, task, tried, best)
    if best is None:
        missed = f" {len(tried)} met it in the search and missed it in fresh processes."
        raise BudgetNotMetError(found.failure() + (missed if tried else ""))
    return found


def join_search(
    storage: str,
    name: str,
    console: Console,
    *,
    model: str | Path | None = None,
    data: str | None = None,
    mix_devices: bool = False,
    timer: Timer | None = None,
) -> search.SearchResult:
    """Works on a search that another process began, until it has all its trials.

    Args:
        storage: A journal file or a database's URL.
        name: The study.
        console: Where progress is shown.
        model: Where the model is here; None: where it was there.
        data: Where the data are here; None: where they were there.
        mix_devices: See `ModelSearch`.
        timer: See `ModelSearch`.

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
    task = ModelSearch(job.elsewhere(model, data), console, mix_devices=mix_devices, timer=timer)
    return task.run(storage, name)


def read_search(folder: str | Path) -> search.SearchResult:
    """Reads the trials that `search_model` left in a folder.

    Args:
        folder: Its folder.

    Raises:
        ValueError: If there are none.
    """
    path = Path(folder) / "search.json"
    try:
        return search.SearchResult.from_dict(json.loads(path.read_text())["result"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            "`--warm-start` must be the folder of a finished `spade-keras search`. "
            f"Received: {folder}: {type(error).__name__}: {error}"
        ) from error


def describe_trial(trial: search.TrialRecord) -> str:
    """Says in a few words what became of a trial."""
    if trial.timing is None:
        return f"#{trial.number} failed: {trial.reason}"
    quality = "over budget" if trial.quality is None else f"quality {trial.quality:.4g}"
    return f"#{trial.number} {trial.origin}: ratio {trial.timing.latency_ratio:.3f}, {quality}"


class _Counter:
    """Shows how many layers were timed, once their number is known."""

    def __init__(self, stack: contextlib.ExitStack, console: Console) -> None:
        self._stack = stack
        self.console = console
        self._bar: ProgressBar | None = None
        self._shown = 0

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._stack.enter_context(ProgressBar(self.console, "layer", total))
        for _ in range(done - self._shown):
            self._bar.advance()
        self._shown = done


def _joint(network: keras.Model, job: SearchJob) -> dict[str, Any]:
    """What may be chosen besides widths, the network's own value where the space wants it."""
    joint: dict[str, Any] = {}
    if job.iterations:
        own = getattr(network, "iterations", None)
        if own is None or not 1 <= min(job.iterations) <= max(job.iterations) <= own:
            raise ValueError(
                "`--iterations` must be counts from 1 to the network's own, which is "
                f"{own or 'none: it does not iterate'}. Received: {list(job.iterations)}"
            )
        joint["iterations"] = sorted({*job.iterations, own})
    if job.drop_blocks:
        joint["blocks"] = [block.name for block in pruning.find_residual_blocks(network)]
    if job.dtypes:
        own = job.budget.dtype or keras.config.dtype_policy().compute_dtype
        joint["dtypes"] = list(dict.fromkeys((own, *job.dtypes)))
    if job.ranks:
        joint["ranks"] = search.rank_choices(network, multiple=job.multiple)
    return joint


def _check_fits(model: keras.Model, sample: Any, job: SearchJob) -> None:
    try:
        model(sample, training=False)
    except Exception as error:
        shapes = [tuple(array.shape) for array in keras.tree.flatten(sample)]
        said = str(error).strip().split("\n")[0]
        raise ValueError(
            f"`--data` must fit the model. Received: --data={job.data} with arrays of the shapes "
            f"{shapes}, on which {job.model.name} raises {type(error).__name__}: {said}"
        ) from error


def _report(
    folder: Path,
    found: search.SearchResult,
    task: ModelSearch,
    tried: list[Finalist],
    best: Finalist | None,
) -> None:
    from spade_keras.report import Remeasured, SearchFindings, write_search_report

    finalists = [finalist.as_dict() for finalist in tried]
    write_json_atomic(folder / "search.json", {"result": found.as_dict(), "finalists": finalists})
    kept = kept_shares(task.full) if found.space.variables else {}
    try:
        findings = SearchFindings(
            found,
            task.table,
            None if best is None else read_receipt(folder / "receipt.json"),
            front_panels(task.full, found, task.inputs),
            importances={group: np.diff(k.shares).tolist() for group, k in kept.items()},
            chosen=None if best is None else best.trial,
            finalists=[Remeasured.from_dict(finalist) for finalist in finalists],
        )
        write_search_report(folder, findings, title="Search")
    except MissingExtraError as error:
        task.console.print(f"  report.html is left out: {error}", highlight=False, soft_wrap=True)
