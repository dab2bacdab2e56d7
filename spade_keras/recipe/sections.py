"""The tables that every recipe has: each key with its type, range and default.

`run.task` decides what `[data]` and `[network]` hold: see `recipe.imaging` for reconstructions
and `recipe.transfer`. Nothing here imports keras.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from spade_keras.registry import CLASSIFIERS, IMPORTANCES, LABELED_SOURCES, STRATEGIES
from spade_keras.search.options import SearchOptions
from spade_keras.typing import NameIn, Table, Width

SAMPLES = {"digits": 1797}
"""Samples that a bundled source offers."""

# float16 would lose small gradients in training.
FullDtype = Annotated[str, AfterValidator(NameIn(("float32", "bfloat16")))]


class Section(Table):
    """One table of a recipe."""

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys.

        Each sentence opens with the keys to change; `rules.broken_rules` appends their values.
        """
        return iter(())


class Run(Section):
    """The task of the run, the place of its results, and the seed of everything random.

    `imports` are modules that register operators, networks and so on; the current folder is
    searched first.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    task: Literal["reconstruction", "classification", "transfer"] = "reconstruction"
    seed: int = Field(default=0, ge=0, lt=2**31)
    folder: str = Field(default="runs", min_length=1)
    imports: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...] = Field(
        default=(), max_length=20, strict=False
    )


class FullNetwork(Section):
    """The full network, before pruning; it computes in `dtype`."""

    dtype: FullDtype = "float32"


class LabeledData(Section):
    """Samples with a class each: a bundled source, or the arrays x and y of an `.npz` file.

    With `path` the source is not read; `size` is the side to which the bundled images are scaled.
    """

    source: Annotated[str, AfterValidator(NameIn(LABELED_SOURCES))] = "digits"
    path: str | None = None
    size: int = Field(default=32, ge=8, le=512)
    validation_samples: int = Field(default=300, ge=1)
    test_samples: int = Field(default=300, ge=1)

    @property
    def training_samples(self) -> int | None:
        """Samples that are left for training; None where a file decides."""
        if self.path is not None or self.source not in SAMPLES:
            return None
        return SAMPLES[self.source] - self.validation_samples - self.test_samples

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        yield from missing_file("data.path", self.path)
        left = self.training_samples
        if left is not None and left < 1:
            yield (
                "`data.validation_samples` + `data.test_samples` must be below "
                f"{SAMPLES[self.source]}, the samples of `{self.source}`, so that some are left "
                "to train on"
            )


class Classifier(FullNetwork):
    """A classifier: a bundled one, or any `.keras` file; with `path` the rest is not read."""

    name: Annotated[str, AfterValidator(NameIn(CLASSIFIERS))] = "convolutional"
    path: str | None = None
    filters: tuple[Width, ...] = Field(
        default=(32, 64, 64), min_length=1, max_length=16, strict=False
    )
    kernel_size: int = Field(default=3, ge=1, le=15)

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        yield from missing_file("network.path", self.path)
        yield from even_kernel("network.kernel_size", self.kernel_size)


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

    def mistakes(self) -> Iterator[str]:
        """Yields what is wrong between keys."""
        if self.on == "test" and _learns_truth(self.strategy):
            yield (
                f'`finetuning.on` must be "train" when `finetuning.strategy` is "{self.strategy}", '
                'which would learn the test set itself. "school" and "self_supervised" may tune on '
                "the test measurements"
            )


def _learns_truth(strategy: str) -> bool:
    """Tells whether a strategy, a registered one too, is judged against true images."""
    return getattr(STRATEGIES[strategy], "judged_as", None) == "supervised"


class Evaluation(Section):
    """The comparisons at the end."""

    rivals: bool = True


class Export(Section):
    """The exported networks, and how often full and slim are timed there."""

    format: Literal["saved_model"] = "saved_model"
    pairs: int = Field(default=50, ge=5)


class Recipe(Section):
    """Everything a run needs; see `recipes/` for commented examples.

    Every task has a schema of its own, which says what stands beside `run`: see `SCHEMAS`.

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
    """A full network, and a search for the slim one that meets a latency budget.

    Example:
        >>> from spade_keras.recipe import load_recipe
        >>> recipe = load_recipe("mri_unrolled_quickstart", ["search.latency_budget=0.4"])
        >>> recipe.search.latency_budget
        0.4
    """

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


def missing_file(key: str, path: str | None, *, or_folder: bool = False) -> Iterator[str]:
    """Yields a mistake if a given path does not exist."""
    if path is None:
        return
    found = Path(path).expanduser()
    if not (found.is_file() or (or_folder and found.is_dir())):
        what = "file or folder" if or_folder else "file"
        yield f"`{key}` must be an existing {what} (a relative one is looked up in {Path.cwd()})"


def even_kernel(key: str, size: int) -> Iterator[str]:
    """Yields a mistake if a kernel has no center."""
    if size % 2 == 0:
        yield f"`{key}` must be odd, so that the kernel has a center"


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
