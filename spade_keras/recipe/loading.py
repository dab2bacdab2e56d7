"""Recipes: a TOML file and overrides become one validated, frozen configuration.

Nothing here imports keras, so a mistake is reported before any heavy import. Every mistake of a
recipe is reported at once: the schema of its task (`recipe.sections`) knows types and ranges,
`recipe.rules` knows what must hold between keys, and `recipe.messages` turns both into sentences.
"""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from spade_keras.errors import RecipeError
from spade_keras.recipe import messages, rules
from spade_keras.recipe.data import DATA
from spade_keras.recipe.networks import RECONSTRUCTION_NETWORKS, Unrolled
from spade_keras.recipe.sections import (
    Classifier,
    Evaluation,
    Export,
    FineTuning,
    FullNetwork,
    LabeledData,
    NetworkName,
    Pruning,
    Run,
    Search,
    Section,
    Source,
    Training,
)
from spade_keras.recipe.transfer import (
    TransferData,
    TransferEvaluation,
    TransferNetwork,
    TransferPruning,
    TransferTraining,
)

# A name this near to a known one is taken for it, so that its other keys are checked too.
_NEAR = 0.85


class Recipe(Section):
    """Everything a run needs; see `recipes/` for commented examples.

    Every task has a schema of its own, which says what stands beside `run`: see `SCHEMAS`.

    Example:
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
        >>> recipe = load_recipe("mri_unrolled_quickstart", ["search.latency_budget=0.4"])
        >>> recipe.search.latency_budget
        0.4
    """

    data: Section
    network: FullNetwork
    training: Training
    pruning: Pruning
    search: Search
    finetuning: FineTuning
    evaluation: Evaluation
    export: Export


class ReconstructionRecipe(SearchRecipe):
    """A network that reconstructs images from measurements.

    What `data` and `network` hold depends on their names: see `recipe.data`, `recipe.networks`.
    """


class ClassificationRecipe(SearchRecipe):
    """A network that tells classes apart."""

    data: LabeledData
    network: Classifier


class TransferRecipe(Recipe):
    """A network that is transferred to a small task, and pruned there by components and channels.

    Example:
        >>> load_recipe("classifier_basis_scaling", ["network.name=resnet"]).network.weights
        'source'
    """

    data: TransferData
    network: TransferNetwork
    training: TransferTraining
    pruning: TransferPruning
    evaluation: TransferEvaluation
    export: Export


SCHEMAS: dict[str, type[Recipe]] = {
    "reconstruction": ReconstructionRecipe,
    "classification": ClassificationRecipe,
    "transfer": TransferRecipe,
}
"""What a recipe holds, by its `run.task`."""


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
    schema = _schema(tables)
    tables = messages.with_missing_sections(tables, schema)
    found = list(problems)
    faulty: set[tuple[str, ...]] = set()
    recipe = None
    try:
        recipe = schema.model_validate(tables)
    except ValidationError as error:
        for details in error.errors():
            found.append(messages.describe(details, schema))
            faulty.add(tuple(str(part) for part in details["loc"] if isinstance(part, str)))
    found.extend(rules.broken_rules(messages.Values(tables, schema, faulty)))
    if found or recipe is None:
        raise RecipeError(list(dict.fromkeys(found)))
    return recipe


def _schema(tables: dict[str, Any]) -> type[Recipe]:
    """The schema of the task; of the nearest one where its name is wrong, which is reported."""
    task = _named(tables, "run", "task")
    near = difflib.get_close_matches(task or "", SCHEMAS, n=1)
    schema = SCHEMAS[near[0] if near else "reconstruction"]
    if schema is not ReconstructionRecipe:
        return schema
    source = _named(tables, "data", "source") or "mni152"
    network = _named(tables, "network", "name") or "unrolled_pgd"
    return _reconstruction_schema(
        _nearest(source, DATA) or _UnknownData,
        _nearest(network, {**_registered_networks(), **RECONSTRUCTION_NETWORKS}) or _UnknownNetwork,
    )


def _named(tables: dict[str, Any], section: str, key: str) -> str | None:
    """The name that decides what a section holds; None where there is none."""
    table = tables.get(section)
    name = table.get(key) if isinstance(table, dict) else None
    return None if name is None else str(name)


@functools.cache
def _reconstruction_schema(data: type[Section], network: type[Section]) -> type[Recipe]:
    return create_model(
        "ReconstructionRecipe",
        __base__=ReconstructionRecipe,
        data=(data, ...),
        network=(network, ...),
    )


def _nearest(name: str, sections: dict[str, type[Section]]) -> type[Section] | None:
    near = difflib.get_close_matches(name, sections, n=1, cutoff=_NEAR)
    return sections[near[0]] if near else None


def _registered_networks() -> dict[str, type[Section]]:
    """Networks that a user registered take what the unrolled one takes."""
    names = messages.allowed_names(Unrolled, "name")
    return dict.fromkeys(names, Unrolled)


class _UnknownData(Section):
    """Data of an unknown source, of which nothing else can be said."""

    model_config = ConfigDict(extra="ignore")

    source: Source


class _UnknownNetwork(FullNetwork):
    """A network of an unknown name, of which nothing else can be said."""

    model_config = ConfigDict(extra="ignore")

    name: NetworkName


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
