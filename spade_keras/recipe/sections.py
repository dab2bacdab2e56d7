"""The tables that every recipe has, and those of a classification."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from spade_keras.registry import CLASSIFIERS, IMPORTANCES, LABELED_SOURCES, STRATEGIES
from spade_keras.search.options import SearchOptions
from spade_keras.typing import NameIn, Table, Width

SAMPLES = {"digits": 1797}  # of bundled sources


class Existing:
    """A pydantic validator: the value is the path of a file, or of a folder where that is allowed.

    Args:
        kinds: "file" or "file or folder".
    """

    def __init__(self, kinds: str) -> None:
        self._kinds = kinds

    @property
    def allowed(self) -> str:
        """What a value must be, for messages."""
        return f"an existing {self._kinds} (a relative one is looked up in {Path.cwd()})"

    def __call__(self, value: str) -> str:
        """Returns the path of what exists; pydantic reports the mistake otherwise."""
        path = Path(value).expanduser()
        if not (path.is_file() or ("folder" in self._kinds and path.is_dir())):
            raise PydanticCustomError("no_file", "no such file")
        return value


ExistingFile = Annotated[str, AfterValidator(Existing("file"))]
FileOrFolder = Annotated[str, AfterValidator(Existing("file or folder"))]
# float16 would lose small gradients in training.
FullDtype = Annotated[str, AfterValidator(NameIn(("float32", "bfloat16")))]
Module = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
# Odd, so that a kernel has a center.
KernelSize = Literal[1, 3, 5, 7, 9, 11, 13, 15]


class Section(Table):
    """One table of a recipe."""


Rule = Callable[..., Iterator[str]]
RULES: list[Rule] = []
"""Rules that tables must meet; `rules.broken_rules` checks them."""


def rule(function: Rule) -> Rule:
    """Adds a rule: it applies where the tables named by its arguments have these types.

    It yields sentences that open with the keys to change; their values are appended.
    """
    RULES.append(function)
    return function


class Run(Section):
    """The task, place and seed of a run, and modules to import, which may register new names."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    task: Literal["reconstruction", "classification", "transfer"] = "reconstruction"
    seed: int = Field(default=0, ge=0, lt=2**31)
    folder: str = Field(default="runs", min_length=1)
    imports: tuple[Module, ...] = Field((), max_length=20, strict=False)


class FullNetwork(Section):
    """The full network, before pruning; it computes in `dtype`."""

    dtype: FullDtype = "float32"


class LabeledData(Section):
    """Samples with a class each: a bundled source, or the arrays x and y of an `.npz` file.

    With `path` the source is not read; `size` is the side to which the bundled images are scaled.
    """

    source: Annotated[str, AfterValidator(NameIn(LABELED_SOURCES))] = "digits"
    path: ExistingFile | None = None
    size: int = Field(default=32, ge=8, le=512)
    validation_samples: int = Field(default=300, ge=1)
    test_samples: int = Field(default=300, ge=1)

    @property
    def training_samples(self) -> int | None:
        """Samples that are left for training; None where a file decides."""
        if self.path is not None or self.source not in SAMPLES:
            return None
        return SAMPLES[self.source] - self.validation_samples - self.test_samples


class Classifier(FullNetwork):
    """A classifier: a bundled one, or any `.keras` file; with `path` the rest is not read."""

    name: Annotated[str, AfterValidator(NameIn(CLASSIFIERS))] = "convolutional"
    path: ExistingFile | None = None
    filters: tuple[Width, ...] = Field((32, 64, 64), min_length=1, max_length=16, strict=False)
    kernel_size: KernelSize = 3


class Training(Section):
    """The training of the full network; 0 epochs take one from a file as it is.

    Without true images the loss has two parts: consistency, for which the share `splitting` of the
    sampled points is kept from the network each time, and `equivariance_weight` x equivariance.
    """

    strategy: Literal["supervised", "self_supervised"] = "supervised"
    epochs: int = Field(ge=0)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    splitting: float = Field(default=0.0, ge=0, lt=1)
    equivariance_weight: float = Field(default=1.0, ge=0)


class Pruning(Section):
    """The criterion by which channels are removed."""

    importance: Annotated[str, AfterValidator(NameIn(IMPORTANCES))] = "group_l1"


class FineTuning(Section):
    """The fine-tuning of the slim network; see `Training` for the last two keys."""

    strategy: Annotated[str, AfterValidator(NameIn(STRATEGIES))]
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    on: Literal["train", "test"] = "train"
    splitting: float = Field(default=0.0, ge=0, lt=1)
    equivariance_weight: float = Field(default=1.0, ge=0)


class Evaluation(Section):
    """The comparisons at the end."""

    rivals: bool = True


class Export(Section):
    """The exported networks, and how often full and slim are timed there."""

    format: Literal["saved_model"] = "saved_model"
    pairs: int = Field(default=50, ge=5)


class Recipe(Section):
    """Everything a run needs; the schema of its task, in `SCHEMAS`, says what stands beside `run`.

    Example:
        >>> from spade_keras.recipe import load_recipe
        >>> load_recipe("mri_unrolled_quickstart", ["run.seed=3"]).run.seed
        3
    """

    run: Run

    @property
    def run_folder(self) -> Path:
        """The folder that holds everything this run makes."""
        return Path(self.run.folder).expanduser() / self.run.name

    def to_toml(self) -> str:
        """Returns the resolved recipe, defaults and overrides included, as TOML."""
        return "\n".join(_toml_lines(self.model_dump(mode="json", exclude_none=True))) + "\n"


class SearchRecipe(Recipe):
    """A full network, and a search for the slim one that meets a latency budget."""

    data: Section
    network: FullNetwork
    training: Training
    pruning: Pruning
    search: SearchOptions
    finetuning: FineTuning
    evaluation: Evaluation
    export: Export


class ClassificationRecipe(SearchRecipe):
    """A network that tells classes apart."""

    data: LabeledData
    network: Classifier


def _toml_lines(table: dict[str, Any], prefix: str = "") -> list[str]:
    """One table after another; its values stand before its sub-tables, as TOML asks."""
    lines = []
    for key, value in table.items():
        if not isinstance(value, dict):
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{key} = {text}")
    for key, value in table.items():
        if isinstance(value, dict):
            name = f"{prefix}{key}"
            lines += ["", f"[{name}]", *_toml_lines(value, f"{name}.")]
    return lines if prefix else lines[1:]
