"""Reads a recipe: a TOML file and overrides become one validated, frozen configuration.

Validation has two phases, reported at once: first the types and ranges of all keys, then the rules
between them (`recipe.rules`), except those that would read a faulty key.
"""

from __future__ import annotations

import copy
import difflib
import tomllib
from collections.abc import Collection, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from spade_keras.errors import RecipeError, UserCodeError, UserFunctionError
from spade_keras.recipe import messages, rules
from spade_keras.recipe.schemas import schema_of
from spade_keras.recipe.sections import Recipe
from spade_keras.search.user_code import import_module


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

    Raises:
        RecipeError: With every mistake.
    """
    found = [*problems, *_import_modules(tables)]
    schema = schema_of(tables)
    tables = _with_missing_sections(tables, schema)
    try:
        recipe = schema.model_validate(tables)
        found += rules.broken_rules(recipe)
    except ValidationError as error:
        mistakes = error.errors()
        found += [messages.describe(details, schema) for details in mistakes]
        faulty = {messages.key_of(details, schema)[0] for details in mistakes}
        found += rules.broken_rules(_valid_part(tables, schema, faulty), partial=True)
    if found:
        raise RecipeError(list(dict.fromkeys(found)))
    return recipe


def _import_modules(tables: dict[str, Any]) -> list[str]:
    """Imports the modules of `run.imports`, found from the current folder first."""
    run = tables.get("run")
    names = run.get("imports") if isinstance(run, dict) else None
    problems = []
    for index, name in enumerate(names if isinstance(names, list) else ()):
        if not isinstance(name, str) or not all(map(str.isidentifier, name.split("."))):
            continue  # The schema reports it.
        try:
            import_module(name, argument="run.imports")
        except (UserFunctionError, UserCodeError) as error:
            cause = error.__cause__
            problems.append(
                f"`run.imports` must name modules in {Path.cwd()} or installed ones. Received: "
                f'run.imports[{index}]="{name}", which fails: {type(cause).__name__}: {cause}'
            )
    return problems


def _with_missing_sections(tables: dict[str, Any], schema: type[BaseModel]) -> dict[str, Any]:
    """A copy with an empty table for each missing section, so that its keys are reported."""
    completed = copy.deepcopy(tables)
    for name, field in schema.model_fields.items():
        if (section := messages.section_in(field)) is not None:
            table = completed.setdefault(name, {})
            if isinstance(table, dict):
                completed[name] = _with_missing_sections(table, section)
    return completed


def _valid_part(
    tables: dict[str, Any], schema: type[BaseModel], faulty: Collection[tuple[str, ...]]
) -> Any:
    """A recipe of the valid keys alone: to read another one raises AttributeError."""
    values: dict[str, Any] = {}
    for name, field in schema.model_fields.items():
        below = {path[1:] for path in faulty if path[0] == name}
        if () in below:
            continue
        if (section := messages.section_in(field)) is not None:
            values[name] = _valid_part(tables[name], section, below)
        else:
            values[name] = tables.get(name, field.default)
    part = schema.model_construct(**values)
    for name in schema.model_fields.keys() - values.keys():
        part.__dict__.pop(name, None)
    return part


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
    problem = (
        f"The recipe must be a TOML file or the name of a shipped recipe ({', '.join(shipped)}). "
        f"Received: {path_or_name}, which {what}.{hint}"
    )
    raise RecipeError([problem])


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
