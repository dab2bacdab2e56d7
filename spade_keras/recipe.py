"""Recipes: a TOML file and overrides become one validated, frozen configuration.

Nothing here imports keras, so a mistake is reported before any heavy import. Every mistake of a
recipe is reported at once: the schema below knows types and ranges, `recipe_rules` knows what must
hold between keys, and `recipe_problems` turns both into sentences.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from spade_keras import recipe_problems, recipe_rules
from spade_keras.errors import RecipeError
from spade_keras.recipe_problems import OneOf

# The names a recipe may use. They are spelled out so that this module needs no keras; a test
# asserts that they are those of the registries.
SOURCES = ("mni152",)
NETWORKS = ("unrolled_pgd",)
PRIORS = ("dncnn",)
IMPORTANCES = ("group_l1", "group_l2", "batch_norm_scale", "taylor", "fpgm", "lamp", "random")
SAMPLERS = ("tpe", "random")
STRATEGIES = ("school", "supervised", "self_supervised")

Source = Annotated[str, AfterValidator(OneOf(SOURCES))]
NetworkName = Annotated[str, AfterValidator(OneOf(NETWORKS, "spade_keras.networks:NETWORKS"))]
PriorName = Annotated[str, AfterValidator(OneOf(PRIORS, "spade_keras.networks.priors:PRIORS"))]
ImportanceName = Annotated[
    str, AfterValidator(OneOf(IMPORTANCES, "spade_keras.pruning:IMPORTANCES"))
]
Sampler = Annotated[str, AfterValidator(OneOf(SAMPLERS, "spade_keras.search:SAMPLERS"))]
Strategy = Annotated[str, AfterValidator(OneOf(STRATEGIES, "spade_keras.finetuning:STRATEGIES"))]
Filters = Annotated[int, Field(ge=1, le=4096)]


class Section(BaseModel):
    """One table of a recipe: frozen, no unknown keys, no silent conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Run(Section):
    """Where the results go, and the seed of everything random."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seed: int = Field(default=0, ge=0, lt=2**31)
    folder: str = Field(default="runs", min_length=1)


class Data(Section):
    """Images, simulated measurements and their split into slabs."""

    source: Source
    path: str | None = None
    height: int = Field(default=96, ge=16, le=1024)
    width: int = Field(default=96, ge=16, le=1024)
    coils: int = Field(default=4, ge=1, le=64)
    acceleration: int = Field(default=4, ge=1, le=64)
    acs_lines: int = Field(default=8, ge=0, le=1024)
    noise_std: float = Field(default=0.01, ge=0)
    validation_slices: int = Field(default=16, ge=1)
    test_slices: int = Field(default=16, ge=1)
    gap_slices: int = Field(default=6, ge=0)


class Prior(Section):
    """The denoiser inside the network; `filters` has one width per hidden convolution."""

    name: PriorName
    filters: tuple[Filters, ...] = Field(min_length=1, max_length=64, strict=False)
    kernel_size: int = Field(default=3, ge=1, le=15)


class Network(Section):
    """The full network, before pruning."""

    name: NetworkName
    iterations: int = Field(default=5, ge=1, le=100)
    prior: Prior


class Training(Section):
    """How the full network is trained."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)


class Pruning(Section):
    """Which channels go first."""

    importance: ImportanceName = "group_l1"


class Search(Section):
    """How the widths are found. `latency_budget` is a fraction of the full network's latency."""

    latency_budget: float = Field(gt=0, lt=1)
    trials: int = Field(default=30, ge=1)
    width_multiple: int = Field(default=4, ge=1)
    minimum_width: int = Field(default=4, ge=1)
    sampler: Sampler = "tpe"
    safety_margin: float = Field(default=0.03, ge=0, lt=1)
    pairs: int = Field(default=20, ge=5)


class FineTuning(Section):
    """How the slim network gets its quality back."""

    strategy: Strategy
    epochs: int = Field(ge=1)
    batch_size: int = Field(default=4, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    on: Literal["train", "test"] = "train"


class Evaluation(Section):
    """What is compared at the end."""

    rivals: bool = True


class Export(Section):
    """What leaves the toolkit, and how often full and slim are timed there."""

    format: Literal["saved_model"] = "saved_model"
    pairs: int = Field(default=50, ge=5)


class Recipe(Section):
    """Everything a run needs; see `recipes/` for commented examples.

    Example:
        >>> recipe = load_recipe("mri_unrolled_quickstart", ["search.latency_budget=0.4"])
        >>> recipe.search.latency_budget
        0.4
    """

    run: Run
    data: Data
    network: Network
    training: Training
    pruning: Pruning
    search: Search
    finetuning: FineTuning
    evaluation: Evaluation
    export: Export

    @property
    def run_folder(self) -> Path:
        """The folder that holds everything this run makes."""
        return Path(self.run.folder).expanduser() / self.run.name

    def to_toml(self) -> str:
        """Returns the resolved recipe, defaults and overrides included, as TOML."""
        return "\n".join(_toml_lines(self.model_dump(mode="json", exclude_none=True))) + "\n"


def shipped_recipes() -> dict[str, Path]:
    """Returns the recipes that come with the package: name -> file."""
    folder = Path(str(resources.files("spade_keras"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overrides and validates a recipe.

    Args:
        path_or_name: A TOML file, or the name of a shipped recipe (see `shipped_recipes`).
        overrides: Texts of the form `section.key=value`. The value is read as TOML; a bare word is
            a string.

    Returns:
        The validated recipe.

    Raises:
        RecipeError: With every mistake of the recipe and of the overrides.

    Example:
        >>> load_recipe("mri_unrolled_quickstart", ["finetuning.strategy=supervised"]).run.name
        'mri_unrolled_quickstart'
    """
    tables = _read_toml(_locate(path_or_name))
    problems: list[str] = []
    for override in overrides:
        _apply_override(tables, override, problems)
    return validate_recipe(tables, problems)


def validate_recipe(tables: dict[str, Any], problems: Sequence[str] = ()) -> Recipe:
    """Validates a recipe that was already read into nested dicts.

    Args:
        tables: Section name -> table, as `tomllib` returns it.
        problems: Mistakes found before, reported together with those found here.

    Returns:
        The validated recipe.

    Raises:
        RecipeError: With every mistake.
    """
    tables = recipe_problems.with_missing_sections(tables, Recipe)
    found = list(problems)
    faulty: set[tuple[str, ...]] = set()
    recipe = None
    try:
        recipe = Recipe.model_validate(tables)
    except ValidationError as error:
        for details in error.errors():
            found.append(recipe_problems.describe(details, Recipe))
            faulty.add(tuple(str(part) for part in details["loc"] if isinstance(part, str)))
    found.extend(recipe_rules.broken_rules(recipe_problems.Values(tables, Recipe, faulty)))
    if found or recipe is None:
        raise RecipeError(list(dict.fromkeys(found)))
    return recipe


def _locate(path_or_name: str | Path) -> Path:
    path = Path(path_or_name).expanduser()
    if path.is_file():
        return path
    shipped = shipped_recipes()
    name = str(path_or_name).removesuffix(".toml")
    if name in shipped:
        return shipped[name]
    near = difflib.get_close_matches(path.name.removesuffix(".toml"), shipped, n=1)
    hint = f" Did you mean `{near[0]}`?" if near else ""
    what = "is a folder" if path.is_dir() else "does not exist"
    raise RecipeError(
        [
            f"The recipe must be a TOML file or the name of a shipped recipe "
            f"({', '.join(shipped)}). Received: {path_or_name}, which {what}.{hint}"
        ]
    )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError([f"`{path}` is not valid TOML: {error}."]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"`{path}` cannot be read: {error}."]) from error


def _apply_override(tables: dict[str, Any], override: str, problems: list[str]) -> None:
    key, equals, text = override.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or len(parts) < 2 or not all(parts):
        problems.append(
            f"An override must read section.key=value, as in search.latency_budget=0.4. "
            f"Received: {override}"
        )
        return
    table = tables
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            problems.append(f"`{key}` cannot be set: `{part}` is not a table. Received: {override}")
            return
    table[parts[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


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
