"""The whole loop for a model in memory: `spade_keras.optimize`."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import keras
import numpy as np
from rich.console import Console

from spade_keras import search
from spade_keras.errors import MissingExtraError
from spade_keras.files import load_model, save_model, write_bytes_atomic
from spade_keras.pipeline.any_model import search_model
from spade_keras.pipeline.search_folder import FULL
from spade_keras.pruning import PruningPlan
from spade_keras.search.candidate import in_dtype, realize
from spade_keras.search.finalists import FineTune
from spade_keras.search.options import SearchFields, SearchOptions
from spade_keras.search.receipt import Receipt, read_receipt
from spade_keras.tasks.any_model import AnyModel, Evaluate, SearchJob


@dataclass(frozen=True)
class Optimized:
    """A model made to meet a latency budget.

    Attributes:
        model: The slim model.
        plan: The plan of blocks, channels and ranks.
        receipt: The measurement it was accepted by.
        result: All trials of the search.
        network: The full model.
        page: The report as HTML; None where matplotlib or jinja2 is not installed.
    """

    model: keras.Model
    plan: PruningPlan
    receipt: Receipt
    result: search.SearchResult
    network: keras.Model
    page: bytes | None = None

    def build(self, trial: search.TrialRecord | None = None) -> keras.Model:
        """Builds the configuration of a trial, not fine-tuned; by default the accepted one."""
        if trial is not None:
            return self.result.build(self.network, trial)
        full = in_dtype(self.network, self.result.budget.dtype)
        return realize(full, self.receipt.configuration, self.plan)

    def report(self, path: str | Path) -> Path:
        """Writes the report of the search to an HTML file that opens offline; returns its path."""
        if self.page is None:
            raise MissingExtraError("matplotlib", "report")
        write_bytes_atomic(path, self.page)
        return Path(path)


def optimize(  # noqa: PLR0913 - every setting is a keyword of its own
    model: keras.Model,
    budget: search.LatencyBudget | float | str,
    *,
    data: Any,
    evaluate: Evaluate | None = None,
    finetune: FineTune | None = None,
    importance: str = "group_l1",
    seed: int = 0,
    folder: str | Path | None = None,
    imports: tuple[str, ...] = (),
    verbose: bool = True,
    **fields: Unpack[SearchFields],
) -> Optimized:
    """Makes a model meet a latency budget, measured on this device, at the best quality.

    Args:
        model: A built Keras model, trained; it is left as it is.
        budget: Limit on the latency: 0.5 (of the model's), "8ms", "p99<=8ms",
            "throughput>=200/s", or a `LatencyBudget`.
        data: Held-out inputs in the structure the model takes, samples first.
        evaluate: Scores a model, higher is better; None: agreement with `model`.
        finetune: Called with a slim model and `model`; trains the slim one in place, or returns
            another to take. None: the slim model is as pruned.
        importance: Criterion by which channels are kept.
        seed: Seed of the sampler.
        folder: Keeps the results, and lets an interrupted search continue; None: a temporary one.
        imports: Modules that register classes of the model's own.
        verbose: Whether to show progress.
        **fields: Fields of `SearchOptions`, such as `trials`.

    Raises:
        BudgetNotMetError: If no candidate met the budget in fresh processes.

    Example:
        found = sk.optimize(model, budget="0.5", data=x)
        found.model.save("slim.keras")
    """
    given: dict[str, Any] = dict(fields)
    objective, warm_start = (given.pop(name, None) for name in ("objective", "warm_start"))
    named = objective if isinstance(objective, str | None) else None
    options = SearchOptions.of(budget, objective=named, **given)
    inputs = keras.tree.map_structure(np.asarray, data)
    task = AnyModel(
        model,
        inputs,
        options,
        evaluate=evaluate,
        finetune=finetune,
        objective=objective if isinstance(objective, search.Objective) else None,
    )
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        save_model(model, place / FULL)
        job = SearchJob.of(
            place / FULL,
            "",
            options,
            data_sha256=_digest(inputs),
            evaluate=evaluate and _name(evaluate),
            finetune=finetune and _name(finetune),
            imports=imports,
            importance=importance,
            seed=seed,
        )
        console = Console(quiet=not verbose)
        result = search_model(job, place, console, task=task, warm_start=warm_start)
        page = place / "report.html"
        receipt = read_receipt(place / "receipt.json")
        return Optimized(
            model=load_model(place / "slim.keras"),
            plan=receipt.plan,
            receipt=receipt,
            result=result,
            network=model,
            page=page.read_bytes() if page.exists() else None,
        )


def _digest(inputs: Any) -> str:
    digest = hashlib.sha256()
    for array in keras.tree.flatten(inputs):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _name(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
