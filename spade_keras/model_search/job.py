"""What a search of a model is asked to do, as kept with its study for other workers."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import optuna

from spade_keras.errors import JobMismatchError
from spade_keras.model_search.data import is_file
from spade_keras.search import SAMPLERS, SEEDS, LatencyBudget, SearchSpace
from spade_keras.search.model_identity import ModelIdentity
from spade_keras.search.precision import POLICIES
from spade_keras.search.storage import describe_storage, quiet_optuna, storage_errors

_ATTRIBUTE = "job"
_TUPLES = ("imports", "iterations", "dtypes", "seeds")
# What a study's trials depend on; the rest may change when a search goes on.
_FIXED = ("model", "data_sha256", "evaluate", "budget", "pareto", "backend")


@dataclass(frozen=True)
class SearchJob:
    """A search of a saved model.

    Args:
        path: The `.keras` file.
        model: Which file it was.
        data: The held-out data: an `.npz` file or "module:function".
        budget: What the latency must meet.
        folder: Where the user's modules are.
        data_sha256: Of the file of data; None for a function.
        evaluate: "module:function" that scores a model; None: agreement with the full one.
        imports: Modules that register the model's own classes.
        pareto: Whether to search the whole front.
        sampler: A key of `search.SAMPLERS`.
        seed: Of the sampler.
        seeds: Keys of `search.SEEDS`, families of configurations that are tried first.
        pairs: Timed windows per candidate.
        trials: Finished trials to end with.
        timeout_minutes: After which no new trial starts.
        stagnation: Trials without a better one after which the search ends.
        multiple: Widths are multiples of it.
        staircase: Whether each group's widths are timed first and only the edges kept.
        iterations: Iteration counts to choose from, for networks that iterate.
        drop_blocks: Whether residual blocks may be left out.
        dtypes: What the layers may compute in, besides their own.
        ranks: Whether layers may become pairs of layers of lower rank.
        space: What may be chosen, once it is known.
        backend: The Keras backend.

    Raises:
        ValueError: If a sampler, a family of seeds or a dtype is unknown.
    """

    path: str
    model: ModelIdentity
    data: str
    budget: LatencyBudget
    folder: str
    data_sha256: str | None = None
    evaluate: str | None = None
    imports: tuple[str, ...] = ()
    pareto: bool = False
    sampler: str = "tpe"
    seed: int = 0
    seeds: tuple[str, ...] = tuple(SEEDS)
    pairs: int = 10
    trials: int = 60
    timeout_minutes: float | None = None
    stagnation: int | None = None
    multiple: int = 8
    staircase: bool = True
    iterations: tuple[int, ...] = ()
    drop_blocks: bool = False
    dtypes: tuple[str, ...] = ()
    ranks: bool = False
    space: SearchSpace | None = None
    backend: str = dataclasses.field(default_factory=keras.backend.backend)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(
                f"`sampler` must be one of {sorted(SAMPLERS)}. Received: sampler={self.sampler}"
            )
        unknown = sorted(set(self.seeds) - set(SEEDS))
        if unknown:
            raise ValueError(f"`seeds` must be among {list(SEEDS)}. Received: {unknown}")
        unknown = sorted(set(self.dtypes) - set(POLICIES))
        if unknown:
            raise ValueError(f"`dtypes` must be among {list(POLICIES)}. Received: {unknown}")

    @classmethod
    def of(
        cls,
        model: str | Path,
        data: str,
        budget: LatencyBudget,
        *,
        folder: str | Path | None = None,
        **options: Any,
    ) -> SearchJob:
        """Describes a search, with hashes of its files.

        Args:
            model: The `.keras` file.
            data: See `SearchJob`; a file's path is relative to the current folder.
            budget: See `SearchJob`.
            folder: Where the user's modules are; by default the current folder.
            **options: Other fields.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        located, data_sha256 = _locate(data)
        return cls(
            path=str(Path(model).resolve()),
            model=ModelIdentity.of(model),
            data=located,
            budget=budget,
            folder=str(Path(folder or ".").resolve()),
            data_sha256=data_sha256,
            **options,
        )

    def elsewhere(self, model: str | Path | None = None, data: str | None = None) -> SearchJob:
        """Returns the job for a worker that has its files in another place.

        Args:
            model: Its `.keras` file; None: the recorded path.
            data: Its data; None: the recorded ones.

        Raises:
            JobMismatchError: If a file is not the one that the job was made for.
            ValueError: If one cannot be read.
        """
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
        if data_sha256 != self.data_sha256 and self.data_sha256 is not None:
            raise JobMismatchError(
                "`--data` must be the file that the study was begun with, with sha256 "
                f"{self.data_sha256[:16]}... Received: --data={located}"
            )
        folder = self.folder if Path(self.folder).is_dir() else str(Path.cwd())
        return dataclasses.replace(self, path=str(path.resolve()), data=located, folder=folder)

    def check_same(self, other: SearchJob, where: str) -> None:
        """Refuses to go on with a search that was begun for something else.

        Args:
            other: The job kept at `where`.
            where: A study or a folder, for the message.

        Raises:
            JobMismatchError: Names every difference.
        """
        differences = [
            f"{name} was {_plain(then)}, is {_plain(now)}"
            for name in _FIXED
            if (then := getattr(other, name)) != (now := getattr(self, name))
            and not (name == "model" and now.matches(then))
        ]
        if differences:
            raise JobMismatchError(
                f"{where} belongs to another search: {'; '.join(differences)}. Choose another "
                "folder (-o) or study (--study), or give the same arguments to go on."
            )

    def as_dict(self) -> dict[str, Any]:
        """Returns plain JSON values, which `from_dict` reads."""
        return {
            **dataclasses.asdict(self),
            "space": None if self.space is None else self.space.as_dict(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> SearchJob:
        """Reads what `as_dict` returned."""
        space = content["space"]
        return cls(
            **{
                **content,
                "model": ModelIdentity.from_dict(content["model"]),
                "budget": LatencyBudget(**content["budget"]),
                **{
                    name: tuple(content[name])
                    for name in ("imports", "iterations", "dtypes", "seeds")
                },
                "space": None if space is None else SearchSpace.from_dict(space),
            }
        )


def announce(storage: optuna.storages.BaseStorage, name: str, job: SearchJob) -> None:
    """Keeps a job with its study, so that workers need the study's name alone.

    Args:
        storage: As `search.open_storage` returns it.
        name: The study; it is made if it is missing.
        job: The job.

    Raises:
        JobMismatchError: If the study belongs to another search.
    """
    with storage_errors(storage), quiet_optuna():
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=["maximize", "minimize"] if job.pareto else ["maximize"],
            load_if_exists=True,
        )
        known = study.user_attrs.get(_ATTRIBUTE)
        where = f"The study {name!r} in {describe_storage(storage)}"
        if known is not None:
            job.check_same(SearchJob.from_dict(known), where)
        elif study.user_attrs:
            raise JobMismatchError(
                f"{where} was not begun by `spade-keras search`. Choose another one (--study)."
            )
        study.set_user_attr(_ATTRIBUTE, job.as_dict())


def read_announced(storage: optuna.storages.BaseStorage, name: str) -> SearchJob | None:
    """Returns the job kept with a study; None if there is no such study, or it has none.

    Args:
        storage: As `search.open_storage` returns it.
        name: The study.
    """
    with storage_errors(storage):
        if name not in optuna.get_all_study_names(storage):
            return None
        study = optuna.load_study(study_name=name, storage=storage)
        content = study.user_attrs.get(_ATTRIBUTE)
    return None if content is None else SearchJob.from_dict(content)


def _locate(data: str) -> tuple[str, str | None]:
    if not is_file(data):
        return data, None
    path = Path(data).resolve()
    try:
        return str(path), hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(
            f"`--data` must be an .npz file or module:function. Received: --data={data}: {error}"
        ) from error


def _plain(value: Any) -> str:
    if isinstance(value, ModelIdentity):
        return f"{value.name} with sha256 {value.sha256[:16]}..."
    return str(value)
