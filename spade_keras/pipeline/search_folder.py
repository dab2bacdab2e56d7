"""The folder of a search of any model, claimed by one process; and the job kept with its study."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import optuna

from spade_keras.errors import JobMismatchError
from spade_keras.files import write_json_atomic
from spade_keras.pipeline.run_folder import Stages
from spade_keras.search.layer_table import LayerTable
from spade_keras.search.storage import describe_storage, quiet_optuna, storage_errors
from spade_keras.tasks.any_model import SearchJob

JOURNAL = "study.journal"
FULL = "full.keras"
"""The searched model, where it came from memory."""
RESULTS = ("search.json", "report.json", "report.html", "plan.json", "slim.keras", "receipt.json")
"""The files that a search writes; the receipt is moved in last and removed first."""

_JOB, _TABLE, _ATTRIBUTE = "job.json", "layers.json", "job"


@contextlib.contextmanager
def claimed(folder: Path, job: SearchJob) -> Iterator[None]:
    """Holds a folder that is new, empty, or that of the same search; refuses others."""
    marker = folder / _JOB
    others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    own = (".lock", FULL)
    strange = [name for name in others if name not in own and not name.startswith(JOURNAL)]
    if not marker.exists() and (strange or (folder.exists() and not folder.is_dir())):
        raise JobMismatchError(
            f"`-o` must be a new or empty folder, or that of the same search (with a {_JOB}). "
            f"Received: -o {folder}, which holds {', '.join(sorted(strange)[:5]) or 'a file'}. "
            "Choose another folder."
        )
    with Stages(folder):
        if marker.exists():
            try:
                kept = SearchJob.model_validate_json(marker.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise JobMismatchError(
                    f"{marker} cannot be read, so it is unknown which search the folder holds: "
                    f"{error}. Choose another folder."
                ) from error
            job.check_same(kept, f"The folder {folder}")
        yield


def mark(folder: Path, job: SearchJob) -> None:
    """Makes a claimed folder that of a search, once it is known that the search can begin."""
    write_json_atomic(folder / _JOB, job)


@contextlib.contextmanager
def results(folder: Path) -> Iterator[Path]:
    """Yields an empty folder, whose files replace the earlier results at the end.

    A receipt is only ever there beside the files it refers to.
    """
    fresh = folder / ".attempt-results"  # leftovers go when the folder is claimed
    fresh.mkdir()
    try:
        yield fresh
        for name in reversed(RESULTS):
            (folder / name).unlink(missing_ok=True)
        for name in RESULTS:
            if (fresh / name).exists():
                os.replace(fresh / name, folder / name)
    finally:
        shutil.rmtree(fresh)


def kept_table(folder: Path, table: LayerTable | None) -> LayerTable | None:
    """Keeps the layers' times for when the search is resumed, or returns those kept."""
    path = folder / _TABLE
    if table is not None:
        write_json_atomic(path, table.as_dict())
        return table
    try:
        return LayerTable.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise JobMismatchError(
            f"{path} cannot be read: {error}. Remove it to continue without the layers' times."
        ) from error


def announce(storage: optuna.storages.BaseStorage, name: str, job: SearchJob) -> None:
    """Keeps a job with its study, made if need be, so that workers need the study's name alone."""
    with storage_errors(storage), quiet_optuna():
        study = optuna.create_study(
            study_name=name,
            storage=storage,
            directions=["maximize", "minimize"] if job.options.pareto else ["maximize"],
            load_if_exists=True,
        )
        known = study.user_attrs.get(_ATTRIBUTE)
        where = f"The study {name!r} in {describe_storage(storage)}"
        if known is not None:
            job.check_same(SearchJob.model_validate_json(json.dumps(known)), where)
        elif study.user_attrs:
            raise JobMismatchError(
                f"{where} was not begun by `spade-keras search`. Choose another one (--study)."
            )
        study.set_user_attr(_ATTRIBUTE, job.model_dump(mode="json"))


def read_announced(storage: optuna.storages.BaseStorage, name: str) -> SearchJob | None:
    """Returns the job kept with a study; None if there is no such study, or it has none."""
    with storage_errors(storage):
        if name not in optuna.get_all_study_names(storage):
            return None
        study = optuna.load_study(study_name=name, storage=storage)
        content = study.user_attrs.get(_ATTRIBUTE)
    return None if content is None else SearchJob.model_validate_json(json.dumps(content))
