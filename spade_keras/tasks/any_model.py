"""Any saved model: its held-out data, its judge and its fine-tuning, given by the user."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Self

import keras
from pydantic import AfterValidator, Field

from spade_keras import latency, search
from spade_keras.errors import JobMismatchError
from spade_keras.files import load_model
from spade_keras.pruning import calibrate
from spade_keras.registry import IMPORTANCES
from spade_keras.search.candidate import in_dtype
from spade_keras.search.finalists import FineTune, finetuned
from spade_keras.search.objective import Report
from spade_keras.search.options import SearchOptions
from spade_keras.search.receipt import ModelIdentity
from spade_keras.search.user_code import import_module, load_function
from spade_keras.tasks.model_inputs import check_data, is_file, load_data
from spade_keras.typing import NameIn, Table

Evaluate = Callable[[keras.Model], float]
"""Scores a model, higher is better."""


class SearchJob(Table):
    """A search of a saved model, as kept in its folder and with its study for other workers.

    Args:
        path: The `.keras` file.
        model: Identity of the file.
        data: The held-out data: an `.npz` file or "module:function".
        options: The options of the search, the budget among them.
        folder: Folder of the user's modules.
        data_sha256: Hash of the data; None for a function.
        evaluate: "module:function" that scores a model; None: agreement with the full one.
        finetune: "module:function", called with the slim and the full model.
        imports: Modules that register the model's own classes.
        importance: Criterion by which channels are kept.
        seed: Seed of the sampler.
        space: `SearchSpace.as_dict()`, once it is known.
        backend: The Keras backend.
    """

    path: str
    model: ModelIdentity
    data: str
    options: SearchOptions
    folder: str
    data_sha256: str | None = None
    evaluate: str | None = None
    finetune: str | None = None
    imports: tuple[str, ...] = Field(default=(), strict=False)
    importance: Annotated[str, AfterValidator(NameIn(IMPORTANCES))] = "group_l1"
    seed: int = 0
    space: dict[str, Any] | None = None
    backend: str = Field(default_factory=lambda: str(keras.backend.backend()))

    @classmethod
    def of(
        cls,
        model: str | Path,
        data: str,
        options: SearchOptions,
        *,
        folder: str | Path = ".",
        **fields: Any,
    ) -> Self:
        """Describes a search, with hashes of its files; `fields` are others of `SearchJob`.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        located, data_sha256 = _locate(data)
        IMPORTANCES.check(fields.get("importance", "group_l1"))
        return cls(
            path=str(Path(model).resolve()),
            model=ModelIdentity.of(model),
            data=located,
            options=options,
            folder=str(Path(folder).resolve()),
            **{"data_sha256": data_sha256, **fields},
        )

    def elsewhere(self, model: str | Path | None = None, data: str | None = None) -> Self:
        """Returns the job for a worker with the model and data elsewhere, if they are the same."""
        path = Path(model or self.path)
        if not path.is_file():
            raise ValueError(
                f"`--model` must be the model that is searched, {self.model.name}: the path "
                f"recorded with the study is not there. Received: --model={path}"
            )
        found = ModelIdentity.of(path)
        if not found.matches(self.model):
            raise JobMismatchError(
                "`--model` must be the model that the study was begun for, with sha256 "
                f"{self.model.sha256[:16]}... Received: --model={path} with sha256 "
                f"{found.sha256[:16]}..."
            )
        located, data_sha256 = _locate(data or self.data)
        if self.data_sha256 not in (None, data_sha256):
            raise JobMismatchError(
                "`--data` must be the file that the study was begun with, with sha256 "
                f"{str(self.data_sha256)[:16]}... Received: --data={located}"
            )
        folder = self.folder if Path(self.folder).is_dir() else str(Path.cwd())
        moved = {"path": str(path.resolve()), "data": located, "folder": folder}
        return self.model_copy(update=moved)

    def check_same(self, other: SearchJob, where: str) -> None:
        """Refuses to continue a search that was started with other settings, and names them.

        Args:
            other: The job kept at `where`.
            where: A study or a folder, for the message.
        """
        before, now = other._fixed(), self._fixed()
        if self.model.matches(other.model):  # its name and path may differ
            del before["model"], now["model"]
        differences = [f"{k} was {before[k]}, is {now[k]}" for k in now if before[k] != now[k]]
        if differences:
            raise JobMismatchError(
                f"{where} belongs to another search: {'; '.join(differences)}. Choose another "
                "folder (-o) or study (--study), or give the same arguments to continue."
            )

    def _fixed(self) -> dict[str, Any]:
        """The settings that trials depend on; the others may change when a search continues."""
        return {
            "data_sha256": self.data_sha256,
            "evaluate": self.evaluate,
            "importance": self.importance,
            "budget": str(self.options.budget),
            "safety_margin": self.options.safety_margin,
            "objective": self.options.objective,
            "pareto": self.options.pareto,
            "backend": self.backend,
            "model": f"{self.model.name} with sha256 {self.model.sha256[:16]}...",
        }


class AnyModel:
    """A model to be searched, with everything that judges its candidates.

    Args:
        network: The trained model.
        inputs: Held-out inputs, samples first.
        options: The options of the search.
        evaluate: Scores a model; None: agreement with the full model.
        finetune: See `finalists.FineTune`.
        objective: Objective in place of `options.objective`.

    Attributes:
        full: The model in the dtype of the budget.
        calibration: Its statistics on the inputs, where candidates are compensated.
        score: Judges finalists in their final form, and candidates unless the options say
            otherwise.
        objective: The objective of the search; "kept_importance" by its name.
    """

    def __init__(
        self,
        network: keras.Model,
        inputs: Any,
        options: SearchOptions,
        *,
        evaluate: Evaluate | None = None,
        finetune: FineTune | None = None,
        objective: search.Objective | None = None,
    ) -> None:
        check_data(inputs, None, "data")
        self.network = network
        self.inputs = inputs
        self.options = options
        self.finetune = finetune
        self.budget = options.budget
        self.full = in_dtype(network, self.budget.dtype)
        self.sample = latency.fill_batch(inputs, self.budget.batch_size)
        self._check_fits()
        self.calibration = calibrate(self.full, inputs) if options.compensate else None
        self.score: search.Objective = (
            search.OutputAgreement(network, inputs)
            if evaluate is None
            else search.UserFunction(evaluate)
        )
        self.objective = objective or self._objective()

    @classmethod
    def load(cls, job: SearchJob) -> Self:
        """Loads the model, data and functions that a job names."""
        for module in job.imports:
            import_module(module, folder=job.folder)
        functions: dict[str, Any] = {
            name: load_function(spec, argument=f"--{name}", folder=job.folder)
            for name in ("evaluate", "finetune")
            if (spec := getattr(job, name)) is not None
        }
        network = load_model(job.path)
        inputs, _ = load_data(job.data, network, folder=job.folder)
        return cls(network, inputs, job.options, **functions)

    def timer(self, pairs: int) -> search.Timer:
        """Returns the timer of candidates, interleaved with the full model."""
        return search.interleaved_timer(
            self.full,
            self.inputs,
            pairs=pairs,
            batch_size=self.budget.batch_size,
            single_calls=self.budget.single_calls,
        )

    def _objective(self) -> search.Objective | str:
        """Judged as pruned unless asked otherwise: a user's fine-tuning may take hours."""
        asked = self.options.objective
        if asked != "short_finetune":
            return asked if asked == "kept_importance" else self.score
        if self.finetune is None:
            raise ValueError(
                "`objective` may be short_finetune only with `finetune`, your function that trains "
                "a candidate. Received: objective='short_finetune'"
            )
        return _AfterFineTune(self.score, self.finetune, self.full)

    def _check_fits(self) -> None:
        try:
            self.full(self.sample, training=False)
        except Exception as error:
            shapes = [tuple(array.shape) for array in keras.tree.flatten(self.sample)]
            said = str(error).strip().split("\n")[0]
            raise ValueError(
                f"`data` must fit the model. Received: arrays of the shapes {shapes}, on which "
                f"{self.network.name} raises {type(error).__name__}: {said}"
            ) from error


class _AfterFineTune(search.Objective):
    """A score after the user's fine-tuning of the candidate."""

    def __init__(self, score: search.Objective, finetune: FineTune, full: keras.Model) -> None:
        self.name = f"{score.name} after fine-tuning"
        self._score, self._finetune, self._full = score, finetune, full

    def __call__(self, candidate: keras.Model, report: Report | None = None) -> float:
        return self._score(finetuned(self._finetune, candidate, self._full))

    def as_pruned(self, candidate: keras.Model) -> float:
        return self._score(candidate)


def _locate(data: str) -> tuple[str, str | None]:
    """The place of the data, and the hash of their file."""
    if not data or not is_file(data):
        return data, None
    path = Path(data).resolve()
    try:
        return str(path), hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(
            f"`--data` must be an .npz file or module:function. Received: --data={data}: {error}"
        ) from error
